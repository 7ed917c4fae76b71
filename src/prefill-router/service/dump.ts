/**
 * The blocks of a partition as Dynamo's RouterEvents in JSON, chain by chain with each block after the one it continues, and back: what a service
 * that starts asks its peers for. Written and read in pieces, so that a large index holds up no request for long.
 */

import { type KvIndex, type StorageTier, storageTiers } from "../../data/prefix-index/kv-index.ts";
import { parseExactJson } from "../../dynamo/record-json.ts";
import type { WorkerRank } from "../contracts.ts";
import { type BlockLog, type LoggedBlock, logParts } from "./block-log.ts";

/** Blocks of one event, and of one piece of text. */
const blocksPerEvent = 512;
/** Entries read between two turns of the event loop. */
const blocksPerTurn = 4_096;

export interface DumpedRank {
  readonly rank: WorkerRank;
  /** By tier. */
  readonly logs: readonly (BlockLog | undefined)[];
}

export interface DumpSource {
  readonly modelName: string;
  readonly routingGroup: string;
  readonly blockSize: number;
  /** Begun anew each time it is read. */
  readonly events: AsyncIterable<string>;
}

/** The whole dump, in pieces. */
export async function* dumpText(partitions: readonly DumpSource[]): AsyncGenerator<string> {
  let separator = "{";
  for (const { modelName, routingGroup, blockSize, events } of partitions) {
    yield `${separator}${JSON.stringify(`${modelName}:${routingGroup}`)}:{"block_size":${blockSize},"events":[`;
    let comma = "";
    for await (const event of events) {
      yield `${comma}${event}`;
      comma = ",";
    }
    yield "]}";
    separator = ",";
  }
  yield partitions.length === 0 ? "{}" : "}";
}

/** Texts of events, in order, to be joined by commas. */
export async function* dumpEvents(ranks: readonly DumpedRank[]): AsyncGenerator<string> {
  let eventId = 0;
  for (const { rank, logs } of ranks) {
    for (const [tier, log] of logs.entries()) {
      if (log === undefined) continue;
      for await (const chain of chainsOf(log)) yield eventText(rank, storageTiers[tier] ?? "device", chain, eventId++);
    }
  }
}

async function* chainsOf(log: BlockLog): AsyncGenerator<readonly LoggedBlock[]> {
  const blocks = new Map<bigint, LoggedBlock>();
  const children = new Map<bigint, LoggedBlock[]>();
  let read = 0;
  for (let part = 0; part < logParts; part++) {
    for (const block of log.blocksOfPart(part)) {
      blocks.set(block.engineHash, block);
      if (++read % blocksPerTurn === 0) await nextTurn();
    }
  }
  const starts: LoggedBlock[] = [];
  for (const block of blocks.values()) {
    const { parentHash } = block;
    const siblings = parentHash === undefined ? undefined : children.get(parentHash);
    if (parentHash === undefined || !blocks.has(parentHash)) starts.push(block);
    else if (siblings !== undefined) siblings.push(block);
    else children.set(parentHash, [block]);
    if (++read % blocksPerTurn === 0) await nextTurn();
  }
  // The last that is put in is taken out first; a block is put in only once what it continues was taken out.
  for (let start = starts.pop(); start !== undefined; start = starts.pop()) {
    const chain = [start];
    let last = start;
    for (;;) {
      const following = children.get(last.engineHash) ?? [];
      const next = following.pop();
      for (const other of following) starts.push(other);
      if (next === undefined) break;
      if (chain.length === blocksPerEvent) {
        starts.push(next);
        break;
      }
      chain.push(next);
      last = next;
    }
    yield chain;
    read += chain.length;
    if (read % blocksPerTurn < chain.length) await nextTurn();
  }
}

function eventText({ workerId, dpRank }: WorkerRank, tier: string, chain: readonly LoggedBlock[], id: number): string {
  const blocks = chain.map(
    ({ engineHash, tokensHash }) => `{"block_hash":${engineHash},"tokens_hash":${tokensHash},"mm_extra_info":null}`,
  );
  const parent = chain[0]?.parentHash ?? null;
  const stored = `{"stored":{"parent_hash":${parent},"start_position":null,"blocks":[${blocks.join(",")}]}}`;
  const event = `{"event_id":${id},"data":${stored},"dp_rank":${dpRank}}`;
  return `{"worker_id":${workerId},"storage_tier":"${tier}","residency_domain":"worker","event":${event}}`;
}

export interface DumpedPartition {
  readonly modelName: string;
  readonly routingGroup: string;
  readonly blockSize: number;
  readonly events: readonly unknown[];
}

/** The partitions of a dump; throws on what is none. A model's name may hold a colon only where its group's does not. */
export function parseDump(text: string): DumpedPartition[] {
  const dump = parseExactJson(text);
  if (!isObject(dump)) throw new TypeError("a dump is an object");
  return Object.entries(dump).map(([key, value]) => {
    const colon = key.indexOf(":");
    if (colon < 0 || !isObject(value)) throw new TypeError(`invalid dump key format: ${key}`);
    const { block_size: blockSize, events } = value;
    if (typeof blockSize !== "number" || !Array.isArray(events)) throw new TypeError(`invalid dump of ${key}`);
    return { modelName: key.slice(0, colon), routingGroup: key.slice(colon + 1), blockSize, events };
  });
}

/** Puts dumped events into an index; `holderOf` names the holder of a rank, if it is to have one. Returns how many blocks were taken. */
export async function applyDump(
  events: readonly unknown[],
  index: Pick<KvIndex, "stored">,
  holderOf: (rank: WorkerRank) => number | undefined,
): Promise<number> {
  let taken = 0;
  let sinceTurn = 0;
  for (const event of events) {
    const read = readStored(event);
    if (read === undefined) continue;
    const { rank, tier, parent, engineHashes, tokensHashes } = read;
    const count = engineHashes.length / 2;
    const [low, high] = words(parent ?? 0n);
    const holder = holderOf(rank);
    if (holder === undefined) continue;
    const outcome = index.stored(holder, tier, low, high, parent !== undefined, engineHashes, tokensHashes, 0, count);
    if (outcome === "applied") taken += count;
    sinceTurn += count;
    if (sinceTurn < blocksPerTurn) continue;
    sinceTurn = 0;
    await nextTurn();
  }
  return taken;
}

interface Stored {
  readonly rank: WorkerRank;
  readonly tier: StorageTier;
  readonly parent: bigint | undefined;
  readonly engineHashes: Uint32Array;
  readonly tokensHashes: Uint32Array;
}

/** Undefined for what is not stored, or not whole. */
function readStored(value: unknown): Stored | undefined {
  if (!isObject(value) || !isObject(value["event"])) return undefined;
  const { event, worker_id: worker, storage_tier: tierName = "device" } = value;
  const { data, dp_rank: dpRank = 0 } = event;
  const tier = storageTiers.indexOf(tierName as (typeof storageTiers)[number]);
  const workerId = u64(worker);
  if (!isObject(data) || !isObject(data["stored"]) || tier < 0 || workerId === undefined) return undefined;
  const { parent_hash: parent, blocks } = data["stored"];
  if (!Array.isArray(blocks) || typeof dpRank !== "number") return undefined;
  const engineHashes = new Uint32Array(2 * blocks.length);
  const tokensHashes = new Uint32Array(2 * blocks.length);
  for (const [index, block] of blocks.entries()) {
    const engine = isObject(block) ? u64(block["block_hash"]) : undefined;
    const tokens = isObject(block) ? u64(block["tokens_hash"]) : undefined;
    if (engine === undefined || tokens === undefined) return undefined;
    engineHashes.set(words(engine), 2 * index);
    tokensHashes.set(words(tokens), 2 * index);
  }
  return { rank: { workerId, dpRank }, tier: tier as StorageTier, parent: u64(parent), engineHashes, tokensHashes };
}

function words(value: bigint): readonly [low: number, high: number] {
  return [Number(value & 0xffff_ffffn), Number(value >> 32n)];
}

function u64(value: unknown): bigint | undefined {
  if (typeof value === "bigint") return value >= 0n && value <= 0xffff_ffff_ffff_ffffn ? value : undefined;
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? BigInt(value) : undefined;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
