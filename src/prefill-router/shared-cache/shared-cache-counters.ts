/** What became of the events of a worker set's shared caches, for metrics and for /debug. */
export interface SharedCacheCounters {
  batches: number;
  /** Events of parts of pages that the layout has. */
  stored: number;
  removed: number;
  /** Events of other objects: another model's, another layout's. */
  foreign: number;
  /** Events that do not say which object they are about. */
  keyless: number;
  /** Messages that cannot be read. */
  malformed: number;
  /** Times that batches were missed and all was forgotten. */
  gaps: number;
  /** Times that there were too many pages and all were forgotten. */
  overflows: number;
  disconnects: number;
}

export function createSharedCacheCounters(): SharedCacheCounters {
  return {
    batches: 0,
    stored: 0,
    removed: 0,
    foreign: 0,
    keyless: 0,
    malformed: 0,
    gaps: 0,
    overflows: 0,
    disconnects: 0,
  };
}
