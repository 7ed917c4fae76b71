/** Asks a worker's local indexer over the request plane. The answer's bytes come in one piece and are not copied. */
import type { PayloadCodec } from "../../dynamo/encoding/value-reader.ts";
import { encodeRecoveryQuestion } from "../../dynamo/kv-events/recovery-query.ts";
import type { EventSourceRecord } from "../../dynamo/records.ts";
import type { RequestPlane } from "../../dynamo/request-plane/contracts.ts";
import { AnswerMemory } from "./answer-memory.ts";

export interface RecoveryBytes {
  readonly codec: PayloadCodec;
  readonly bytes: Buffer;
  /** To be called when the bytes are not needed any more. Idempotent. */
  readonly release?: () => void;
}

/** Rejects when the worker cannot be asked or breaks off. `startEventId` undefined asks for everything. */
export type RecoveryQuery = (
  source: EventSourceRecord,
  startEventId: number | undefined,
  signal: AbortSignal,
) => Promise<RecoveryBytes>;

export class RecoveryError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.name = "RecoveryError";
    this.code = code;
  }
}

/** A rank of 10 M blocks dumps a good gigabyte: the bound is there for a worker that lies. */
const maxAnswerBytes = 2 * 1024 * 1024 * 1024 - 1;

/** Of `answerTimeoutMs`, from the question to the answer's last byte: a worker that drips holds up nobody for long. */
const longestAnswer = 4;

export function createRecoveryQuery(
  plane: RequestPlane,
  answerTimeoutMs: number,
  memory: AnswerMemory = new AnswerMemory(),
): RecoveryQuery {
  return (source, startEventId, signal) =>
    new Promise((resolve, reject) => {
      const { recovery, workerId, dpRank } = source;
      if (recovery === undefined) return reject(new RecoveryError("no-recovery", "the source keeps no past"));
      const { codec } = recovery;
      let bytes: Buffer | undefined;
      const body = encodeRecoveryQuestion({ workerId, dpRank, startEventId }, codec);
      let heldBytes = 0;
      const release = (): void => {
        memory.give(heldBytes);
        heldBytes = 0;
      };
      const options = {
        codec,
        maxItemBytes: Math.min(maxAnswerBytes, memory.totalBytes),
        answerTimeoutMs,
        idleTimeoutMs: answerTimeoutMs,
        // One answer is one item: what comes behind it is not waited for.
        admitsItem: (sizeBytes: number) => {
          if (bytes !== undefined || !memory.take(sizeBytes)) return false;
          heldBytes += sizeBytes;
          return true;
        },
      };
      const over = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", onAbort);
      };
      const giveUp = (code: string, message: string): void => {
        over();
        call.cancel();
        release();
        reject(new RecoveryError(code, message));
      };
      const onAbort = (): void => giveUp("cancelled", "the recovery was cancelled");
      const timer = setTimeout(
        () => giveUp("too-slow", `the worker's answer is not complete after ${longestAnswer * answerTimeoutMs} ms`),
        longestAnswer * answerTimeoutMs,
      );
      const call = plane.call(recovery, body, options, {
        item: (data) => {
          bytes ??= data;
        },
        ended: (end) => {
          over();
          if (end.kind === "complete" && bytes !== undefined) return resolve({ codec, bytes, release });
          release();
          if (end.kind === "failed") reject(new RecoveryError(end.reason, end.message));
          else reject(new RecoveryError("empty", "the worker answered with nothing"));
        },
      });
      if (signal.aborted) onAbort();
      else signal.addEventListener("abort", onAbort, { once: true });
    });
}
