/** A worker that lies, beside one that does not, on the real index: what the honest one told stays true and is told in time. */
import { afterEach, describe, expect, it } from "@jest/globals";
import { createKvIndex } from "../../../../src/data/prefix-index/exact-kv-index.ts";
import type { Holder, KvIndex } from "../../../../src/data/prefix-index/kv-index.ts";
import type { EventSourceRecord } from "../../../../src/dynamo/records.ts";
import type { IngestIndex } from "../../../../src/prefill-router/indexer/event-applier.ts";
import type { IngestLimits } from "../../../../src/prefill-router/indexer/ingest-options.ts";
import { KvEventIngest } from "../../../../src/prefill-router/indexer/kv-event-ingest.ts";
import { RecoveryError } from "../../../../src/prefill-router/indexer/recovery-query.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import { createRandom, mutate } from "../../../integration/fuzz/random-bytes.ts";
import { encodeEvents, type PlainData } from "../../dynamo/kv-events/event-messages.ts";
import { until } from "../../dynamo/until.ts";

const honest = 1n;
const rogue = 2n;
const ingests: KvEventIngest[] = [];

afterEach(() => {
  for (const ingest of ingests.splice(0)) ingest.close();
});

function source(publisherId: bigint, dpRank = 0): EventSourceRecord {
  const scope = { namespace: "ns", component: "backend", endpoint: "generate" };
  return {
    type: "EventSource",
    scope,
    topic: "kv-events",
    publisherId,
    workerId: publisherId,
    dpRank,
    recovery: undefined,
  };
}

function ingestInto(index: IngestIndex, limits: Partial<IngestLimits> = {}): KvEventIngest {
  const ingest = new KvEventIngest({
    index,
    query: () => Promise.reject(new RecoveryError("unreachable", "away")),
    log: silentLogger,
    holderChanged: () => {},
    limits,
  });
  ingests.push(ingest);
  return ingest;
}

function event(worker: bigint, id: number, data: PlainData): unknown {
  return { worker_id: worker, event: { event_id: id, data, dp_rank: 0 } };
}

function chain(worker: bigint, id: number, first: number, count: number): unknown {
  const blocks = Array.from({ length: count }, (_, index) => ({
    block_hash: BigInt(first + index),
    tokens_hash: BigInt(first + index),
    mm_extra_info: null,
  }));
  return event(worker, id, { stored: { parent_hash: first > 1 ? BigInt(first - 1) : null, blocks } });
}

const say = (ingest: KvEventIngest, publisher: bigint, ...events: readonly unknown[]): void =>
  ingest.onPayload(encodeEvents("msgpack", events), publisher);

const held = (ingest: KvEventIngest, index: KvIndex, worker: bigint): number =>
  index.blocksOf(ingest.holderOf({ workerId: worker, dpRank: 0 }) ?? -1);

describe("an honest worker beside one that lies", () => {
  it("keeps all its blocks through any bytes that the other publishes", () => {
    const index = createKvIndex({ random: Math.random });
    const ingest = ingestInto(index);
    ingest.sourceAppeared(source(honest));
    ingest.sourceAppeared(source(rogue));
    const random = createRandom(20_261_121);
    const proper = [
      encodeEvents("msgpack", [chain(rogue, 1, 1, 3), event(rogue, 2, { removed: { block_hashes: [1n, 2n] } })]),
      encodeEvents("json", [chain(rogue, 3, 1, 3), event(rogue, 4, "cleared")]),
      encodeEvents("msgpack", [chain(honest, 1, 1, 3), event(honest, 2, "cleared")]),
      encodeEvents("json", [event(rogue, Number.MAX_SAFE_INTEGER, "cleared")]),
    ];
    for (let round = 1; round <= 2000; round++) {
      say(ingest, honest, chain(honest, round, round, 1));
      const bytes = random.below(4) === 0 ? random.bytes(random.below(100)) : mutate(random, random.pick(proper));
      ingest.onPayload(bytes, rogue);
    }
    expect(held(ingest, index, honest)).toBe(2000);
    const { malformed, "foreign-events": foreign } = ingest.counters.dropped;
    expect(malformed).toBeGreaterThan(100);
    expect(foreign).toBeGreaterThan(20);
  });

  it("is heard while the other's message of sixteen thousand changes is worked off", async () => {
    const index = createKvIndex({ random: Math.random });
    const ingest = ingestInto(index, { sliceMs: 0.05 });
    ingest.sourceAppeared(source(honest));
    ingest.sourceAppeared(source(rogue));
    const storm: unknown[] = [];
    for (let id = 1; id <= 16_000; id += 2) storm.push(chain(rogue, id, 1, 5), event(rogue, id + 1, "cleared"));
    say(ingest, rogue, ...storm);
    say(ingest, honest, chain(honest, 1, 1, 1000));
    await until(() => held(ingest, index, honest) === 1000);
    expect(ingest.sources().find(({ workerId }) => workerId === rogue)?.state).toBe("draining");
    ingest.workerGone(rogue);
    say(ingest, honest, chain(honest, 2, 1001, 1));
    await until(() => held(ingest, index, honest) === 1001);
  });

  it("bounds what waits of all sources together", () => {
    const index = createKvIndex({ random: Math.random });
    const buffer = { events: 1e6, bytes: 1e6, totalBytes: 20_000 };
    const ingest = new KvEventIngest({
      index,
      query: () => new Promise(() => {}),
      log: silentLogger,
      holderChanged: () => {},
      limits: { buffer },
    });
    ingests.push(ingest);
    const transport = { kind: "tcp", address: "127.0.0.1:1", path: "p" } as const;
    for (let dpRank = 0; dpRank < 50; dpRank++) {
      const record = { ...source(100n + BigInt(dpRank), dpRank), workerId: rogue };
      const recovery = {
        ...record.scope,
        component: "c",
        endpoint: "e",
        type: "Endpoint",
        instanceId: rogue,
        transport,
        codec: "json",
      } as const;
      ingest.sourceAppeared({ ...record, recovery });
      for (let id = 1; id <= 20; id++) {
        const said = { worker_id: rogue, event: { event_id: id, data: "cleared", dp_rank: dpRank } };
        say(ingest, record.publisherId, said);
      }
    }
    const waiting = ingest.sources().reduce((sum, { waitingMessages }) => sum + waitingMessages, 0);
    expect(waiting).toBeGreaterThan(200);
    expect(ingest.counters.dropped.overflow).toBe(1000 - waiting);
    ingest.workerGone(rogue);
    expect(ingest.sources()).toEqual([]);
  });

  it("goes on when the index takes no more ranks", () => {
    const index = createKvIndex({ random: Math.random });
    let free = 1;
    const full: IngestIndex = {
      attach: (): Holder => {
        if (free-- === 0) throw new RangeError("more than 1 holders");
        return index.attach();
      },
      detach: (holder) => index.detach(holder),
      stored: (...blocks) => index.stored(...blocks),
      removed: (...blocks) => index.removed(...blocks),
      cleared: (holder) => index.cleared(holder),
      upkeep: () => index.upkeep(),
    };
    const ingest = ingestInto(full);
    ingest.sourceAppeared(source(honest));
    ingest.sourceAppeared(source(rogue));
    say(ingest, rogue, chain(rogue, 1, 1, 1));
    say(ingest, honest, chain(honest, 1, 1, 5));
    expect(held(ingest, index, honest)).toBe(5);
    expect(ingest.counters.dropped).toMatchObject({ "index-full": 1, "unknown-source": 1 });
  });
});
