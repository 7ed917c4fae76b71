/** What a KvEventIngest is made of and bounded by, and what it says of its sources. */
import type { Holder } from "../../data/prefix-index/kv-index.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { WorkerRank } from "../contracts.ts";
import type { IngestIndex } from "./event-applier.ts";
import type { BufferLimits, SourceState } from "./rank-source.ts";
import type { RecoveryQuery } from "./recovery-query.ts";

export interface IngestLimits {
  readonly concurrentRecoveries: number;
  readonly attempts: number;
  readonly firstBackoffMs: number;
  /** After all attempts failed: until everything is asked for again. */
  readonly degradedRetryMs: number;
  /** After first contact, and after the event plane was away: whether something came between subscription and dump is asked once. */
  readonly settleMs: number;
  readonly sliceMs: number;
  /** Longer messages are not applied at once. */
  readonly inlineBytes: number;
  readonly buffer: BufferLimits;
}

export const ingestDefaults: IngestLimits = {
  concurrentRecoveries: 16,
  attempts: 8,
  firstBackoffMs: 200,
  degradedRetryMs: 30_000,
  settleMs: 1000,
  sliceMs: 3,
  inlineBytes: 16 * 1024,
  buffer: { events: 16_384, bytes: 16 * 1024 * 1024, totalBytes: 512 * 1024 * 1024 },
};

export interface KvEventIngestOptions {
  readonly index: IngestIndex;
  readonly query: RecoveryQuery;
  readonly log: Logger;
  /** The number under which a rank's blocks stand in the index; undefined when the rank has none any more. */
  readonly holderChanged: (rank: WorkerRank, holder: Holder | undefined) => void;
  readonly limits?: Partial<IngestLimits>;
}

export interface SourceStatus extends WorkerRank {
  readonly publisherId: bigint;
  readonly state: SourceState;
  readonly cursor: number;
  readonly isDegraded: boolean;
  readonly waitingMessages: number;
}
