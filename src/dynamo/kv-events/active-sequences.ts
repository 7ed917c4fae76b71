/**
 * ActiveSequenceEvents, by which routers tell each other what they booked (topics active_sequences_events and prefill_events). Variants are
 * PascalCase here, unlike the KV events'. One message carries {"events": […]}; releases before 1.4 sent one event alone.
 */
import { JsonReader } from "../encoding/json-reader.ts";
import { MsgpackReader } from "../encoding/msgpack-reader.ts";
import { MsgpackWriter } from "../encoding/msgpack-writer.ts";
import { payloadCodecOf } from "../encoding/payload-codec.ts";
import {
  isRange,
  MalformedMessage,
  readBigInt,
  readInteger,
  readString,
  readU32,
  type ValueReader,
} from "../encoding/value-reader.ts";

export interface ActiveSequenceAdd {
  readonly kind: "add";
  /** Rolling hashes of the complete blocks, two u32 each, low word first; undefined where the sender does not track blocks. */
  readonly sequenceHashes: Uint32Array | undefined;
  readonly trackPrefillTokens: boolean;
  readonly expectedOutputTokens: number | undefined;
  /** Prompt tokens to compute after what is cached; undefined where not said. */
  readonly prefillTokens: number | undefined;
  readonly expectedPrefillMs: number | undefined;
}

export type ActiveSequenceChange =
  | ActiveSequenceAdd
  | { readonly kind: "free" }
  | { readonly kind: "prefill-completed" };

export interface ActiveSequenceEvent {
  readonly requestId: string;
  readonly workerId: bigint;
  readonly dpRank: number;
  readonly change: ActiveSequenceChange;
  /** Who sent it: a router drops its own echo by this; a worker's own marks carry the worker's id. */
  readonly routerId: bigint;
  readonly loraName: string | undefined;
}

/** What one message carries at most, and how long a sender waits to fill one, in dynamo-kv-router. */
export const maxEventsPerMessage = 256;
export const batchDelayMs = 1;

const maxHashes = 1 << 18;
/** A message of more is nobody's. */
const mostEventsPerMessage = 16 * maxEventsPerMessage;
const msgpack = new MsgpackReader();
const json = new JsonReader();
const writer = new MsgpackWriter();

/** Throws MalformedMessage. */
export function parseActiveSequenceEvents(payload: Uint8Array): ActiveSequenceEvent[] {
  const reader = payloadCodecOf(payload) === "json" ? json : msgpack;
  reader.open(payload);
  const draft: EventDraft = {};
  let batch: ActiveSequenceEvent[] | undefined;
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "events")) {
      batch = [];
      reader.enterArray();
      while (reader.nextItem()) {
        if (batch.length === mostEventsPerMessage)
          throw new MalformedMessage(`has more than ${mostEventsPerMessage} events in one message`);
        batch.push(readEvent(reader));
      }
    } else readField(reader, draft);
  }
  return batch ?? [complete(draft)];
}

/** The view is valid until the next call. */
export function encodeActiveSequenceEvents(events: readonly ActiveSequenceEvent[]): Buffer {
  writer.reset();
  writer.map(1);
  writer.string("events");
  writer.array(events.length);
  for (const event of events) writeEvent(event);
  return writer.finish();
}

interface EventDraft {
  requestId?: string;
  workerId?: bigint;
  dpRank?: number;
  change?: ActiveSequenceChange;
  routerId?: bigint;
  loraName?: string | undefined;
}

function readEvent(reader: ValueReader): ActiveSequenceEvent {
  const draft: EventDraft = {};
  reader.enterMap();
  while (reader.nextKey()) readField(reader, draft);
  return complete(draft);
}

function readField(reader: ValueReader, draft: EventDraft): void {
  if (isRange(reader, "request_id")) draft.requestId = readString(reader);
  else if (isRange(reader, "worker")) readWorker(reader, draft);
  else if (isRange(reader, "data")) draft.change = readChange(reader);
  else if (isRange(reader, "router_id")) draft.routerId = readBigInt(reader);
  else if (isRange(reader, "lora_name")) draft.loraName = reader.takeNil() ? undefined : readString(reader);
  else reader.skip();
}

function complete({ requestId, workerId, dpRank = 0, change, routerId, loraName }: EventDraft): ActiveSequenceEvent {
  if (requestId === undefined || workerId === undefined || change === undefined || routerId === undefined) {
    throw new MalformedMessage("has an active-sequence event without request_id, worker, data or router_id");
  }
  return { requestId, workerId, dpRank, change, routerId, loraName };
}

function readWorker(reader: ValueReader, draft: EventDraft): void {
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "worker_id")) draft.workerId = readBigInt(reader);
    else if (isRange(reader, "dp_rank")) draft.dpRank = readU32(reader);
    else reader.skip();
  }
}

function readChange(reader: ValueReader): ActiveSequenceChange {
  if (reader.isString()) {
    reader.readStringRange();
    if (isRange(reader, "Free")) return { kind: "free" };
    if (isRange(reader, "MarkPrefillCompleted")) return { kind: "prefill-completed" };
    throw new MalformedMessage(`has an unknown change at byte ${reader.start}`);
  }
  reader.enterMap();
  if (!reader.nextKey() || !isRange(reader, "AddRequest"))
    throw new MalformedMessage(`has an unknown change at byte ${reader.at}`);
  const added = readAdd(reader);
  if (reader.nextKey()) throw new MalformedMessage(`has two changes in one event at byte ${reader.at}`);
  return added;
}

function readAdd(reader: ValueReader): ActiveSequenceAdd {
  let sequenceHashes: Uint32Array | undefined;
  let trackPrefillTokens = true;
  let expectedOutputTokens: number | undefined;
  let hint: PrefillHint = { prefillTokens: undefined, expectedPrefillMs: undefined };
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "token_sequence")) sequenceHashes = reader.takeNil() ? undefined : readHashes(reader);
    else if (isRange(reader, "track_prefill_tokens")) trackPrefillTokens = reader.readBoolean();
    else if (isRange(reader, "expected_output_tokens"))
      expectedOutputTokens = reader.takeNil() ? undefined : readU32(reader);
    else if (isRange(reader, "prefill_load_hint") && !reader.takeNil()) hint = readHint(reader);
    else if (!isRange(reader, "prefill_load_hint")) reader.skip();
  }
  return { kind: "add", sequenceHashes, trackPrefillTokens, expectedOutputTokens, ...hint };
}

interface PrefillHint {
  readonly prefillTokens: number | undefined;
  readonly expectedPrefillMs: number | undefined;
}

function readHint(reader: ValueReader): PrefillHint {
  let prefillTokens: number | undefined;
  let expectedPrefillMs: number | undefined;
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "initial_effective_prefill_tokens")) prefillTokens = readInteger(reader);
    else if (isRange(reader, "expected_prefill_duration"))
      expectedPrefillMs = reader.takeNil() ? undefined : readDurationMs(reader);
    else reader.skip();
  }
  return { prefillTokens, expectedPrefillMs };
}

/** A Rust Duration: {secs, nanos}. */
function readDurationMs(reader: ValueReader): number {
  let durationMs = 0;
  reader.enterMap();
  while (reader.nextKey()) {
    if (isRange(reader, "secs")) durationMs += readInteger(reader) * 1000;
    else if (isRange(reader, "nanos")) durationMs += readU32(reader) / 1e6;
    else reader.skip();
  }
  return durationMs;
}

function readHashes(reader: ValueReader): Uint32Array {
  let words = new Uint32Array(128);
  let count = 0;
  reader.enterArray();
  while (reader.nextItem()) {
    if (count === maxHashes) throw new MalformedMessage(`has more than ${maxHashes} hashes in one event`);
    if (2 * count === words.length) {
      const grown = new Uint32Array(2 * words.length);
      grown.set(words);
      words = grown;
    }
    reader.readU64();
    words[2 * count] = reader.low;
    words[2 * count + 1] = reader.high;
    count++;
  }
  return words.slice(0, 2 * count);
}

function writeEvent({ requestId, workerId, dpRank, change, routerId, loraName }: ActiveSequenceEvent): void {
  writer.map(5);
  writer.string("request_id");
  writer.string(requestId);
  writer.string("worker");
  writer.map(2);
  writer.string("worker_id");
  writer.bigint(workerId);
  writer.string("dp_rank");
  writer.integer(dpRank);
  writer.string("data");
  writeChange(change);
  writer.string("router_id");
  writer.bigint(routerId);
  writer.string("lora_name");
  if (loraName === undefined) writer.nil();
  else writer.string(loraName);
}

function writeChange(change: ActiveSequenceChange): void {
  switch (change.kind) {
    case "free":
      writer.string("Free");
      return;
    case "prefill-completed":
      writer.string("MarkPrefillCompleted");
      return;
    case "add":
      writer.map(1);
      writer.string("AddRequest");
      writeAdd(change);
      return;
    default:
      change satisfies never;
  }
}

function writeAdd(add: ActiveSequenceAdd): void {
  writer.map(4);
  writer.string("token_sequence");
  if (add.sequenceHashes === undefined) writer.nil();
  else writeHashes(add.sequenceHashes);
  writer.string("track_prefill_tokens");
  writer.boolean(add.trackPrefillTokens);
  writer.string("expected_output_tokens");
  if (add.expectedOutputTokens === undefined) writer.nil();
  else writer.integer(add.expectedOutputTokens);
  writer.string("prefill_load_hint");
  if (add.prefillTokens === undefined) {
    writer.nil();
    return;
  }
  writer.map(2);
  writer.string("initial_effective_prefill_tokens");
  writer.integer(add.prefillTokens);
  writer.string("expected_prefill_duration");
  writeDuration(add.expectedPrefillMs);
}

function writeDuration(durationMs: number | undefined): void {
  if (durationMs === undefined) {
    writer.nil();
    return;
  }
  const nanos = Math.round(durationMs * 1e6);
  writer.map(2);
  writer.string("secs");
  writer.integer(Math.floor(nanos / 1e9));
  writer.string("nanos");
  writer.integer(nanos % 1e9);
}

function writeHashes(words: Uint32Array): void {
  writer.array(words.length >> 1);
  for (let index = 0; index < words.length; index += 2) writer.u64(words[index] ?? 0, words[index + 1] ?? 0);
}
