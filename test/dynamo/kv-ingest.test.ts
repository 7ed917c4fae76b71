/** Real workers' KV events into an index, over both event planes; and the same index again after a restart, from recovery alone. */
import { afterEach, describe, expect, it } from "@jest/globals";
import { createFileDiscovery } from "../../src/dynamo/discovery/file/file-discovery.ts";
import { createEventPlane } from "../../src/dynamo/event-plane/create-event-plane.ts";
import { parseActiveLoad } from "../../src/dynamo/kv-events/active-load.ts";
import type { DynamoRecord, EventSourceRecord, InstanceRecord } from "../../src/dynamo/records.ts";
import type { CallEnd } from "../../src/dynamo/request-plane/contracts.ts";
import { createRequestPlane } from "../../src/dynamo/request-plane/request-plane.ts";
import { readAnnotated } from "../../src/dynamo/request-plane/stream-item.ts";
import { KvEventIngest } from "../../src/prefill-router/indexer/kv-event-ingest.ts";
import { createRecoveryQuery } from "../../src/prefill-router/indexer/recovery-query.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import { startFaultProxy } from "../kubernetes/fault-proxy.ts";
import { startNats } from "../nats.ts";
import { until } from "../unit/dynamo/until.ts";
import { PlainKvIndex } from "../unit/prefill-router/indexer/plain-kv-index.ts";
import { sendLoad } from "./load.ts";
import { type DynamoStack, startDynamo } from "./stack.ts";

const scope = { namespace: "ns", component: "backend", endpoint: "generate" };
const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Follower {
  readonly ingest: KvEventIngest;
  readonly sources: ReadonlyMap<string, EventSourceRecord>;
  readonly instances: ReadonlyMap<string, InstanceRecord>;
  readonly loads: () => number;
  readonly lost: () => number;
  /** By worker and rank, what the index says it holds. */
  held(): Readonly<Record<string, readonly string[]>>;
  close(): Promise<void>;
}

/** What a picker has of the workers: discovery, event plane, request plane and an index. */
async function follow(stack: DynamoStack, changes: Readonly<Record<string, string>> = {}): Promise<Follower> {
  const plane = createEventPlane({ ...stack.environment, ...changes }, silentLogger);
  const requests = await createRequestPlane({ host: "127.0.0.1" });
  const index = new PlainKvIndex();
  const query = createRecoveryQuery(requests, 10_000);
  const ingest = new KvEventIngest({ index, query, log: silentLogger, holderChanged: () => {} });
  const sources = new Map<string, EventSourceRecord>();
  const instances = new Map<string, InstanceRecord>();
  let loads = 0;
  const events = await plane.subscribe(scope, "kv-events", (payload, id) => ingest.onPayload(payload, id));
  const metrics = await plane.subscribe(scope, "kv_metrics", (payload) => {
    if (parseActiveLoad(payload).workerId > 0n) loads++;
  });
  // A source may be told before its channel, but is only asked for its past once it is heard.
  const meet = (): void => {
    for (const record of sources.values()) if (channels.has(record.publisherId)) ingest.sourceAppeared(record);
  };
  const channels = new Set<bigint>();
  const put = (key: string, record: DynamoRecord): void => {
    if (record.type === "EventChannel") {
      events.opened(record);
      metrics.opened(record);
      channels.add(record.publisherId);
    } else if (record.type === "EventSource") sources.set(key, record);
    else if (record.type === "Endpoint") instances.set(key, record);
    meet();
  };
  const removed = (key: string, record: DynamoRecord): void => {
    if (record.type === "EventChannel") {
      events.closed(record);
      channels.delete(record.publisherId);
    } else if (record.type === "EventSource") {
      sources.delete(key);
      ingest.sourceGone(record);
    } else if (record.type === "Endpoint") instances.delete(key);
  };
  const discovery = createFileDiscovery({ root: stack.storePath, log: silentLogger, pollMs: 100 });
  await discovery.start({ put, removed });
  const close = async (): Promise<void> => {
    await discovery.close();
    ingest.close();
    await plane.close();
    await requests.close();
  };
  closers.push(close);
  const held = (): Record<string, readonly string[]> =>
    Object.fromEntries(
      [...sources.values()].map((source) => [
        `${source.workerId}/${source.dpRank}`,
        index.pathsOf(ingest.holderOf(source) ?? -1),
      ]),
    );
  const lost = (): number => Object.values(plane.counters.dropped).reduce((sum, count) => sum + count, 0);
  return { ingest, sources, instances, loads: () => loads, lost, held, close };
}

async function load(stack: DynamoStack, requests: number): Promise<void> {
  const { workers } = stack;
  const { statuses } = await sendLoad({
    url: stack.frontend.url,
    requests,
    concurrency: 8,
    maxTokens: 24,
    prompt: (index) => `story ${index % 9} `.repeat(20 + 10 * (index % 4)),
    headers: (index) => ({ "x-dynamo-worker-instance-id": String(workers[index % workers.length]?.instanceId) }),
  });
  expect([...statuses.keys()]).toEqual([200]);
}

/** Nothing tells that a worker has said its last event: its own count of what it sent does. */
async function quiet(follower: Follower, others: readonly Follower[] = []): Promise<void> {
  const count = (): number => [follower, ...others].reduce((sum, { ingest }) => sum + ingest.counters.messages, 0);
  let last = -1;
  let sinceMs = performance.now();
  await until(() => {
    if (count() !== last) {
      last = count();
      sinceMs = performance.now();
    }
    return performance.now() - sinceMs > 300 && follower.ingest.isSettled;
  }, 15_000);
}

describe.each(["zmq", "nats"] as const)("KV events of real workers over %s", (kind) => {
  it("make an index that a restarted follower rebuilds from the workers alone", async () => {
    const server = kind === "nats" ? await startNats() : undefined;
    if (server !== undefined) closers.push(() => server.kill());
    const stack = await startDynamo({
      workers: 2,
      dataParallel: 2,
      eventPlane: server === undefined ? "zmq" : { nats: server.url },
      workerArgs: ["--num-gpu-blocks-override", "96"],
    });
    closers.push(() => stack.close());
    const first = await follow(stack);
    await until(() => first.sources.size === 4 && first.ingest.isSettled, 10_000);
    await load(stack, 300);
    await quiet(first);
    const before = first.held();
    expect(Object.values(before).flat().length).toBeGreaterThan(100);
    expect(first.ingest.counters.removed).toBeGreaterThan(0);
    expect(first.loads()).toBeGreaterThan(0);
    expect(first.lost()).toBe(0);
    expect(first.ingest.counters).toMatchObject({
      gaps: 0,
      dropped: { malformed: 0, "unknown-parent": 0, "foreign-events": 0 },
    });

    await first.close();
    const second = await follow(stack);
    await until(
      () => second.sources.size === 4 && second.ingest.isSettled && second.ingest.counters.treeDumps === 4,
      10_000,
    );
    expect(second.held()).toEqual(before);

    // Under load, one that was there throughout, one that came in the middle and one that comes after agree.
    const loading = load(stack, 400);
    const third = await follow(stack);
    await loading;
    await quiet(second, [third]);
    const fourth = await follow(stack);
    await until(
      () => fourth.sources.size === 4 && fourth.ingest.isSettled && fourth.ingest.counters.treeDumps === 4,
      10_000,
    );
    expect(third.held()).toEqual(second.held());
    expect(fourth.held()).toEqual(second.held());
  });
});

describe("the events of a worker that is missed for a while", () => {
  it("are asked for, and the index is whole again", async () => {
    const server = await startNats();
    closers.push(() => server.kill());
    const stack = await startDynamo({ workers: 1, eventPlane: { nats: server.url } });
    closers.push(() => stack.close());
    // The follower's own way to the server: the worker goes on being heard by it, and nobody keeps for the follower what it says meanwhile.
    const way = await startFaultProxy(Number(new URL(server.url).port));
    closers.push(() => way.close());
    const follower = await follow(stack, { NATS_SERVER: `nats://127.0.0.1:${way.port}` });
    await until(() => follower.sources.size === 1 && follower.ingest.isSettled, 10_000);
    await load(stack, 20);
    // A whole past is asked for once more some time later, which would find what is missed without a gap.
    await until(() => follower.ingest.counters.recoveriesDone === 2, 10_000);
    await quiet(follower);
    expect(follower.ingest.counters.gaps).toBe(0);
    const { messages } = follower.ingest.counters;
    const witness = await follow(stack);
    await until(() => witness.sources.size === 1 && witness.ingest.isSettled, 10_000);
    way.manner = "refuse";
    way.cut();
    // Until they are said: a worker says its events some time after the answers.
    await until(async () => {
      await load(stack, 60);
      return witness.ingest.counters.messages > 0;
    }, 20_000);
    await quiet(witness);
    expect(follower.ingest.counters.messages).toBe(messages);
    way.manner = "pass";
    // The first event that is heard again shows that others were not.
    await until(async () => {
      await load(stack, 9);
      return follower.ingest.counters.messages > messages;
    }, 20_000);
    await quiet(follower);
    expect(follower.ingest.counters.gaps).toBeGreaterThan(0);
    const fresh = await follow(stack);
    await until(
      () => fresh.sources.size === 1 && fresh.ingest.isSettled && fresh.ingest.counters.treeDumps === 1,
      10_000,
    );
    expect(follower.held()).toEqual(fresh.held());
  });
});

describe("the request plane to a real worker", () => {
  it.each(["json", "msgpack"] as const)("streams an answer in %s, and ends when told to", async (codec) => {
    const stack = await startDynamo({ workers: 1, routerMode: "none" });
    closers.push(() => stack.close());
    const follower = await follow(stack);
    await until(() => follower.instances.size > 1, 10_000);
    const generate = [...follower.instances.values()].find(({ endpoint }) => endpoint === "generate");
    if (generate === undefined) throw new Error("no generate endpoint");
    const plane = await createRequestPlane({ host: "127.0.0.1", answerTimeoutMs: 1500 });
    closers.push(() => plane.close());
    const { encode } = await import("@msgpack/msgpack");
    const request = {
      model: "tiny",
      token_ids: [1, 2, 3, 4],
      stop_conditions: { max_tokens: 5 },
      sampling_options: {},
      output_options: {},
      eos_token_ids: [2],
      annotations: [],
    };
    const send = (body: unknown, instance = generate): Promise<{ readonly items: number; readonly end: CallEnd }> =>
      new Promise((resolve) => {
        let items = 0;
        const bytes = codec === "json" ? Buffer.from(JSON.stringify(body)) : encode(body);
        plane.call(
          instance,
          bytes,
          { codec },
          {
            item: (data) => {
              expect(readAnnotated(data, codec)).toMatchObject({ event: undefined });
              items++;
            },
            ended: (end) => resolve({ items, end }),
          },
        );
      });
    // One item a token, and a last one with the reason it ended.
    expect(await send(request)).toEqual({ items: 6, end: { kind: "complete" } });
    const elsewhere: InstanceRecord = {
      ...generate,
      transport: { kind: "tcp", address: addressOf(generate), path: "1a/ns/backend/nothing" },
    };
    expect(await send(request, elsewhere)).toMatchObject({ end: { kind: "failed", reason: "unavailable" } });
    expect(await send({ nope: 1 })).toMatchObject({ items: 0, end: { kind: "failed", reason: "no-answer" } });
    expect(plane.counters).toMatchObject({ strangers: 0 });
  });
});

function addressOf({ transport }: InstanceRecord): string {
  if (transport.kind !== "tcp") throw new Error("not reached by tcp");
  return transport.address;
}
