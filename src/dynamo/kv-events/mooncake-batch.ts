/**
 * Batches of a Mooncake master: msgpack `[timestamp in ms, [events], dp_rank]`, an event a map with `event_type` "stored" or "removed" and the
 * `object_key` it is about (Mooncake: mooncake-store/src/kv_event/kv_event_publisher.cpp, RFC 1527), or its fields in the order in which Dynamo's
 * reader declares them. Events of other tenants than the default one, and of other kinds, are passed over. A batch that is not whole is refused as a
 * whole: what the rest of it would have told is missed.
 */
// biome-ignore-all lint/style/noNonNullAssertion: hot loop over typed arrays, whose bounds the rows keep
import { MsgpackCursor } from "../encoding/msgpack-cursor.ts";
import { MalformedMessage } from "../encoding/value-reader.ts";

export const objectEvents = {
  stored: 1,
  removed: 2,
  /** Without a key: the master does not publish them. */
  keyless: 3,
} as const;

/** Masters send 64 at a time. */
const maxEvents = 16_384;
const firstEvents = 64;

const names = {
  eventType: Buffer.from("event_type"),
  objectKey: Buffer.from("object_key"),
  tenantId: Buffer.from("tenant_id"),
} as const;
const letterE = 0x65;
const letterO = 0x6f;
const letterT = 0x74;
const stored = Buffer.from("stored");
const removed = Buffer.from("removed");
const defaultTenant = Buffer.from("default");

/** Holds the events of the batch read last, as places in its payload. */
export class MooncakeBatchReader {
  readonly #cursor = new MsgpackCursor();
  #kinds = new Uint8Array(firstEvents);
  #starts = new Uint32Array(firstEvents);
  #lengths = new Uint32Array(firstEvents);
  /** Of the event being read. */
  #kind = 0;
  #isOurs = true;
  count = 0;

  /** False where the payload is no batch; then `count` is 0. */
  read(payload: Buffer): boolean {
    const cursor = this.#cursor;
    this.count = 0;
    cursor.reset(payload);
    try {
      if (cursor.arrayLength() < 2) return false;
      cursor.skip();
      const events = cursor.arrayLength();
      if (events > maxEvents) return false;
      this.#reserve(events);
      let count = 0;
      for (let left = events; left > 0; left--) if (this.#readEvent(count)) count++;
      this.count = count;
      return true;
    } catch (error) {
      if (error instanceof MalformedMessage) return false;
      throw error;
    } finally {
      cursor.release();
    }
  }

  /** One of `objectEvents`. */
  kindOf(event: number): number {
    return this.#kinds[event]!;
  }

  /** Where the key of its object begins in the payload, and how many bytes it has. */
  startOf(event: number): number {
    return this.#starts[event]!;
  }

  lengthOf(event: number): number {
    return this.#lengths[event]!;
  }

  #reserve(events: number): void {
    if (events <= this.#kinds.length) return;
    this.#kinds = new Uint8Array(events);
    this.#starts = new Uint32Array(events);
    this.#lengths = new Uint32Array(events);
  }

  /** Into the row of this number; false where it says nothing to us. */
  #readEvent(row: number): boolean {
    const cursor = this.#cursor;
    this.#kind = 0;
    this.#isOurs = true;
    this.#lengths[row] = 0;
    if (cursor.kind() === "map") {
      for (let left = cursor.mapLength(); left > 0; left--) this.#readMember(row);
    } else {
      const fields = cursor.arrayLength();
      for (let field = 0; field < fields; field++) {
        if (field === 0) this.#readType();
        else if (field === 1) this.#readKey(row);
        else if (field === 2) this.#readTenant();
        else cursor.skip();
      }
    }
    this.#kinds[row] = this.#lengths[row] === 0 ? objectEvents.keyless : this.#kind;
    return this.#kind !== 0 && this.#isOurs;
  }

  /** An event has some twenty members: whose name is none of ours is mostly told by its first letter. */
  #readMember(row: number): void {
    const cursor = this.#cursor;
    cursor.text();
    const first = cursor.byteAt(cursor.start);
    if (first === letterE && cursor.is(names.eventType)) this.#readType();
    else if (first === letterO && cursor.is(names.objectKey)) this.#readKey(row);
    else if (first === letterT && cursor.is(names.tenantId)) this.#readTenant();
    else cursor.skip();
  }

  #readType(): void {
    const cursor = this.#cursor;
    cursor.text();
    this.#kind = cursor.is(stored) ? objectEvents.stored : cursor.is(removed) ? objectEvents.removed : 0;
  }

  #readKey(row: number): void {
    const cursor = this.#cursor;
    if (cursor.takeNil()) return;
    cursor.text();
    this.#starts[row] = cursor.start;
    this.#lengths[row] = cursor.length;
  }

  #readTenant(): void {
    const cursor = this.#cursor;
    if (cursor.takeNil()) return;
    cursor.text();
    this.#isOurs = cursor.length === 0 || cursor.is(defaultTenant);
  }
}
