/** The index against what workers said: order, gaps, recoveries of every kind, and workers that are slow, silent, lying or gone. */
import { afterEach, describe, expect, it } from "@jest/globals";
import type { EventSourceRecord, InstanceRecord } from "../../../../src/dynamo/records.ts";
import type { IngestLimits } from "../../../../src/prefill-router/indexer/ingest-options.ts";
import { KvEventIngest } from "../../../../src/prefill-router/indexer/kv-event-ingest.ts";
import { RecoveryError, type RecoveryQuery } from "../../../../src/prefill-router/indexer/recovery-query.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import fc from "../../../properties.ts";
import { encodeEvents, type PlainData, type PlainEvent } from "../../dynamo/kv-events/event-messages.ts";
import { until } from "../../dynamo/until.ts";
import { PlainKvIndex } from "./plain-kv-index.ts";

const workerId = 0xfedc_ba98_7654_3211n;
const recovery: InstanceRecord = {
  type: "Endpoint",
  namespace: "ns",
  component: "backend",
  endpoint: "worker_kv_query_source_7",
  instanceId: workerId,
  transport: { kind: "tcp", address: "127.0.0.1:1", path: "p" },
  codec: "msgpack",
};

function sourceOf(publisherId: bigint, overrides: Partial<EventSourceRecord> = {}): EventSourceRecord {
  const scope = { namespace: "ns", component: "backend", endpoint: "generate" };
  return { type: "EventSource", scope, topic: "kv-events", publisherId, workerId, dpRank: 0, recovery, ...overrides };
}

function event(event_id: number, data: PlainData, overrides: Partial<PlainEvent> = {}): PlainEvent {
  return {
    worker_id: workerId,
    storage_tier: "device",
    residency_domain: "worker",
    event: { event_id, data, dp_rank: 0 },
    ...overrides,
  };
}

/** Block `number`, after its parent `number - 1`: engine hash n, token hash n × 1000. */
function store(event_id: number, number: number, parent: number | null = number > 1 ? number - 1 : null): PlainEvent {
  return event(event_id, {
    stored: {
      parent_hash: parent === null ? null : BigInt(parent),
      blocks: [{ block_hash: BigInt(number), tokens_hash: BigInt(number * 1000), mm_extra_info: null }],
    },
  });
}

const remove = (event_id: number, ...numbers: number[]): PlainEvent =>
  event(event_id, { removed: { block_hashes: numbers.map(BigInt) } });

interface Asked {
  readonly publisherId: bigint;
  readonly start: number | undefined;
  /** As the worker's whole answer. */
  answer(value: unknown, codec?: "json" | "msgpack"): void;
  fail(): void;
}

class Lab {
  readonly index: PlainKvIndex;
  readonly asked: Asked[];
  readonly holders: string[];
  readonly ingest: KvEventIngest;

  constructor(limits: Partial<IngestLimits> = {}) {
    this.index = new PlainKvIndex();
    this.asked = [];
    this.holders = [];
    const query: RecoveryQuery = ({ publisherId }, start, signal) =>
      new Promise((resolve, reject) => {
        signal.addEventListener("abort", () => reject(new RecoveryError("cancelled", "cancelled")));
        this.asked.push({
          publisherId,
          start,
          answer: (value, codec = "msgpack") => resolve({ codec, bytes: encodeEvents(codec, value) }),
          fail: () => reject(new RecoveryError("unreachable", "away")),
        });
      });
    const fast = { firstBackoffMs: 1, settleMs: 1e6, degradedRetryMs: 1e6, ...limits };
    this.ingest = new KvEventIngest({
      index: this.index,
      query,
      log: silentLogger,
      holderChanged: ({ workerId: id, dpRank }, holder) => this.holders.push(`${id}/${dpRank}=${holder}`),
      limits: fast,
    });
    labs.push(this);
  }

  say(publisherId: bigint, ...events: readonly unknown[]): void {
    this.ingest.onPayload(encodeEvents("msgpack", events), publisherId);
  }

  /** The nth question, once it is asked. */
  async question(number: number): Promise<Asked> {
    await until(() => this.asked.length > number);
    return this.asked[number] as Asked;
  }

  /** Path ends of what the rank holds, in blocks. */
  held(dpRank = 0, id = workerId): string[] {
    const holder = this.ingest.holderOf({ workerId: id, dpRank });
    return holder === undefined ? [] : this.index.pathsOf(holder).map((path) => path.split(" ")[0] ?? "");
  }

  async live(record: EventSourceRecord, answer: unknown = dump([], 0)): Promise<void> {
    const number = this.asked.length;
    this.ingest.sourceAppeared(record);
    (await this.question(number)).answer(answer);
    await until(() => this.ingest.isSettled);
  }
}

const labs: Lab[] = [];

afterEach(() => {
  for (const { ingest } of labs.splice(0)) ingest.close();
});

const dump = (events: readonly unknown[], last_event_id: number): unknown => ({
  TreeDump: { events, last_event_id, reset_scope: "all" },
});
const since = (events: readonly unknown[], last_event_id: number): unknown => ({ Events: { events, last_event_id } });
const path = (...numbers: number[]): string => numbers.map((number) => `/${(number * 1000).toString(16)}`).join("");

describe("first contact", () => {
  it("asks for everything, holds live events meanwhile, and applies them after the dump", async () => {
    const lab = new Lab();
    lab.ingest.sourceAppeared(sourceOf(7n));
    const question = await lab.question(0);
    expect(question.start).toBeUndefined();
    lab.say(7n, store(5, 5));
    lab.say(7n, store(6, 6));
    expect(lab.held()).toEqual([]);
    question.answer(dump([store(0, 1), store(1, 2), store(2, 3), store(3, 4)], 4));
    await until(() => lab.ingest.isSettled);
    expect(lab.held()).toContain(path(1, 2, 3, 4, 5, 6));
    expect(lab.ingest.sources()).toMatchObject([{ cursor: 6, state: "live" }]);
    expect(lab.ingest.counters).toMatchObject({ gaps: 0, recoveriesDone: 1, treeDumps: 1 });
  });

  it("takes the cursor from what the dump covers, not from its made-up ids", async () => {
    const lab = new Lab();
    await lab.live(sourceOf(7n), dump([store(0, 1)], 900));
    lab.say(7n, store(900, 9, null));
    lab.say(7n, store(901, 2));
    expect(lab.held()).toEqual([path(1), path(1, 2)]);
    expect(lab.ingest.counters).toMatchObject({ stale: 1, gaps: 0 });
  });

  it("applies what the dump and the live events both tell only once", async () => {
    const lab = new Lab();
    lab.ingest.sourceAppeared(sourceOf(7n));
    lab.say(7n, remove(2, 1), store(3, 3, null));
    (await lab.question(0)).answer(dump([store(1, 1), remove(2, 1), store(3, 3, null), store(4, 4)], 4));
    await until(() => lab.ingest.isSettled);
    expect(lab.held()).toEqual([path(3), path(3, 4)]);
    expect(lab.ingest.counters.stale).toBe(2);
  });

  it("asks once more after a while, for what came between subscription and dump", async () => {
    const lab = new Lab({ settleMs: 5 });
    await lab.live(sourceOf(7n), dump([store(0, 1)], 3));
    const again = await lab.question(1);
    expect(again.start).toBe(4);
    again.answer(since([store(4, 2)], 4));
    await until(() => lab.held().length === 2);
    expect(lab.asked).toHaveLength(2);
  });

  it("takes a source without recovery live from where it is", () => {
    const lab = new Lab();
    lab.ingest.sourceAppeared(sourceOf(7n, { recovery: undefined }));
    lab.say(7n, store(40, 1));
    lab.say(7n, store(41, 2));
    expect(lab.held()).toEqual([path(1), path(1, 2)]);
    lab.say(7n, store(50, 9, null));
    expect(lab.held()).toEqual([path(9)]);
    expect(lab.ingest.counters).toMatchObject({ gaps: 1, skippedIds: 8 });
  });

  it("runs no more recoveries at a time than allowed", async () => {
    const lab = new Lab({ concurrentRecoveries: 2 });
    for (let rank = 0; rank < 5; rank++) lab.ingest.sourceAppeared(sourceOf(BigInt(rank), { dpRank: rank }));
    for (let asked = 0; asked < 5; asked++) {
      const question = await lab.question(asked);
      await new Promise((resolve) => setImmediate(resolve));
      expect(lab.asked.length).toBeLessThanOrEqual(asked + 2);
      question.answer(dump([], 0));
    }
    await until(() => lab.ingest.isSettled);
  });
});

describe("a gap", () => {
  async function gapped(limits: Partial<IngestLimits> = {}): Promise<{ readonly lab: Lab; readonly question: Asked }> {
    const lab = new Lab(limits);
    await lab.live(sourceOf(7n), dump([store(0, 1)], 1));
    lab.say(7n, store(4, 4));
    return { lab, question: await lab.question(1) };
  }

  it("asks from the first id missing and keeps what is held", async () => {
    const { lab, question } = await gapped();
    expect(question.start).toBe(2);
    expect(lab.held()).toEqual([path(1)]);
    question.answer(since([store(2, 2), store(3, 3), store(4, 4)], 4));
    await until(() => lab.ingest.isSettled);
    expect(lab.held()).toEqual([path(1), path(1, 2), path(1, 2, 3), path(1, 2, 3, 4)]);
    expect(lab.ingest.counters).toMatchObject({ gaps: 1, stale: 1, skippedIds: 0 });
  });

  it("takes a dump for the whole rank, when the worker chooses one, and swaps it in at once", async () => {
    const { lab, question } = await gapped();
    const before = lab.ingest.holderOf({ workerId, dpRank: 0 });
    question.answer(dump([store(0, 8, null), store(1, 9)], 4), "json");
    await until(() => lab.ingest.isSettled);
    expect(lab.held()).toEqual([path(8), path(8, 9)]);
    const after = lab.ingest.holderOf({ workerId, dpRank: 0 });
    expect(after).not.toBe(before);
    expect(lab.holders.at(-1)).toBe(`${workerId}/0=${after}`);
    expect([...lab.index.holders.keys()]).toEqual([after]);
  });

  it("is gone over when the worker has none of it left, and is counted", async () => {
    const { lab } = await gapped();
    for (let round = 1; round <= 3; round++) (await lab.question(round)).answer(since([], 1));
    await until(() => lab.ingest.isSettled);
    expect(lab.ingest.counters.skippedIds).toBe(2);
    expect(lab.ingest.sources()).toMatchObject([{ cursor: 4 }]);
  });

  it("needs no recovery when what follows it clears the rank", async () => {
    const lab = new Lab();
    await lab.live(sourceOf(7n), dump([store(0, 1)], 1));
    lab.say(7n, event(9, "cleared"));
    lab.say(7n, store(10, 1));
    expect(lab.held()).toEqual([path(1)]);
    expect(lab.asked).toHaveLength(1);
  });

  it("asks for everything when the worker knows less than we do", async () => {
    const { lab, question } = await gapped();
    question.answer({ TooNew: { requested_start: 2, requested_end: null, newest_available: 0 } });
    const all = await lab.question(2);
    expect(all.start).toBeUndefined();
    all.answer(dump([store(0, 3, null)], 4));
    await until(() => lab.held().includes(path(3)));
  });

  it("keeps a bounded number of live events and asks again for those it had to let go", async () => {
    const { lab, question } = await gapped({ buffer: { events: 3, bytes: 1e6, totalBytes: 1e6 } });
    for (let id = 5; id <= 10; id++) lab.say(7n, store(id, id));
    expect(lab.ingest.counters.dropped.overflow).toBe(4);
    question.answer(since([store(2, 2), store(3, 3), store(4, 4)], 4));
    const again = await lab.question(2);
    expect(again.start).toBe(5);
    again.answer(
      since(
        [5, 6, 7, 8].map((id) => store(id, id)),
        8,
      ),
    );
    await until(() => lab.ingest.isSettled);
    expect(lab.held()).toHaveLength(10);
  });
});

describe("a recovery that fails", () => {
  it("is tried again, then live events go on, and all is asked for later", async () => {
    const lab = new Lab({ attempts: 3, degradedRetryMs: 5 });
    lab.ingest.sourceAppeared(sourceOf(7n));
    lab.say(7n, store(5, 5, null));
    (await lab.question(0)).fail();
    (await lab.question(1)).answer({ Error: "no such rank" });
    (await lab.question(2)).answer({ TreeDumpFailed: { last_event_id: 5, message: "busy" } });
    await until(() => lab.held().length === 1);
    expect(lab.ingest.sources()).toMatchObject([{ isDegraded: true, cursor: 5 }]);
    const later = await lab.question(3);
    expect(later.start).toBeUndefined();
    later.answer(dump([store(0, 1), store(1, 5, 1)], 5));
    await until(() => lab.held().length === 2);
    expect(lab.ingest.sources()).toMatchObject([{ isDegraded: false }]);
    expect(lab.ingest.counters).toMatchObject({ recoveriesFailed: 1, recoveriesDone: 1 });
  });

  it.each([
    ["half a dump", encodeEvents("msgpack", dump([store(0, 1), store(1, 2)], 1)).subarray(0, -40)],
    ["noise", Buffer.from("noise")],
    ["nothing", Buffer.alloc(0)],
  ])("with %s changes nothing", async (_name, bytes) => {
    const index = new PlainKvIndex();
    let asked = 0;
    const query: RecoveryQuery = () => {
      asked++;
      return Promise.resolve({ codec: "msgpack", bytes });
    };
    const limits = { attempts: 2, firstBackoffMs: 1 };
    const ingest = new KvEventIngest({ index, query, log: silentLogger, holderChanged: () => {}, limits });
    ingest.sourceAppeared(sourceOf(7n));
    await until(() => ingest.counters.recoveriesFailed === 1);
    expect({ asked, calls: index.calls }).toEqual({ asked: 2, calls: 0 });
    ingest.close();
  });

  it("with a dump of a part of the rank replaces nothing", async () => {
    const lab = new Lab({ attempts: 1 });
    lab.ingest.sourceAppeared(sourceOf(7n));
    (await lab.question(0)).answer({
      TreeDump: { events: [store(0, 1)], last_event_id: 1, reset_scope: { domain: "worker" } },
    });
    await until(() => lab.ingest.counters.recoveriesFailed === 1);
    expect(lab.held()).toEqual([]);
  });

  it("with another worker's blocks fences the source until another publisher takes its place", async () => {
    const lab = new Lab();
    lab.ingest.sourceAppeared(sourceOf(7n));
    (await lab.question(0)).answer(dump([{ ...store(0, 1), worker_id: 1n }], 1));
    await until(() => lab.ingest.sources()[0]?.state === "fenced");
    lab.say(7n, store(2, 2, null));
    expect(lab.held()).toEqual([]);
    await lab.live(sourceOf(8n), dump([store(0, 1)], 1));
    expect(lab.held()).toEqual([path(1)]);
  });
});

describe("live messages", () => {
  it("that are malformed, of a stranger or of another worker or rank are dropped whole and counted", async () => {
    const lab = new Lab();
    await lab.live(sourceOf(7n));
    lab.ingest.onPayload(Buffer.from("noise"), 7n);
    lab.say(7n, store(1, 1), { worker_id: workerId });
    lab.say(9n, store(1, 1));
    lab.say(7n, store(1, 1), { ...store(2, 2), worker_id: 3n });
    lab.say(7n, store(1, 1), { ...store(2, 2), event: { ...store(2, 2).event, dp_rank: 1 } });
    lab.say(7n);
    expect(lab.index.calls).toBe(0);
    expect(lab.ingest.counters.dropped).toMatchObject({ malformed: 2, "unknown-source": 1, "foreign-events": 2 });
    lab.say(7n, store(1, 1));
    expect(lab.held()).toEqual([path(1)]);
  });

  it("of tiers, domains and positions that cannot be placed count on but change nothing", async () => {
    const lab = new Lab();
    await lab.live(sourceOf(7n));
    const stored = { parent_hash: null, start_position: 4, blocks: [] };
    lab.say(
      7n,
      { ...store(1, 1), storage_tier: "tape" },
      { ...store(2, 1), residency_domain: "cache_owner" },
      event(3, { stored }),
    );
    lab.say(7n, store(4, 9), store(5, 1));
    expect(lab.held()).toEqual([path(1)]);
    expect(lab.ingest.counters.dropped).toMatchObject({
      "unknown-tier": 1,
      "foreign-domain": 1,
      "orphan-position": 1,
      "unknown-parent": 1,
    });
    expect(lab.ingest.counters.gaps).toBe(0);
  });

  it("longer than is applied at once are worked off in slices, in order with those behind them", async () => {
    const lab = new Lab({ inlineBytes: 100 });
    await lab.live(sourceOf(7n));
    const blocks = Array.from({ length: 3000 }, (_, index) => ({
      block_hash: BigInt(index + 1),
      tokens_hash: BigInt(index),
      mm_extra_info: null,
    }));
    lab.say(7n, event(1, { stored: { parent_hash: null, blocks } }));
    lab.say(7n, remove(2, 3000), store(3, 3000, 2999));
    expect(lab.held()).toEqual([]);
    await until(() => lab.ingest.isSettled);
    expect(lab.held()).toHaveLength(3000);
    expect(lab.ingest.counters).toMatchObject({ stored: 2, removed: 1, blocks: 3002, gaps: 0 });
    // The long event went in by portions, each after the last block of the one before.
    expect(lab.index.calls).toBe(8);
  });

  it("clear one rank only", async () => {
    const lab = new Lab();
    await lab.live(sourceOf(7n), dump([store(0, 1)], 1));
    const other = { ...store(0, 1), event: { ...store(0, 1).event, dp_rank: 1 } };
    await lab.live(sourceOf(8n, { dpRank: 1 }), dump([other], 1));
    lab.say(7n, event(2, "cleared"));
    expect([lab.held(0), lab.held(1)]).toEqual([[], [path(1)]]);
  });
});

describe("sources that go", () => {
  it("take their blocks with them, whatever state they are in, and are not heard after", async () => {
    const lab = new Lab();
    await lab.live(sourceOf(7n), dump([store(0, 1)], 1));
    lab.ingest.sourceAppeared(sourceOf(8n, { dpRank: 1 }));
    const pending = await lab.question(1);
    lab.ingest.workerGone(workerId);
    pending.answer(dump([store(0, 1)], 1));
    lab.say(7n, store(2, 2));
    await new Promise((resolve) => setImmediate(resolve));
    expect(lab.index.holders.size).toBe(0);
    expect(lab.holders.slice(-2)).toEqual([`${workerId}/0=undefined`, `${workerId}/1=undefined`]);
    expect(lab.ingest.counters.dropped["unknown-source"]).toBe(1);
  });

  it("do not take away what a newer publisher of the same rank told", async () => {
    const lab = new Lab();
    await lab.live(sourceOf(7n), dump([store(0, 1)], 1));
    await lab.live(sourceOf(8n), dump([store(0, 2, null)], 1));
    lab.ingest.sourceGone(sourceOf(7n));
    expect(lab.held()).toEqual([path(2)]);
    lab.ingest.sourceGone(sourceOf(8n));
    expect(lab.index.holders.size).toBe(0);
  });
});

describe("resync", () => {
  it("asks every source for what is newer than its cursor; nothing newer changes nothing", async () => {
    const lab = new Lab();
    await lab.live(sourceOf(7n), dump([store(0, 1)], 1));
    lab.ingest.resync();
    const question = await lab.question(1);
    expect(question.start).toBe(2);
    question.answer({ TooNew: { requested_start: 2, requested_end: 1, newest_available: 1 } });
    await until(() => lab.ingest.isSettled);
    expect(lab.held()).toEqual([path(1)]);
    expect(lab.ingest.sources()).toMatchObject([{ cursor: 1, state: "live" }]);
  });
});

describe("whatever is lost or swapped on the way", () => {
  it("the index ends up as the worker's own", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 12 })), { minLength: 1, maxLength: 40 }),
        fc.array(fc.boolean(), { minLength: 40, maxLength: 40 }),
        fc.integer({ min: 1, max: 6 }),
        async (steps, isLost, ringSize) => {
          const log = steps.map(([isStore, number], index) =>
            isStore ? store(index + 1, number, null) : remove(index + 1, number),
          );
          const truth = new Set<number>();
          let said = 0;
          const index = new PlainKvIndex();
          const query: RecoveryQuery = (_source, start) => {
            const isInRing = start !== undefined && start > said - ringSize;
            const held = [...truth].map((number, id) => store(id, number, null));
            const answer = isInRing ? since(log.slice(start - 1, said), said) : dump(held, said);
            return Promise.resolve({ codec: "json", bytes: encodeEvents("json", answer) });
          };
          const ingest = new KvEventIngest({ index, query, log: silentLogger, holderChanged: () => {} });
          ingest.sourceAppeared(sourceOf(7n));
          for (const [number, step] of log.entries()) {
            const [isStore, block] = steps[number] as [boolean, number];
            if (isStore) truth.add(block);
            else truth.delete(block);
            said++;
            if (isLost[number] !== true) ingest.onPayload(encodeEvents("msgpack", [step]), 7n);
            if (number % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
          }
          await until(() => ingest.isSettled);
          ingest.resync();
          await until(() => ingest.isSettled);
          const holder = ingest.holderOf({ workerId, dpRank: 0 }) ?? -1;
          expect(index.pathsOf(holder).map((text) => text.split(" ")[0])).toEqual(
            [...truth].map((number) => path(number)).sort(),
          );
          ingest.close();
        },
      ),
      { numRuns: 60 },
    );
  });
});
