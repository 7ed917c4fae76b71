/**
 * Gathers the gRPC messages of one tick and writes them with few writes: small ones joined in one buffer, large parts as they are. Parts
 * are read at `writeTo`, so the caller leaves them unchanged after `add`.
 */
const prefixBytes = 5;
/** Up to this size everything is copied into one buffer: cheaper than a vector of small writes. */
const coalesceBytes = 16 * 1024;
/** In a larger flush a part of this size is worth a write of its own. */
const largeBytes = 4 * 1024;

/** What is needed of a stream. */
export interface MessageOutput {
  cork(): void;
  uncork(): void;
  write(bytes: Uint8Array, written?: () => void): unknown;
}

export class MessageWriter {
  /** Bytes waiting, prefixes included. */
  queuedBytes: number;
  private messages: (readonly Uint8Array[])[];
  /** Of each message, without prefix. */
  private sizes: number[];

  constructor() {
    this.queuedBytes = 0;
    this.messages = [];
    this.sizes = [];
  }

  add(parts: readonly Uint8Array[], sizeBytes: number): void {
    this.messages.push(parts);
    this.sizes.push(sizeBytes);
    this.queuedBytes += prefixBytes + sizeBytes;
  }

  clear(): void {
    if (this.queuedBytes === 0) return;
    this.messages = [];
    this.sizes = [];
    this.queuedBytes = 0;
  }

  /** Writes and forgets what was added; `written` goes with the last write. */
  writeTo(output: MessageOutput, written: (() => void) | undefined): void {
    if (this.queuedBytes <= coalesceBytes) this.writeCoalesced(output, written);
    else this.writeParts(output, written);
    this.clear();
  }

  private writeCoalesced(output: MessageOutput, written: (() => void) | undefined): void {
    const out = Buffer.allocUnsafe(this.queuedBytes);
    let at = 0;
    for (let index = 0; index < this.messages.length; index++) {
      at = writePrefix(out, at, this.sizes[index] ?? 0);
      const parts = this.messages[index] ?? [];
      for (let part = 0; part < parts.length; part++) {
        const bytes = parts[part];
        if (bytes === undefined) continue;
        out.set(bytes, at);
        at += bytes.length;
      }
    }
    write(output, out, written);
  }

  /** What is small between large parts (prefixes, protobuf heads) shares one buffer that is written piece by piece. */
  private writeParts(output: MessageOutput, written: (() => void) | undefined): void {
    const small = Buffer.allocUnsafe(this.queuedBytes - this.sumOfLarge());
    let unwritten = this.queuedBytes;
    let start = 0;
    let at = 0;
    output.cork();
    for (let index = 0; index < this.messages.length; index++) {
      at = writePrefix(small, at, this.sizes[index] ?? 0);
      const parts = this.messages[index] ?? [];
      for (let part = 0; part < parts.length; part++) {
        const bytes = parts[part];
        if (bytes === undefined) continue;
        if (bytes.length < largeBytes) {
          small.set(bytes, at);
          at += bytes.length;
          continue;
        }
        if (at > start) output.write(small.subarray(start, at));
        unwritten -= at - start + bytes.length;
        start = at;
        write(output, bytes, unwritten === 0 ? written : undefined);
      }
    }
    if (at > start) write(output, small.subarray(start, at), written);
    output.uncork();
  }

  private sumOfLarge(): number {
    let sum = 0;
    for (let index = 0; index < this.messages.length; index++) {
      const parts = this.messages[index] ?? [];
      for (let part = 0; part < parts.length; part++) {
        const size = parts[part]?.length ?? 0;
        if (size >= largeBytes) sum += size;
      }
    }
    return sum;
  }
}

function write(output: MessageOutput, bytes: Uint8Array, written: (() => void) | undefined): void {
  if (written === undefined) output.write(bytes);
  else output.write(bytes, written);
}

/** An uncompressed message's flag and length (gRPC over HTTP/2, "Length-Prefixed-Message"); returns where the message begins. */
function writePrefix(out: Buffer, at: number, sizeBytes: number): number {
  out[at] = 0;
  out[at + 1] = sizeBytes >>> 24;
  out[at + 2] = sizeBytes >>> 16;
  out[at + 3] = sizeBytes >>> 8;
  out[at + 4] = sizeBytes;
  return at + prefixBytes;
}
