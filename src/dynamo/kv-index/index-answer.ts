/**
 * What a served index answers: blocks that each rank holds of a prompt, on its device and beyond it (IndexerQueryResponse and
 * WireTieredMatchDetails of dynamo-kv-router 1.6.1). Disk and external memory are one here, as the scheduler counts them.
 */
import { JsonReader } from "../encoding/json-reader.ts";
import { MsgpackReader } from "../encoding/msgpack-reader.ts";
import { MsgpackWriter } from "../encoding/msgpack-writer.ts";
import {
  isRange,
  MalformedMessage,
  type PayloadCodec,
  rangeText,
  readBigInt,
  readInteger,
  readString,
  readU32,
  type ValueReader,
} from "../encoding/value-reader.ts";

/** Blocks of one prompt on one rank: from the root on the device, then how far the lower tiers go on. */
export interface RankOverlap {
  readonly workerId: bigint;
  readonly dpRank: number;
  readonly device: number;
  readonly host: number;
  readonly disk: number;
}

export type IndexAnswer =
  | { readonly kind: "overlaps"; readonly overlaps: readonly RankOverlap[] }
  | { readonly kind: "error"; readonly message: string };

/** Entries of all tiers together; more is no answer but an attack or a mistake. */
const maxEntries = 65_536;
/** Of what the other says of its error; it goes into logs. */
const maxMessageLength = 1000;

const readers: Readonly<Record<PayloadCodec, ValueReader>> = { json: new JsonReader(), msgpack: new MsgpackReader() };
const writer = new MsgpackWriter();

type Column = "device" | "host" | "disk";
type Entry = { -readonly [Member in keyof RankOverlap]: RankOverlap[Member] };

export function encodeIndexAnswer(answer: IndexAnswer, codec: PayloadCodec): Buffer {
  if (answer.kind === "error") return encodeError(answer.message, codec);
  const { overlaps } = answer;
  const tiers = (["host", "disk"] as const).filter((tier) => overlaps.some((overlap) => overlap[tier] > 0));
  if (codec === "json") {
    const lower = tiers.map((tier) => `["${wireNames[tier]}",{"hits":${entriesText(overlaps, tier)}}]`);
    const device = `{"scores":${entriesText(overlaps, "device")},"frequencies":[]}`;
    return Buffer.from(`{"TieredScores":{"device":${device},"lower_tier":[${lower.join(",")}]}}`);
  }
  writer.reset();
  writer.map(1);
  writer.string("TieredScores");
  writer.map(2);
  writer.string("device");
  writer.map(2);
  writer.string("scores");
  writeEntries(overlaps, "device");
  writer.string("frequencies");
  writer.array(0);
  writer.string("lower_tier");
  writer.array(tiers.length);
  for (const tier of tiers) {
    writer.array(2);
    writer.string(wireNames[tier]);
    writer.map(1);
    writer.string("hits");
    writeEntries(overlaps, tier);
  }
  return Buffer.from(writer.finish());
}

/** Throws MalformedMessage. */
export function readIndexAnswer(bytes: Uint8Array, codec: PayloadCodec): IndexAnswer {
  const reader = readers[codec];
  reader.open(bytes);
  reader.enterMap();
  if (!reader.nextKey()) throw new MalformedMessage("is an empty answer");
  if (isRange(reader, "Error")) return { kind: "error", message: readString(reader).slice(0, maxMessageLength) };
  if (!isRange(reader, "TieredScores")) {
    throw new MalformedMessage(`is an answer of another kind: ${rangeText(reader).slice(0, 100)}`);
  }
  return { kind: "overlaps", overlaps: new TieredScores(reader).read() };
}

/** An externally tagged `Error`, as every answer of these endpoints may be. */
export function encodeError(message: string, codec: PayloadCodec): Buffer {
  if (codec === "json") return Buffer.from(`{"Error":${JSON.stringify(message)}}`);
  writer.reset();
  writer.map(1);
  writer.string("Error");
  writer.string(message);
  return Buffer.from(writer.finish());
}

const wireNames = { host: "host_pinned", disk: "disk" } as const;

function entriesText(overlaps: readonly RankOverlap[], column: Column): string {
  const texts = overlaps
    .filter((overlap) => overlap[column] > 0)
    .map(({ workerId, dpRank, [column]: blocks }) => `[{"worker_id":${workerId},"dp_rank":${dpRank}},${blocks}]`);
  return `[${texts.join(",")}]`;
}

function writeEntries(overlaps: readonly RankOverlap[], column: Column): void {
  const held = overlaps.filter((overlap) => overlap[column] > 0);
  writer.array(held.length);
  for (const { workerId, dpRank, [column]: blocks } of held) {
    writer.array(2);
    writer.map(2);
    writer.string("worker_id");
    writer.bigint(workerId);
    writer.string("dp_rank");
    writer.integer(dpRank);
    writer.integer(blocks);
  }
}

/** One answer being read. Of a rank that is named twice in a tier, and of a tier that comes twice, the last counts, as in Dynamo's maps. */
class TieredScores {
  readonly #reader: ValueReader;
  readonly #entries = new Map<string, Entry>();
  /** By the tier's name on the wire, each rank's blocks. */
  readonly #lower = new Map<string, Map<Entry, number>>();
  #count = 0;

  constructor(reader: ValueReader) {
    this.#reader = reader;
  }

  read(): RankOverlap[] {
    const reader = this.#reader;
    reader.enterMap();
    while (reader.nextKey()) {
      if (isRange(reader, "device")) this.#device();
      else if (isRange(reader, "lower_tier")) this.#lowerTiers();
      else reader.skip();
    }
    for (const [tier, hits] of this.#lower) {
      const column = tier === "host_pinned" ? "host" : "disk";
      for (const [entry, blocks] of hits) entry[column] += blocks;
    }
    return [...this.#entries.values()];
  }

  #device(): void {
    const reader = this.#reader;
    reader.enterMap();
    while (reader.nextKey()) {
      if (!isRange(reader, "scores")) reader.skip();
      else this.#pairs((entry, blocks) => (entry.device = blocks));
    }
  }

  #lowerTiers(): void {
    const reader = this.#reader;
    reader.enterArray();
    while (reader.nextItem()) {
      reader.enterArray();
      if (!reader.nextItem()) throw new MalformedMessage("has a tier without a name");
      const tier = readString(reader);
      if (!reader.nextItem()) throw new MalformedMessage("has a tier without hits");
      const hits = new Map<Entry, number>();
      reader.enterMap();
      while (reader.nextKey()) {
        if (!isRange(reader, "hits")) reader.skip();
        else this.#pairs((entry, blocks) => hits.set(entry, blocks));
      }
      if (reader.nextItem()) throw new MalformedMessage("has a tier of more than two parts");
      if (lowerTiers.has(tier)) this.#lower.set(tier, hits);
    }
  }

  /** [[{worker_id, dp_rank}, blocks] …] */
  #pairs(take: (entry: Entry, blocks: number) => void): void {
    const reader = this.#reader;
    reader.enterArray();
    while (reader.nextItem()) {
      if (++this.#count > maxEntries) throw new MalformedMessage(`has more than ${maxEntries} entries`);
      reader.enterArray();
      if (!reader.nextItem()) throw new MalformedMessage("has an entry without a rank");
      const entry = this.#rank();
      if (!reader.nextItem()) throw new MalformedMessage("has a rank without blocks");
      take(entry, readInteger(reader));
      if (reader.nextItem()) throw new MalformedMessage("has an entry of more than two parts");
    }
  }

  #rank(): Entry {
    const reader = this.#reader;
    let workerId: bigint | undefined;
    let dpRank: number | undefined;
    reader.enterMap();
    while (reader.nextKey()) {
      if (isRange(reader, "worker_id")) workerId = readBigInt(reader);
      else if (isRange(reader, "dp_rank")) dpRank = readU32(reader);
      else reader.skip();
    }
    if (workerId === undefined || dpRank === undefined) throw new MalformedMessage("has an entry that names no rank");
    const key = `${workerId}/${dpRank}`;
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { workerId, dpRank, device: 0, host: 0, disk: 0 };
      this.#entries.set(key, entry);
    }
    return entry;
  }
}

const lowerTiers: ReadonlySet<string> = new Set(["host_pinned", "disk", "external"]);
