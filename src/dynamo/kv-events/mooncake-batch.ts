/**
 * Batches of a Mooncake master: msgpack `[timestamp in ms, [events], dp_rank]`, an event a map with `event_type` "stored" or "removed" and the
 * `object_key` it is about (Mooncake: mooncake-store/src/kv_event/kv_event_publisher.cpp, RFC 1527), or its fields in the order in which Dynamo's
 * reader declares them. Events of other tenants than the default one, and of other kinds, are passed over.
 */
import { MsgpackCursor } from "../encoding/msgpack-cursor.ts";
import { MalformedMessage } from "../encoding/value-reader.ts";

/** Where the key of an event's object stands: valid until the call returns. */
export interface ObjectEvents {
  stored(bytes: Buffer, start: number, length: number): void;
  removed(bytes: Buffer, start: number, length: number): void;
  /** Neither can be told: the master does not publish object keys. */
  keyless(): void;
}

const names = {
  eventType: Buffer.from("event_type"),
  objectKey: Buffer.from("object_key"),
  tenantId: Buffer.from("tenant_id"),
} as const;
const stored = Buffer.from("stored");
const removed = Buffer.from("removed");
const defaultTenant = Buffer.from("default");

export class MooncakeBatchReader {
  readonly #cursor = new MsgpackCursor();
  #isStored = false;
  #isRemoved = false;
  #isOurs = true;
  #keyAt = 0;
  /** 0: the event has none. */
  #keyLength = 0;

  /** Hands on one event after the other. False where the payload is no batch; what came before its fault has been handed on then. */
  read(payload: Buffer, sink: ObjectEvents): boolean {
    const cursor = this.#cursor;
    cursor.reset(payload);
    try {
      if (cursor.arrayLength() < 2) return false;
      cursor.skip();
      for (let left = cursor.arrayLength(); left > 0; left--) {
        this.#readEvent();
        if (!this.#isOurs || !(this.#isStored || this.#isRemoved)) continue;
        if (this.#keyLength === 0) sink.keyless();
        else if (this.#isStored) sink.stored(payload, this.#keyAt, this.#keyLength);
        else sink.removed(payload, this.#keyAt, this.#keyLength);
      }
      return true;
    } catch (error) {
      if (error instanceof MalformedMessage) return false;
      throw error;
    } finally {
      cursor.release();
    }
  }

  #readEvent(): void {
    const cursor = this.#cursor;
    this.#isStored = false;
    this.#isRemoved = false;
    this.#isOurs = true;
    this.#keyLength = 0;
    if (cursor.kind() === "map") {
      for (let left = cursor.mapLength(); left > 0; left--) {
        cursor.text();
        if (cursor.is(names.eventType)) this.#readType();
        else if (cursor.is(names.objectKey)) this.#readKey();
        else if (cursor.is(names.tenantId)) this.#readTenant();
        else cursor.skip();
      }
      return;
    }
    const fields = cursor.arrayLength();
    for (let field = 0; field < fields; field++) {
      if (field === 0) this.#readType();
      else if (field === 1) this.#readKey();
      else if (field === 2) this.#readTenant();
      else cursor.skip();
    }
  }

  #readType(): void {
    const cursor = this.#cursor;
    cursor.text();
    this.#isStored = cursor.is(stored);
    this.#isRemoved = cursor.is(removed);
  }

  #readKey(): void {
    const cursor = this.#cursor;
    if (cursor.takeNil()) return;
    cursor.text();
    this.#keyAt = cursor.start;
    this.#keyLength = cursor.length;
  }

  #readTenant(): void {
    const cursor = this.#cursor;
    if (cursor.takeNil()) return;
    cursor.text();
    this.#isOurs = cursor.length === 0 || cursor.is(defaultTenant);
  }
}
