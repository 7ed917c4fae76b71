/** Reads the fields of one event, from where the cursor stands into the event. Sizes are checked before anything is kept. */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over bytes, whose bounds are checked before
import type { MsgpackCursor } from "../../dynamo/encoding/msgpack-cursor.ts";
import { MalformedMessage } from "../../dynamo/encoding/value-reader.ts";
import { type EngineEvent, tierOfMedium } from "./engine-event.ts";

/** More tokens than any engine caches in one step: what claims them is lying. */
const maxTokens = 4_194_304;
const saltKey = Buffer.from("cache_salt");

export class EventFields {
  readonly #cursor: MsgpackCursor;
  readonly #event: EngineEvent;

  constructor(cursor: MsgpackCursor, event: EngineEvent) {
    this.#cursor = cursor;
    this.#event = event;
  }

  hashes(): void {
    const cursor = this.#cursor;
    const event = this.#event;
    const count = cursor.arrayLength();
    if (count > maxTokens) throw new MalformedMessage("more blocks than an engine holds");
    if (event.hashes.length < 2 * count) event.hashes = new Uint32Array(grown(2 * count));
    const { hashes } = event;
    for (let i = 0; i < count; i++) {
      this.#hash();
      hashes[2 * i] = cursor.low;
      hashes[2 * i + 1] = cursor.high;
    }
    event.hashCount = count;
  }

  /** An integer, or a digest whose last eight bytes stand for it, as in the reference. */
  #hash(): void {
    const cursor = this.#cursor;
    if (cursor.kind() !== "bytes") {
      cursor.u64();
      return;
    }
    cursor.binary();
    const { start, length } = cursor;
    const end = start + length;
    let low = 0;
    let high = 0;
    for (let at = Math.max(start, end - 8); at < end; at++) {
      high = (high << 8) | (low >>> 24);
      low = (low << 8) | cursor.byteAt(at);
    }
    cursor.low = low >>> 0;
    cursor.high = high >>> 0;
  }

  parent(): void {
    const cursor = this.#cursor;
    const event = this.#event;
    event.hasParent = !cursor.takeNil();
    if (!event.hasParent) return;
    this.#hash();
    event.parentLow = cursor.low;
    event.parentHigh = cursor.high;
  }

  /** Ids, or pairs of neighbours, which overlap by one. */
  tokens(): void {
    const cursor = this.#cursor;
    const event = this.#event;
    const count = cursor.arrayLength();
    if (count > maxTokens) throw new MalformedMessage("more tokens than an engine caches");
    if (event.tokens.length <= count) event.tokens = new Uint32Array(grown(count + 1));
    const { tokens } = event;
    event.isEagle = count > 0 && cursor.kind() === "array";
    if (event.isEagle) {
      for (let i = 0; i < count; i++) {
        if (cursor.arrayLength() !== 2) throw new MalformedMessage("a pair of tokens is expected");
        tokens[i] = cursor.u32();
        tokens[i + 1] = cursor.u32();
      }
    } else cursor.u32s(count, tokens);
    event.tokenCount = event.isEagle ? count + 1 : count;
  }

  medium(): void {
    if (!this.#cursor.takeNil()) this.#event.tier = tierOfMedium(this.string());
  }

  /** The adapter's name; SGLang puts an object with the salt there. */
  names(): void {
    const cursor = this.#cursor;
    const event = this.#event;
    if (cursor.takeNil()) return;
    if (cursor.kind() !== "map") {
      event.loraName = this.string();
      return;
    }
    const members = cursor.mapLength();
    for (let member = 0; member < members; member++) {
      cursor.text();
      if (cursor.is(saltKey) && cursor.kind() === "text") event.cacheSalt = this.string();
      else cursor.skip();
    }
  }

  owner(): void {
    if (!this.#cursor.takeNil()) this.#event.isForeign = this.string() !== "";
  }

  string(): string {
    this.#cursor.text();
    return this.#cursor.string();
  }
}

function grown(size: number): number {
  return 2 ** Math.ceil(Math.log2(size));
}
