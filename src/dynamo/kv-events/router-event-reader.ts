/**
 * Pulls RouterEvents out of a payload one at a time: `next()` fills `event`, so a caller stops after as many as its time allows and goes on
 * later. Nothing is allocated per event; unknown keys and multimodal descriptions are stepped over. Bytes that are not events throw
 * MalformedMessage.
 *
 * Shape (dynamo-kv-router 1.6.1, protocols.rs): {worker_id, storage_tier?, residency_domain?, event: {event_id, data, dp_rank?}} with data
 * one of {"stored": {parent_hash, start_position?, blocks: [{block_hash, tokens_hash, …}]}}, {"removed": {block_hashes}} and "cleared".
 */
import { isRange, MalformedMessage, readInteger, readU32, type ValueReader } from "../encoding/value-reader.ts";
import { domains, eventKinds, maxBlocksPerEvent, RouterEvent } from "./router-event.ts";

const tierNames = ["device", "host_pinned", "disk", "external"] as const;

// "\x83\xaablock_hash\xcf" and "\xabtokens_hash\xcf", what every block of a real worker begins and goes on with, as big-endian words.
const blockHead = [0x83aa626c, 0x6f636b5f, 0x68617368] as const;
const tokensHead = [0xab746f6b, 0x656e735f, 0x68617368] as const;
// "\xadmm_extra_info\xc0", what every block without images ends with; the words overlap in two bytes.
const plainTail = [0xad6d6d5f, 0x65787472, 0x615f696e, 0x6e666fc0] as const;
const plainBlockBytes = 13 + 8 + 13 + 8 + 15;

export class RouterEventReader {
  readonly event: RouterEvent;
  /** While set, events are checked whole but their hashes are not kept: `event.count` is right, the arrays are not. */
  isSkimming: boolean;
  #reader: ValueReader;
  #shape: "array" | "single" | "done";

  constructor(reader: ValueReader) {
    this.event = new RouterEvent();
    this.isSkimming = false;
    this.#reader = reader;
    this.#shape = "done";
  }

  /** Where the reader stands: how far the events have been read. */
  get at(): number {
    return this.#reader.at;
  }

  /** Goes to the events that begin where `reader` stands: an array, or one event alone as older workers send it. */
  begin(reader: ValueReader): void {
    this.#reader = reader;
    this.#shape = reader.isMap() ? "single" : "array";
    if (this.#shape === "array") reader.enterArray();
  }

  /** Fills `event` with the next one; false after the last, when the reader stands behind the array. */
  next(): boolean {
    if (this.#shape === "done") return false;
    if (this.#shape === "single" || !this.#reader.nextItem()) {
      const isLast = this.#shape === "single";
      this.#shape = "done";
      if (isLast) this.#readEvent();
      return isLast;
    }
    this.#readEvent();
    return true;
  }

  #readEvent(): void {
    const reader = this.#reader;
    const event = this.event;
    event.dpRank = 0;
    event.tier = 0;
    event.domain = domains.unsaid;
    let seen = 0;
    reader.enterMap();
    while (reader.nextKey()) {
      if (isRange(reader, "worker_id")) {
        reader.readU64();
        event.workerLow = reader.low;
        event.workerHigh = reader.high;
        seen |= 1;
      } else if (isRange(reader, "event")) {
        this.#readKvEvent();
        seen |= 2;
      } else if (isRange(reader, "storage_tier")) event.tier = this.#readTier();
      else if (isRange(reader, "residency_domain")) event.domain = this.#readDomain();
      else reader.skip();
    }
    if (seen !== 3) throw new MalformedMessage(`has an event without worker_id or event before byte ${reader.at}`);
  }

  #readKvEvent(): void {
    const reader = this.#reader;
    const event = this.event;
    let seen = 0;
    reader.enterMap();
    while (reader.nextKey()) {
      if (isRange(reader, "event_id")) {
        event.eventId = readInteger(reader);
        seen |= 1;
      } else if (isRange(reader, "data")) {
        this.#readKind();
        seen |= 2;
      } else if (isRange(reader, "dp_rank")) event.dpRank = readU32(reader);
      else reader.skip();
    }
    if (seen !== 3) throw new MalformedMessage(`has an event without event_id or data before byte ${reader.at}`);
  }

  /** The variant of KvCacheEventData and its content. */
  #readKind(): void {
    const reader = this.#reader;
    const event = this.event;
    event.count = 0;
    event.hasParent = false;
    event.startPosition = -1;
    if (reader.isString()) {
      reader.readStringRange();
      this.#requireVariant("cleared");
      event.kind = eventKinds.cleared;
      return;
    }
    reader.enterMap();
    if (!reader.nextKey()) throw new MalformedMessage(`has an event of no kind at byte ${reader.at}`);
    if (isRange(reader, "stored")) {
      event.kind = eventKinds.stored;
      this.#readStored();
    } else if (isRange(reader, "removed")) {
      event.kind = eventKinds.removed;
      this.#readRemoved();
    } else {
      this.#requireVariant("cleared");
      event.kind = eventKinds.cleared;
      reader.skip();
    }
    if (reader.nextKey()) throw new MalformedMessage(`has an event of two kinds at byte ${reader.at}`);
  }

  #requireVariant(name: string): void {
    if (!isRange(this.#reader, name))
      throw new MalformedMessage(`has an event of unknown kind at byte ${this.#reader.start}`);
  }

  #readStored(): void {
    const reader = this.#reader;
    const event = this.event;
    let hasBlocks = false;
    reader.enterMap();
    while (reader.nextKey()) {
      if (isRange(reader, "blocks")) {
        hasBlocks = true;
        this.#readBlocks();
      } else if (isRange(reader, "parent_hash")) {
        event.hasParent = !reader.takeNil();
        if (!event.hasParent) continue;
        reader.readU64();
        event.parentLow = reader.low;
        event.parentHigh = reader.high;
      } else if (isRange(reader, "start_position")) event.startPosition = reader.takeNil() ? -1 : readU32(reader);
      else reader.skip();
    }
    if (!hasBlocks) throw new MalformedMessage(`has a stored event without blocks before byte ${reader.at}`);
  }

  #readBlocks(): void {
    const reader = this.#reader;
    let count = 0;
    reader.enterArray();
    while (reader.nextItem()) {
      if (count === maxBlocksPerEvent)
        throw new MalformedMessage(`has more than ${maxBlocksPerEvent} blocks in one event`);
      if (!this.isSkimming) this.event.reserve(count + 1);
      if (reader.codec !== "msgpack" || !this.#readPlainBlock(count)) this.#readBlock(count);
      count++;
    }
    this.event.count = count;
  }

  /** The one layout that real workers write, read with a handful of word loads; any other is left to #readBlock. */
  #readPlainBlock(index: number): boolean {
    const reader = this.#reader;
    const { view, at } = reader;
    if (reader.end - at < plainBlockBytes) return false;
    if (
      view.getUint32(at) !== blockHead[0] ||
      view.getUint32(at + 4) !== blockHead[1] ||
      view.getUint32(at + 8) !== blockHead[2]
    )
      return false;
    if (view.getUint8(at + 12) !== 0xcf) return false;
    if (
      view.getUint32(at + 21) !== tokensHead[0] ||
      view.getUint32(at + 25) !== tokensHead[1] ||
      view.getUint32(at + 29) !== tokensHead[2]
    )
      return false;
    if (view.getUint8(at + 33) !== 0xcf) return false;
    if (view.getUint32(at + 42) !== plainTail[0] || view.getUint32(at + 46) !== plainTail[1]) return false;
    if (view.getUint32(at + 50) !== plainTail[2] || view.getUint32(at + 53) !== plainTail[3]) return false;
    if (!this.isSkimming) {
      const { engineHashes, tokensHashes } = this.event;
      engineHashes[2 * index + 1] = view.getUint32(at + 13);
      engineHashes[2 * index] = view.getUint32(at + 17);
      tokensHashes[2 * index + 1] = view.getUint32(at + 34);
      tokensHashes[2 * index] = view.getUint32(at + 38);
    }
    reader.at = at + plainBlockBytes;
    return true;
  }

  #readBlock(index: number): void {
    const reader = this.#reader;
    let seen = 0;
    reader.enterMap();
    while (reader.nextKey()) {
      if (isRange(reader, "block_hash")) {
        this.#readHash(this.event.engineHashes, index);
        seen |= 1;
      } else if (isRange(reader, "tokens_hash")) {
        this.#readHash(this.event.tokensHashes, index);
        seen |= 2;
      } else reader.skip();
    }
    if (seen !== 3) throw new MalformedMessage(`has a block without its hashes before byte ${reader.at}`);
  }

  #readRemoved(): void {
    const reader = this.#reader;
    let count = -1;
    reader.enterMap();
    while (reader.nextKey()) {
      if (isRange(reader, "block_hashes")) count = this.#readHashes();
      else reader.skip();
    }
    if (count < 0) throw new MalformedMessage(`has a removed event without block_hashes before byte ${reader.at}`);
    this.event.count = count;
  }

  #readHashes(): number {
    const reader = this.#reader;
    let count = 0;
    reader.enterArray();
    while (reader.nextItem()) {
      if (count === maxBlocksPerEvent)
        throw new MalformedMessage(`has more than ${maxBlocksPerEvent} blocks in one event`);
      if (!this.isSkimming) this.event.reserve(count + 1);
      this.#readHash(this.event.engineHashes, count);
      count++;
    }
    return count;
  }

  #readHash(into: Uint32Array, index: number): void {
    const reader = this.#reader;
    reader.readU64();
    if (this.isSkimming) return;
    into[2 * index] = reader.low;
    into[2 * index + 1] = reader.high;
  }

  #readTier(): number {
    this.#reader.readStringRange();
    for (let tier = 0; tier < tierNames.length; tier++) {
      if (isRange(this.#reader, tierNames[tier] ?? "")) return tier;
    }
    return -1;
  }

  /** A null or anything that is no name is not the same as a missing key: it is a domain that is not ours. */
  #readDomain(): 1 | 2 {
    const reader = this.#reader;
    if (!reader.isString()) {
      reader.skip();
      return domains.other;
    }
    reader.readStringRange();
    return isRange(reader, "worker") ? domains.worker : domains.other;
  }
}
