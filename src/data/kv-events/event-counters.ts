/** What became of engine events, for metrics and for /debug: blocks for what was applied, events for what was not. */
export interface EventCounters {
  batches: number;
  /** Blocks. */
  stored: number;
  removed: number;
  /** Times a rank was emptied. */
  cleared: number;
  /** Events that do not count: another place, another cache group, another owner, a chain that hangs from itself. */
  filtered: number;
  /** Stored events after a block nobody heard of. */
  unknownParent: number;
  /** Stored events whose blocks have another size than the configuration says. */
  otherBlockSize: number;
  /** Stored events with fewer tokens than blocks. */
  withoutTokens: number;
  /** Stored events there was no room for. */
  full: number;
  /** Batches and single events that could not be read. */
  malformed: number;
  /** Batches that were missed and could not be had again. */
  gaps: number;
  /** Replays asked for, and those that ended early. */
  replays: number;
  failedReplays: number;
  /** Times an engine was seen to have begun anew. */
  restarts: number;
  /** Messages of a publisher that is no endpoint. */
  unknownPublisher: number;
}

export function createEventCounters(): EventCounters {
  return {
    batches: 0,
    stored: 0,
    removed: 0,
    cleared: 0,
    filtered: 0,
    unknownParent: 0,
    otherBlockSize: 0,
    withoutTokens: 0,
    full: 0,
    malformed: 0,
    gaps: 0,
    replays: 0,
    failedReplays: 0,
    restarts: 0,
    unknownPublisher: 0,
  };
}
