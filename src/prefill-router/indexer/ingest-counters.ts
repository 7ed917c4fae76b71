/** What became of the KV events, counted, for metrics and for the debug page. */

export interface IngestCounters {
  messages: number;
  stored: number;
  removed: number;
  cleared: number;
  blocks: number;
  /** Events at or below the cursor: seen already. */
  stale: number;
  gaps: number;
  /** Event ids that no recovery could supply. */
  skippedIds: number;
  recoveriesStarted: number;
  recoveryAttempts: number;
  recoveriesDone: number;
  recoveriesFailed: number;
  treeDumps: number;
  readonly dropped: Record<IngestDropReason, number>;
}

export type IngestDropReason =
  /** The publisher is none that discovery maps to a worker. */
  | "unknown-source"
  | "malformed"
  /** The events are of another worker or rank than the source speaks for. */
  | "foreign-events"
  /** More arrived while a recovery ran than is buffered. */
  | "overflow"
  | "unknown-parent"
  | "invalid-block"
  | "index-full"
  | "foreign-domain"
  | "unknown-tier"
  | "orphan-position";

export function createIngestCounters(): IngestCounters {
  return {
    messages: 0,
    stored: 0,
    removed: 0,
    cleared: 0,
    blocks: 0,
    stale: 0,
    gaps: 0,
    skippedIds: 0,
    recoveriesStarted: 0,
    recoveryAttempts: 0,
    recoveriesDone: 0,
    recoveriesFailed: 0,
    treeDumps: 0,
    dropped: {
      "unknown-source": 0,
      malformed: 0,
      "foreign-events": 0,
      overflow: 0,
      "unknown-parent": 0,
      "invalid-block": 0,
      "index-full": 0,
      "foreign-domain": 0,
      "unknown-tier": 0,
      "orphan-position": 0,
    },
  };
}
