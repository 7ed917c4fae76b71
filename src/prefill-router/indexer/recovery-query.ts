/** Asks a worker's local indexer over the request plane. The answer's bytes come in one piece and are not copied. */
import type { PayloadCodec } from "../../dynamo/encoding/value-reader.ts";
import { encodeRecoveryQuestion } from "../../dynamo/kv-events/recovery-query.ts";
import type { EventSourceRecord } from "../../dynamo/records.ts";
import type { RequestPlane } from "../../dynamo/request-plane/contracts.ts";

export interface RecoveryBytes {
  readonly codec: PayloadCodec;
  readonly bytes: Buffer;
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

export function createRecoveryQuery(plane: RequestPlane, answerTimeoutMs: number): RecoveryQuery {
  return (source, startEventId, signal) =>
    new Promise((resolve, reject) => {
      const { recovery, workerId, dpRank } = source;
      if (recovery === undefined) return reject(new RecoveryError("no-recovery", "the source keeps no past"));
      const { codec } = recovery;
      let bytes: Buffer | undefined;
      const body = encodeRecoveryQuestion({ workerId, dpRank, startEventId }, codec);
      const options = { codec, maxItemBytes: maxAnswerBytes, answerTimeoutMs, idleTimeoutMs: answerTimeoutMs };
      const onAbort = (): void => {
        call.cancel();
        reject(new RecoveryError("cancelled", "the recovery was cancelled"));
      };
      const call = plane.call(recovery, body, options, {
        item: (data) => {
          bytes ??= data;
        },
        ended: (end) => {
          signal.removeEventListener("abort", onAbort);
          if (end.kind === "failed") reject(new RecoveryError(end.reason, end.message));
          else if (bytes === undefined) reject(new RecoveryError("empty", "the worker answered with nothing"));
          else resolve({ codec, bytes });
        },
      });
      if (signal.aborted) onAbort();
      else signal.addEventListener("abort", onAbort, { once: true });
    });
}
