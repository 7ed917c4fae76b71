/**
 * The memory that answers of workers may take together until they are in the index: what finds no room is asked for again later. A quarter of
 * what the process may have, as every one of them is promised in full before its first byte.
 */
import { totalmem } from "node:os";

const mostBytes = 4 * 1024 * 1024 * 1024;

export class AnswerMemory {
  readonly totalBytes: number;
  #freeBytes: number;

  constructor(totalBytes: number = defaultTotalBytes()) {
    this.totalBytes = totalBytes;
    this.#freeBytes = totalBytes;
  }

  get freeBytes(): number {
    return this.#freeBytes;
  }

  take(sizeBytes: number): boolean {
    if (sizeBytes > this.#freeBytes) return false;
    this.#freeBytes -= sizeBytes;
    return true;
  }

  give(sizeBytes: number): void {
    this.#freeBytes += sizeBytes;
  }
}

function defaultTotalBytes(): number {
  const constrained = process.constrainedMemory();
  const available = constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
  return Math.min(mostBytes, Math.floor(available / 4));
}
