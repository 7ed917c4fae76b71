/**
 * What a backend last said, by key: turns texts that come and go into puts and removals of records. A text that is malformed leaves the
 * record before it in place and is said once.
 */
import { isLoggedAt, type Logger } from "../../telemetry/log.ts";
import { parseRecord } from "../parse-record.ts";
import type { DynamoRecord, RecordListener } from "../records.ts";

interface Entry {
  readonly text: string;
  /** Undefined while no text of this key could be read. */
  readonly record: DynamoRecord | undefined;
  readonly isReadable: boolean;
}

/** Beyond it new keys are left out: a store that somebody fills cannot take the process down. */
export const maxRecords = 200_000;
/** Of the texts together. */
export const maxTotalCharacters = 256 * 1024 * 1024;

export class RecordTable {
  readonly #listener: RecordListener;
  readonly #log: Logger;
  readonly #entries = new Map<string, Entry>();
  #characters = 0;
  #malformed = 0;
  #isFull = false;

  constructor(listener: RecordListener, log: Logger) {
    this.#listener = listener;
    this.#log = log;
  }

  /** Texts that could not be read, ever. */
  get malformed(): number {
    return this.#malformed;
  }

  get size(): number {
    return this.#entries.size;
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  /** True when the key holds a record and not a text that could not be read. */
  hasRecord(key: string): boolean {
    return this.#entries.get(key)?.record !== undefined;
  }

  /** `known` is the record, where whoever has the text has read it and found it to be the key's. */
  put(key: string, text: string, known?: DynamoRecord): void {
    const before = this.#entries.get(key);
    if (before?.text === text) return;
    const grown = text.length - (before?.text.length ?? 0);
    if (!this.#hasRoom(before === undefined ? 1 : 0, grown)) return;
    this.#characters += grown;
    const parsed = known === undefined ? parseRecord(key, text) : { kind: "record" as const, record: known };
    if (parsed.kind === "record") {
      this.#entries.set(key, { text, record: parsed.record, isReadable: true });
      if (before?.isReadable === false) this.#listener.unreadable?.(key, undefined);
      this.#listener.put(key, parsed.record);
      return;
    }
    this.#entries.set(key, { text, record: before?.record, isReadable: false });
    const count = ++this.#malformed;
    this.#listener.unreadable?.(key, parsed.reason);
    if (!isLoggedAt(count)) return;
    this.#log.warn(
      { key, reason: parsed.reason, count, kept: before?.record !== undefined },
      "discovery record cannot be read and is left out",
    );
  }

  remove(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#characters -= entry.text.length;
    if (!entry.isReadable) this.#listener.unreadable?.(key, undefined);
    if (entry.record !== undefined) this.#listener.removed(key, entry.record);
  }

  /** The complete list: what is not in it has gone. Removals come first, so that what replaces a record under another key follows its end. */
  reconcile(all: ReadonlyMap<string, string>): void {
    for (const key of this.#entries.keys()) {
      if (!all.has(key)) this.remove(key);
    }
    for (const [key, text] of all) this.put(key, text);
  }

  #hasRoom(records: number, characters: number): boolean {
    if (this.#entries.size + records <= maxRecords && this.#characters + characters <= maxTotalCharacters) return true;
    if (!this.#isFull)
      this.#log.error({ maxRecords, maxTotalCharacters }, "more discovery records than are read; the rest is left out");
    this.#isFull = true;
    return false;
  }
}
