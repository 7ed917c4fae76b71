/**
 * The question a router asks a worker's local indexer and the answer, read without holding a second copy: the events stay in the answer's
 * bytes and are pulled through a RouterEventReader as often as the caller likes (dynamo-kv-router 1.6.1, indexer/types.rs).
 */
import { MsgpackWriter } from "../encoding/msgpack-writer.ts";
import {
  isRange,
  MalformedMessage,
  type PayloadCodec,
  rangeText,
  readInteger,
  readString,
  type ValueReader,
} from "../encoding/value-reader.ts";

export interface RecoveryQuestion {
  readonly workerId: bigint;
  readonly dpRank: number;
  /** First event id wanted; undefined for everything the rank holds. */
  readonly startEventId: number | undefined;
}

const writer = new MsgpackWriter();
/** Of what a worker says of its error; it goes into logs. */
const maxMessageLength = 1000;

export function encodeRecoveryQuestion(
  { workerId, dpRank, startEventId }: RecoveryQuestion,
  codec: PayloadCodec,
): Buffer {
  if (codec === "json") {
    const start = startEventId ?? "null";
    return Buffer.from(
      `{"worker_id":${workerId},"dp_rank":${dpRank},"start_event_id":${start},"end_event_id":null,"supports_tree_dump_failed":true}`,
    );
  }
  writer.reset();
  writer.map(5);
  writer.string("worker_id");
  writer.bigint(workerId);
  writer.string("dp_rank");
  writer.integer(dpRank);
  writer.string("start_event_id");
  if (startEventId === undefined) writer.nil();
  else writer.integer(startEventId);
  writer.string("end_event_id");
  writer.nil();
  writer.string("supports_tree_dump_failed");
  writer.boolean(true);
  return Buffer.from(writer.finish());
}

export type RecoveryAnswerKind =
  | "events"
  | "tree-dump"
  | "tree-dump-failed"
  | "too-new"
  | "invalid-range"
  | "error"
  | "unknown";

/** The answer up to its events, and after them. `open` stops at the events when there are any; `finish` reads what follows them. */
export class RecoveryAnswer {
  kind: RecoveryAnswerKind;
  /** Where the array of events begins; -1 without one. */
  eventsAt: number;
  /** The newest real event id the answer covers; -1 when not said. The ids of a tree dump's own events are made up. */
  lastEventId: number;
  /** False for a dump of a part of the rank, which replaces nothing. */
  isWholeRank: boolean;
  message: string;
  readonly #reader: ValueReader;

  constructor(reader: ValueReader) {
    this.kind = "unknown";
    this.eventsAt = -1;
    this.lastEventId = -1;
    this.isWholeRank = true;
    this.message = "";
    this.#reader = reader;
  }

  /** True when the reader now stands at the events; after them `finish` is to be called. */
  open(bytes: Uint8Array): boolean {
    const reader = this.#reader;
    reader.open(bytes);
    reader.enterMap();
    if (!reader.nextKey()) throw new MalformedMessage("is an empty answer");
    this.kind = kindOf(reader);
    if (this.kind === "error") {
      this.message = readString(reader).slice(0, maxMessageLength);
      return false;
    }
    if (this.kind === "unknown") {
      this.message = rangeText(reader).slice(0, maxMessageLength);
      return false;
    }
    reader.enterMap();
    return this.#fields();
  }

  /** Called with the reader right behind the events. */
  finish(): void {
    this.#fields();
    if (this.lastEventId < 0) throw new MalformedMessage("has events without last_event_id");
  }

  #fields(): boolean {
    const reader = this.#reader;
    while (reader.nextKey()) {
      if (isRange(reader, "events")) {
        this.eventsAt = reader.at;
        return true;
      }
      if (isRange(reader, "last_event_id")) this.lastEventId = readInteger(reader);
      else if (isRange(reader, "newest_available")) this.lastEventId = readInteger(reader);
      else if (isRange(reader, "message")) this.message = readString(reader).slice(0, maxMessageLength);
      else if (isRange(reader, "reset_scope")) this.isWholeRank = readScope(reader);
      else reader.skip();
    }
    return false;
  }
}

function kindOf(reader: ValueReader): RecoveryAnswerKind {
  if (isRange(reader, "Events")) return "events";
  if (isRange(reader, "TreeDump")) return "tree-dump";
  if (isRange(reader, "TreeDumpFailed")) return "tree-dump-failed";
  if (isRange(reader, "TooNew")) return "too-new";
  if (isRange(reader, "InvalidRange")) return "invalid-range";
  return isRange(reader, "Error") ? "error" : "unknown";
}

function readScope(reader: ValueReader): boolean {
  if (!reader.isString()) {
    reader.skip();
    return false;
  }
  reader.readStringRange();
  return isRange(reader, "all");
}
