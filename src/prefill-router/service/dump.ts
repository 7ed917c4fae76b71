/**
 * The blocks of a partition as Dynamo's RouterEvents in JSON, chain by chain with each block after the one it continues: what a service that starts
 * asks its peers for. Written in pieces, so that a large index holds up no request for long.
 */

import { storageTiers } from "../../data/prefix-index/kv-index.ts";
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

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
