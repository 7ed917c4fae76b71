/**
 * Finds the members of a top-level JSON object as byte ranges, without a tree. A body is accepted exactly when JSON.parse accepts it,
 * but for nesting deeper than maxDepth; invalid UTF-8 inside strings is accepted, as JSON.parse accepts its decoded form, and passes on.
 */
import { jsonWasm } from "./json-wasm.ts";

/** Deeper nesting is refused; encoding/json of the reference has the same bound. */
export const maxDepth = 10_000;

/** A body may repeat a key millions of times: what is remembered of that is bounded. Readers take the last value anyway. */
const maxRepeated = 64;

/** The root is not an object: `ranges` are all absent then. */
export type RootKind = "object" | "other";

export interface Scan {
  readonly root: RootKind;
  /** Start and end of member i's value at 2i and 2i+1, -1 where absent; of a repeated member the last, as in JSON.parse. */
  readonly ranges: Int32Array;
  /** Values that a later one replaced, as triples (member, start, end) in order, maxRepeated at most; undefined when none repeats. */
  readonly repeated: readonly number[] | undefined;
}

export interface ScanFault {
  /** trailing: bytes other than white space after the value. */
  readonly fault: "syntax" | "trailing" | "truncated" | "depth";
  /** Offset of the byte at fault; the body's length when it is truncated. */
  readonly offset: number;
}

/** The members a scan looks for; made once per dialect. */
export class MemberNames {
  readonly names: readonly string[];
  /** By length in bytes: index and bytes of the names of that length. */
  readonly #byLength: readonly (readonly { readonly index: number; readonly bytes: Buffer }[])[];

  constructor(names: readonly string[]) {
    this.names = names;
    const byLength: { index: number; bytes: Buffer }[][] = [];
    names.forEach((name, index) => {
      const bytes = Buffer.from(name);
      while (byLength.length <= bytes.length) byLength.push([]);
      byLength[bytes.length]?.push({ index, bytes });
    });
    this.#byLength = byLength;
  }

  /** Index of the name spelt by bytes [start, end), -1 when it is none. */
  find(bytes: Uint8Array, start: number, end: number): number {
    const candidates = this.#byLength[end - start];
    if (candidates === undefined) return -1;
    for (let i = 0; i < candidates.length; i++) {
      const candidate = candidates[i];
      if (candidate !== undefined && equalAt(bytes, start, candidate.bytes)) return candidate.index;
    }
    return -1;
  }
}

/** The exports of wasm/json.ts. */
interface JsonExports {
  readonly memory: { readonly buffer: ArrayBuffer };
  readonly WINDOW: { readonly value: number };
  readonly RECORDS: { readonly value: number };
  begin(): void;
  push(length: number): number;
  records(): number;
  faultOffset(): number;
  complete(): number;
}

/** The part of the WebAssembly API used here; the compiler's libraries for Node lack it. */
interface WasmApi {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: unknown };
}

const { WebAssembly: api } = globalThis as unknown as { readonly WebAssembly: WasmApi };
/** Scratch of the scan under way: scans are synchronous, so one serves all. */
const wasm = new api.Instance(new api.Module(Buffer.from(jsonWasm, "base64"))).exports as JsonExports;
const windowBytes = wasm.WINDOW.value;
const windowView = new Uint8Array(wasm.memory.buffer, 0, windowBytes);
const records = new Int32Array(wasm.memory.buffer, wasm.RECORDS.value);
/** Set in a record's key end where the key holds an escape. */
const escapedKey = 0x8000_0000 | 0;

/** Scans a whole body. The result does not refer to it. Bodies of 2 GiB and more are not supported (the limit on bodies is far below). */
export function scanJson(body: Buffer, names: MemberNames): Scan | ScanFault {
  const ranges = new Int32Array(2 * names.names.length).fill(-1);
  let repeated: number[] | undefined;
  wasm.begin();
  for (let from = 0; from < body.length; from += windowBytes) {
    const to = Math.min(from + windowBytes, body.length);
    windowView.set(from === 0 && to === body.length ? body : body.subarray(from, to));
    const verdict = wasm.push(to - from);
    if (verdict !== 0) return faultOf(verdict);
    const count = wasm.records() * 4;
    for (let at = 0; at < count; at += 4) {
      const keyStart = records[at] ?? 0;
      const keyEnd = records[at + 1] ?? 0;
      const member =
        keyEnd < 0 ? findEscaped(body, names, keyStart, keyEnd ^ escapedKey) : names.find(body, keyStart, keyEnd);
      if (member < 0) continue;
      const earlier = ranges[2 * member] ?? -1;
      if (earlier >= 0) {
        repeated ??= [];
        if (repeated.length < 3 * maxRepeated) repeated.push(member, earlier, ranges[2 * member + 1] ?? -1);
      }
      ranges[2 * member] = records[at + 2] ?? -1;
      ranges[2 * member + 1] = records[at + 3] ?? -1;
    }
  }
  if (wasm.complete() === 0) return { fault: "truncated", offset: body.length };
  return { root: isObject(body) ? "object" : "other", ranges, repeated };
}

function faultOf(verdict: number): ScanFault {
  const offset = wasm.faultOffset();
  if (verdict === 2) return { fault: "depth", offset };
  return { fault: wasm.complete() === 0 ? "syntax" : "trailing", offset };
}

/** The member's name as JSON.parse reads it: the key is known to be a valid JSON string. */
function findEscaped(body: Buffer, names: MemberNames, start: number, end: number): number {
  return names.names.indexOf(JSON.parse(`"${body.toString("utf8", start, end)}"`) as string);
}

function isObject(body: Buffer): boolean {
  for (let i = 0; i < body.length; i++) {
    const byte = body[i] ?? 0;
    if (byte > 0x20) return byte === 0x7b;
  }
  return false;
}

function equalAt(bytes: Uint8Array, at: number, wanted: Uint8Array): boolean {
  for (let i = 0; i < wanted.length; i++) {
    if (bytes[at + i] !== wanted[i]) return false;
  }
  return true;
}
