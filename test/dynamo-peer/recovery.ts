/**
 * A worker's request plane as far as a router needs it: it listens, takes recovery queries for its ranks and dials back with what their caches
 * answer. Whatever else is asked is taken and never answered.
 */
import { decode, encode } from "@msgpack/msgpack";
import { type FakeWorker, startFakeWorker, type TakenRequest } from "../unit/dynamo/request-plane/fake-worker.ts";
import type { PeerCache } from "./cache.ts";

/** "silent": takes the question and never dials back; "lies": answers with what is no answer. */
export type RecoveryManner = "honest" | "silent" | "refuses" | "lies";

export interface Question {
  readonly dpRank: number;
  /** Undefined: everything was asked for. */
  readonly startEventId: number | undefined;
}

export interface RecoveryServer {
  /** "host:port". */
  readonly address: string;
  readonly questions: readonly Question[];
  manner: RecoveryManner;
  close(): Promise<void>;
}

export async function startRecoveryServer(
  cacheAt: (path: string, dpRank: number) => PeerCache | undefined,
): Promise<RecoveryServer> {
  const questions: Question[] = [];
  const state = { manner: "honest" as RecoveryManner };
  const answerTo = (request: TakenRequest): unknown => {
    const question = questionOf(request.body);
    const cache = cacheAt(request.path, question.dpRank);
    if (cache === undefined) return undefined;
    questions.push(question);
    switch (state.manner) {
      case "honest":
        return cache.answer(question.startEventId);
      case "refuses":
        return { Error: "the indexer is busy" };
      case "lies":
        return { TreeDump: { events: [{ worker_id: 1 }], last_event_id: "many" } };
      case "silent":
        return undefined;
      default:
        return state.manner satisfies never;
    }
  };
  const worker = await startFakeWorker((request, from) => {
    const answer = answerTo(request);
    if (answer !== undefined) void reply(from, request, answer);
  });
  const { transport } = worker.instance;
  return {
    address: transport.kind === "tcp" ? transport.address : "",
    questions,
    get manner() {
      return state.manner;
    },
    set manner(manner) {
      state.manner = manner;
    },
    close: () => worker.close(),
  };
}

async function reply(from: FakeWorker, request: TakenRequest, answer: unknown): Promise<void> {
  const line = await from.dial(request).catch(() => undefined);
  // Who asked has gone.
  if (line === undefined) return;
  line.header({ error: null });
  line.item(Buffer.from(encode({ data: answer, complete_final: false }, { useBigInt64: true })));
  line.item(Buffer.from(encode({ data: null, complete_final: true })));
  line.header("sentinel");
}

function questionOf(body: Buffer): Question {
  const { dp_rank: dpRank, start_event_id: start } = decode(body, { useBigInt64: true }) as {
    readonly dp_rank: number | bigint;
    readonly start_event_id: number | bigint | null;
  };
  return { dpRank: Number(dpRank), startEventId: start === null ? undefined : Number(start) };
}
