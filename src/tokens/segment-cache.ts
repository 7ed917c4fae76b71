/**
 * Token ids of whole stretches of text between special tokens, least recently used first out. A stretch is encoded alone whatever stands
 * around it, so a later turn of a conversation finds its earlier messages here and encodes only the new one. Bounded in bytes.
 */

/** Shorter stretches are as quickly encoded as found. */
const leastUnits = 64;
const mostUnits = 256 * 1024;
/** Of the map's entry and the array's header. */
const entryBytes = 160;

export class SegmentCache {
  readonly #ids = new Map<string, Uint32Array>();
  readonly #maxBytes: number;
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get sizeBytes(): number {
    return this.#bytes;
  }

  get(segment: string): Uint32Array | undefined {
    if (segment.length < leastUnits) return undefined;
    const ids = this.#ids.get(segment);
    if (ids === undefined) return undefined;
    this.#ids.delete(segment);
    this.#ids.set(segment, ids);
    return ids;
  }

  /** Keeps copies of both. */
  set(segment: string, ids: Uint32Array): void {
    if (segment.length < leastUnits || segment.length > mostUnits || this.#maxBytes === 0 || this.#ids.has(segment))
      return;
    const size = costOf(segment, ids);
    if (size > this.#maxBytes / 4) return;
    this.#ids.set(ownCopy(segment), ids.slice());
    this.#bytes += size;
    for (const [oldest, oldestIds] of this.#ids) {
      if (this.#bytes <= this.#maxBytes) break;
      this.#ids.delete(oldest);
      this.#bytes -= costOf(oldest, oldestIds);
    }
  }
}

function costOf(segment: string, ids: Uint32Array): number {
  return segment.length * 2 + ids.length * 4 + entryBytes;
}

/** A substring keeps the whole prompt it was cut from alive; this one does not. */
function ownCopy(text: string): string {
  return Buffer.from(text, "utf16le").toString("utf16le");
}
