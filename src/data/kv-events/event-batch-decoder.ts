/**
 * Decodes an engine's batch, msgpack `[ts, [events], rank]`, events as tagged maps or as positional arrays (vLLM's and SGLang's msgspec structs).
 * Fields that are missing at the end, and ones nobody knows, are fine. A batch that is not whole is refused before its first event is handed on;
 * an event that cannot be read is left out alone and counted, since the others of its batch have happened.
 */
import { MsgpackCursor } from "../../dynamo/encoding/msgpack-cursor.ts";
import { MalformedMessage } from "../../dynamo/encoding/value-reader.ts";
import { EngineEvent, groupKindOf } from "./engine-event.ts";
import { EventFields } from "./event-fields.ts";
import { readExtraKeys } from "./extra-keys.ts";

export interface BatchHead {
  /** Seconds since the epoch; tells one run of an engine from the next. */
  readonly timestamp: number;
  /** 0 where the batch does not say. */
  readonly rank: number;
  readonly saysRank: boolean;
}

export interface BatchDecoder {
  /** The batch's head, with the whole of it checked for being msgpack of the right outer shape; undefined when it is not. */
  open(payload: Buffer): BatchHead | undefined;
  /** Hands on the events of the batch opened last. Returns how many of them could not be read. */
  decode(sink: (event: EngineEvent) => void): number;
}

export interface BatchDecoderOptions {
  /**
   * Who made the extra keys. An engine by itself puts salts and media digests there bare; beside Dynamo's worker only what that worker marked
   * counts, as its own normaliser has it.
   */
  readonly extraKeys: "bare" | "marked";
}

export function createBatchDecoder(options: BatchDecoderOptions): BatchDecoder {
  return new EventBatchDecoder(options);
}

/** Of one step. */
const maxEvents = 16_384;
const noBatch = Buffer.alloc(0);

class EventBatchDecoder implements BatchDecoder {
  readonly #options: BatchDecoderOptions;
  readonly #cursor = new MsgpackCursor();
  readonly #event = new EngineEvent();
  readonly #fields = new EventFields(this.#cursor, this.#event);
  #payload: Buffer = noBatch;
  #eventsAt = 0;

  constructor(options: BatchDecoderOptions) {
    this.#options = options;
  }

  open(payload: Buffer): BatchHead | undefined {
    const cursor = this.#cursor;
    this.#payload = noBatch;
    cursor.reset(payload);
    try {
      const fields = cursor.arrayLength();
      if (fields < 2) return undefined;
      const timestamp = cursor.number();
      this.#eventsAt = cursor.at;
      if (cursor.kind() !== "array" || cursor.arrayLength() > maxEvents) return undefined;
      cursor.at = this.#eventsAt;
      cursor.skip();
      let rank = -1;
      for (let field = 2; field < fields; field++) {
        if (field === 2 && !cursor.takeNil()) rank = cursor.number();
        else if (field > 2) cursor.skip();
      }
      this.#payload = payload;
      const saysRank = rank >= 0 && rank <= 0xffff;
      return { timestamp, rank: saysRank ? Math.floor(rank) : 0, saysRank };
    } catch (error) {
      if (error instanceof MalformedMessage) return undefined;
      throw error;
    } finally {
      cursor.release();
    }
  }

  decode(sink: (event: EngineEvent) => void): number {
    const cursor = this.#cursor;
    const event = this.#event;
    cursor.reset(this.#payload);
    cursor.at = this.#eventsAt;
    let unread = 0;
    try {
      const count = cursor.arrayLength();
      for (let i = 0; i < count; i++) {
        const at = cursor.at;
        if (this.#read()) sink(event);
        else unread += 1;
        // Where an event ends is not taken from how it was understood.
        cursor.at = at;
        cursor.skip();
      }
    } finally {
      this.#payload = noBatch;
      cursor.release();
      event.trim();
    }
    return unread;
  }

  #read(): boolean {
    try {
      return this.#cursor.kind() === "map" ? this.#readMap() : this.#readPositional();
    } catch (error) {
      if (error instanceof MalformedMessage) return false;
      throw error;
    }
  }

  /** `[tag, fields…]`. */
  #readPositional(): boolean {
    const cursor = this.#cursor;
    const fields = cursor.arrayLength();
    if (fields === 0) return false;
    cursor.text();
    if (cursor.is(tags.stored)) return this.#readStored(fields);
    if (cursor.is(tags.removed)) return this.#readRemoved(fields);
    if (cursor.is(tags.cleared)) {
      this.#event.reset("cleared");
      if (fields > 1) this.#fields.owner();
      return true;
    }
    this.#event.reset("ignored");
    return cursor.is(tags.ignored);
  }

  #readStored(fields: number): boolean {
    if (fields < 5) return false;
    const cursor = this.#cursor;
    const event = this.#event;
    event.reset("stored");
    this.#fields.hashes();
    this.#fields.parent();
    this.#fields.tokens();
    event.blockSize = cursor.u32();
    if (fields > 5) cursor.skip();
    if (fields > 6) this.#fields.medium();
    if (fields > 7) this.#fields.names();
    if (fields > 8) readExtraKeys(cursor, event, this.#options.extraKeys);
    this.#tail(fields - 9);
    return true;
  }

  #readRemoved(fields: number): boolean {
    if (fields < 2) return false;
    this.#event.reset("removed");
    this.#fields.hashes();
    if (fields > 2) this.#fields.medium();
    this.#tail(fields - 3);
    return true;
  }

  /**
   * What may follow an event's own fields: group, kind of the group's attention, window, locality, owner. Publishers before that order was fixed left
   * unused ones out, so in a shorter or differently typed tail only what a value can be decides: the first number is the group, a text its kind.
   */
  #tail(count: number): void {
    if (count <= 0) return;
    const cursor = this.#cursor;
    const event = this.#event;
    const at = cursor.at;
    const isFixed = count >= 4 && this.#isFixedTail(count);
    cursor.at = at;
    for (let field = 0; field < count && field < 5; field++) {
      const kind = cursor.kind();
      if (kind === "integer" && (isFixed ? field === 0 : event.group < 0)) event.group = cursor.u32();
      else if (kind === "text" && (!isFixed || field === 1)) event.groupKind = groupKindOf(this.#fields.string());
      else if (kind === "text" && field === 3) event.isRemote = this.#fields.string() !== "LOCAL";
      else if (kind === "text" && field === 4) this.#fields.owner();
      else cursor.skip();
    }
  }

  #isFixedTail(count: number): boolean {
    const cursor = this.#cursor;
    for (let field = 0; field < count && field < 5; field++) {
      const kind = cursor.kind();
      const expected = field === 0 || field === 2 ? "integer" : "text";
      if (kind !== "nil" && kind !== expected) return false;
      cursor.skip();
    }
    return true;
  }

  /** Keys in any order. */
  #readMap(): boolean {
    const cursor = this.#cursor;
    const event = this.#event;
    const members = cursor.mapLength();
    const at = cursor.at;
    if (!this.#readType(members)) return false;
    cursor.at = at;
    let seen = 0;
    let extraAt = -1;
    for (let member = 0; member < members; member++) {
      cursor.text();
      const key = cursor.string();
      const read = mapFields[key];
      if (read === undefined || (cursor.kind() === "nil" && cursor.takeNil())) {
        if (read === undefined) cursor.skip();
        continue;
      }
      switch (read) {
        case "hashes":
          this.#fields.hashes();
          seen |= 1;
          break;
        case "parent":
          this.#fields.parent();
          break;
        case "tokens":
          this.#fields.tokens();
          seen |= 2;
          break;
        case "size":
          event.blockSize = cursor.u32();
          seen |= 4;
          break;
        case "medium":
          this.#fields.medium();
          break;
        case "lora":
          event.loraName = this.#fields.string();
          break;
        case "salt":
          event.cacheSalt = this.#fields.string();
          break;
        case "extra":
          // Read last: which text is the adapter's name is known only then.
          extraAt = cursor.at;
          cursor.skip();
          break;
        case "group":
          event.group = cursor.u32();
          break;
        case "kind":
          event.groupKind = groupKindOf(this.#fields.string());
          break;
        case "locality":
          event.isRemote = this.#fields.string() !== "LOCAL";
          break;
        case "owner":
          this.#fields.owner();
          break;
        default:
          read satisfies never;
      }
    }
    if (extraAt >= 0) {
      cursor.at = extraAt;
      readExtraKeys(cursor, event, this.#options.extraKeys);
    }
    return event.kind === "stored" ? seen === 7 : event.kind !== "removed" || (seen & 1) === 1;
  }

  /** The type first: what other keys mean hangs on nothing else, but the event must be reset once. */
  #readType(members: number): boolean {
    const cursor = this.#cursor;
    for (let member = 0; member < members; member++) {
      cursor.text();
      if (!cursor.is(typeKey)) {
        cursor.skip();
        continue;
      }
      cursor.text();
      for (const kind of eventKinds) {
        if (!cursor.is(tags[kind])) continue;
        this.#event.reset(kind);
        return true;
      }
      return false;
    }
    return false;
  }
}

const eventKinds = ["stored", "removed", "cleared", "ignored"] as const;
const tags = {
  stored: Buffer.from("BlockStored"),
  removed: Buffer.from("BlockRemoved"),
  cleared: Buffer.from("AllBlocksCleared"),
  ignored: Buffer.from("Ignored"),
};
const typeKey = Buffer.from("type");

type MapField =
  | "hashes"
  | "parent"
  | "tokens"
  | "size"
  | "medium"
  | "lora"
  | "salt"
  | "extra"
  | "group"
  | "kind"
  | "locality"
  | "owner";

const mapFields: Readonly<Record<string, MapField | undefined>> = Object.assign(Object.create(null), {
  block_hashes: "hashes",
  parent_block_hash: "parent",
  token_ids: "tokens",
  block_size: "size",
  medium: "medium",
  lora_name: "lora",
  cache_salt: "salt",
  extra_keys: "extra",
  group_idx: "group",
  kv_cache_spec_kind: "kind",
  locality: "locality",
  ownership: "owner",
});
