/**
 * Takes a peer's dump into an index, whatever its size, a few events between two turns of the event loop. What was taken before a dump turned out
 * broken stays: each block of it was there by itself.
 */
import type { Holder, KvIndex, StorageTier } from "../../data/prefix-index/kv-index.ts";
import { JsonReader } from "../../dynamo/encoding/json-reader.ts";
import { bigintOf, MalformedMessage, rangeText, readU32 } from "../../dynamo/encoding/value-reader.ts";
import { domains, eventKinds, type RouterEvent } from "../../dynamo/kv-events/router-event.ts";
import { RouterEventReader } from "../../dynamo/kv-events/router-event-reader.ts";
import type { WorkerRank } from "../contracts.ts";

export interface DumpedPartition {
  readonly modelName: string;
  readonly routingGroup: string;
  readonly blockSize: number;
}

/** Where the blocks of a partition go. */
export interface DumpTarget {
  readonly index: Pick<KvIndex, "stored">;
  /** Undefined: nothing is to be known of the rank. */
  readonly holderOf: (rank: WorkerRank) => Holder | undefined;
}

/** Bytes read between two turns. */
const bytesPerTurn = 64 * 1024;

/**
 * `targetOf` says where a partition's blocks go, or that it is of no use here. Resolves with the blocks taken; rejects with MalformedMessage on what
 * is no dump, an index that its owner could not dump among it.
 */
export async function takeDump(
  bytes: Uint8Array,
  targetOf: (partition: DumpedPartition) => DumpTarget | undefined,
): Promise<number> {
  const reader = new JsonReader();
  const events = new RouterEventReader(reader);
  reader.open(bytes);
  reader.enterMap();
  let blocks = 0;
  while (reader.nextKey()) {
    const key = keyText(reader);
    // A model's name may hold a colon only where its group's does not.
    const colon = key.indexOf(":");
    if (colon < 0) throw new MalformedMessage(`has no partition's name in ${JSON.stringify(key)}`);
    let partition: DumpedPartition | undefined;
    let hasEvents = false;
    reader.enterMap();
    while (reader.nextKey()) {
      const member = keyText(reader);
      if (member === "block_size") {
        const blockSize = readU32(reader);
        partition = { modelName: key.slice(0, colon), routingGroup: key.slice(colon + 1), blockSize };
      } else if (member === "events") {
        if (partition === undefined) throw new MalformedMessage(`says no block_size before the events of ${key}`);
        blocks += await takeEvents(reader, events, targetOf(partition));
        hasEvents = true;
      } else reader.skip();
    }
    if (!hasEvents) throw new MalformedMessage(`has no events of ${key}`);
  }
  return blocks;
}

async function takeEvents(
  reader: JsonReader,
  events: RouterEventReader,
  target: DumpTarget | undefined,
): Promise<number> {
  let taken = 0;
  let turnAt = reader.at + bytesPerTurn;
  events.isSkimming = target === undefined;
  events.begin(reader);
  for (;;) {
    // Each event may be as rich as a message.
    reader.work = 0;
    if (!events.next()) return taken;
    if (target !== undefined) taken += take(events.event, target);
    if (reader.at < turnAt) continue;
    await nextTurn();
    turnAt = reader.at + bytesPerTurn;
  }
}

function take(event: RouterEvent, { index, holderOf }: DumpTarget): number {
  const { kind, domain, tier, dpRank, count } = event;
  if (kind !== eventKinds.stored || domain === domains.other || tier < 0) return 0;
  const holder = holderOf({ workerId: bigintOf(event.workerLow, event.workerHigh), dpRank });
  if (holder === undefined) return 0;
  const { parentLow, parentHigh, hasParent, engineHashes, tokensHashes } = event;
  const to = tier as StorageTier;
  const outcome = index.stored(holder, to, parentLow, parentHigh, hasParent, engineHashes, tokensHashes, 0, count);
  return outcome === "applied" ? count : 0;
}

/** The key read last. */
function keyText(reader: JsonReader): string {
  const text = rangeText(reader);
  if (!text.includes("\\")) return text;
  try {
    return JSON.parse(`"${text}"`) as string;
  } catch (error) {
    throw new MalformedMessage("has a bad escape in a key", { cause: error });
  }
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
