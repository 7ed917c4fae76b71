import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import { encode } from "@msgpack/msgpack";
import { Publisher } from "zeromq";
import { type PromptTokens, prefixMatchKey, promptTokensKey } from "../../../../src/data/attributes.ts";
import type { Endpoint } from "../../../../src/data/endpoint.ts";
import type { PrecisePrefixCacheParameters } from "../../../../src/data/producers/precise-prefix-cache-parameters.ts";
import {
  PrecisePrefixCacheProducer,
  PrecisePrefixMatch,
  precisePrefixCacheProducerDefinition,
} from "../../../../src/data/producers/precise-prefix-cache-producer.ts";
import { PrecisePrefixCacheScorer } from "../../../../src/data/producers/precise-prefix-cache-scorer.ts";
import type { InferenceRequest } from "../../../../src/request/inference-request.ts";
import { assignmentOf, contextOf, createPool, type Pool, requestOf } from "./pool.ts";

const name = "precise";
const blockSize = 4;
let pool: Pool;
let nowMs: number;
let publisher: Publisher;
const producers: PrecisePrefixCacheProducer[] = [];

beforeEach(() => {
  pool = createPool();
  nowMs = 0;
  publisher = new Publisher({ linger: 0 });
});
afterEach(async () => {
  for (const producer of producers.splice(0)) await producer.close();
  publisher.close();
});

const contextAt = () => ({ ...contextOf(pool, name), now: () => nowMs });

function parameters(more: Partial<PrecisePrefixCacheParameters> = {}): PrecisePrefixCacheParameters {
  return {
    tokenProcessorConfig: { blockSizeTokens: blockSize },
    kvEventsConfig: { zmqEndpoint: "tcp://127.0.0.1:*", discoverPods: false },
    speculativeIndexing: false,
    speculativeTTL: "2s",
    ...more,
  };
}

async function create(more: Partial<PrecisePrefixCacheParameters> = {}): Promise<PrecisePrefixCacheProducer> {
  const producer = new PrecisePrefixCacheProducer(parameters(more), contextAt());
  producers.push(producer);
  await producer.opened();
  return producer;
}

const ids = (blocks: number, from = 0): Uint32Array =>
  Uint32Array.from({ length: blocks * blockSize }, (_, i) => from + i);

function requestWith(
  tokens: PromptTokens | undefined,
  options: Parameters<typeof requestOf>[1] = {},
): InferenceRequest {
  const request = requestOf({ kind: "opaque" }, options);
  if (tokens !== undefined) request.setAttribute(promptTokensKey, tokens);
  return request;
}

const exact = (...prompts: Uint32Array[]): PromptTokens => ({ ids: prompts, exact: true });

function matched(producer: PrecisePrefixCacheProducer, request: InferenceRequest): readonly number[] | undefined {
  producer.produce(request, pool.snapshot());
  const match = request.attribute(prefixMatchKey(name));
  return match && pool.snapshot().map((endpoint) => match.matchedBlocks(endpoint));
}

const sequences = new Map<string, bigint>();

async function publish(endpoint: Endpoint, events: readonly unknown[]): Promise<void> {
  const sequence = sequences.get(endpoint.hostPort) ?? 0n;
  sequences.set(endpoint.hostPort, sequence + 1n);
  const frame = Buffer.alloc(8);
  frame.writeBigUInt64BE(sequence);
  await publisher.send([`kv@${endpoint.hostPort}@m`, frame, encode([1.5, events, 0], { useBigInt64: true })]);
}

async function until(what: string, check: () => boolean, again: () => Promise<void> = async () => {}): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!check()) {
    if (performance.now() > deadline) throw new Error(`not in time: ${what}`);
    await again();
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** What the endpoint's engine says; resolves when the producer has heard it. */
async function say(producer: PrecisePrefixCacheProducer, endpoint: Endpoint, ...events: unknown[]): Promise<void> {
  const counters = () => (producer.dumpState() as { events: Record<string, number> }).events;
  if (publisher.lastEndpoint === null) {
    publisher.connect(producer.boundEndpoint ?? "");
    // A publisher that has not joined yet speaks to nobody.
    await until(
      "the publisher joins",
      () => (counters()["batches"] ?? 0) > 0,
      () => publish(endpoint, [["Ignored"]]),
    );
  }
  const applied = (): number =>
    (counters()["stored"] ?? 0) + (counters()["removed"] ?? 0) + (counters()["cleared"] ?? 0);
  const before = applied();
  await publish(endpoint, events);
  await until("the events are applied", () => applied() > before);
}

const stored = (blocks: number, options: { from?: number; medium?: string; lora?: string; first?: number } = {}) => [
  "BlockStored",
  Array.from({ length: blocks }, (_, i) => (options.first ?? 1) + i),
  null,
  [...ids(blocks, options.from)],
  blockSize,
  null,
  options.medium ?? "GPU",
  options.lora ?? null,
];

describe("precise-prefix-cache-producer", () => {
  it("matches what each engine said it holds, and no more after it was removed", async () => {
    const [first, second] = [pool.add(), pool.add()] as const;
    const producer = await create();
    await say(producer, first, stored(3));
    await say(producer, second, stored(1));
    const request = requestWith(exact(ids(4)));
    expect(matched(producer, request)).toEqual([3, 1]);
    expect(request.attribute(prefixMatchKey(name))).toMatchObject({ totalBlocks: 4, blockSizeTokens: 4 });
    await say(producer, first, ["BlockRemoved", [3], "GPU"]);
    expect(matched(producer, requestWith(exact(ids(4))))).toEqual([2, 1]);
    await say(producer, first, ["AllBlocksCleared"]);
    expect(matched(producer, requestWith(exact(ids(4))))).toEqual([0, 1]);
  });

  it("counts what lies on a lower tier for less, and tells it apart from the blocks themselves", async () => {
    const endpoint = pool.add();
    const producer = await create();
    const host = stored(4, { medium: "CPU" });
    await say(producer, endpoint, stored(2), host);
    const request = requestWith(exact(ids(4)));
    expect(matched(producer, request)).toEqual([2 + 2 * 0.8]);
    const match = request.attribute(prefixMatchKey(name));
    expect(match instanceof PrecisePrefixMatch && match.cachedBlocks(endpoint)).toBe(4);
  });

  it("matches each prompt of a request by itself", async () => {
    const endpoint = pool.add();
    const producer = await create();
    await say(producer, endpoint, stored(2), stored(1, { from: 100, first: 50 }));
    expect(matched(producer, requestWith(exact(ids(3), ids(2, 100))))).toEqual([3]);
  });

  it("keeps an adapter's blocks, and a tenant's, from other requests", async () => {
    const endpoint = pool.add();
    const producer = await create();
    await say(producer, endpoint, stored(2, { lora: "sql" }));
    expect(matched(producer, requestWith(exact(ids(2)), { model: "sql" }))).toEqual([2]);
    expect(matched(producer, requestWith(exact(ids(2)), { model: "base" }))).toEqual([0]);
    expect(matched(producer, requestWith(exact(ids(2)), { model: "sql", cacheSalt: "t" }))).toEqual([0]);
  });

  it.each([
    ["no tokens", undefined],
    ["estimated ones", { ids: [ids(4)], exact: false }],
    ["not one whole block", exact(Uint32Array.of(1, 2))],
  ])("publishes nothing for a request with %s", async (_what, tokens) => {
    pool.add();
    const producer = await create();
    expect(matched(producer, requestWith(tokens))).toBeUndefined();
  });

  it("takes an endpoint's blocks along when it leaves, and gives the next one in its slot nothing of them", async () => {
    const gone = pool.add();
    const producer = await create();
    await say(producer, gone, stored(3));
    const request = requestWith(exact(ids(3)));
    producer.produce(request, pool.snapshot());
    pool.remove(gone);
    const next = pool.add();
    expect(request.attribute(prefixMatchKey(name))?.matchedBlocks(next)).toBe(0);
    expect(matched(producer, requestWith(exact(ids(3))))).toEqual([0]);
    await say(producer, next, stored(1));
    expect(matched(producer, requestWith(exact(ids(3))))).toEqual([1]);
  });

  it("believes for a while that the picked endpoint holds the prompt, and the prefill endpoint too", async () => {
    const [decode, prefill] = [pool.add(), pool.add()] as const;
    pool.add();
    const producer = await create({ speculativeIndexing: true });
    const request = requestWith(exact(ids(3)));
    expect(matched(producer, request)).toEqual([0, 0, 0]);
    producer.assigned(request, assignmentOf([decode], prefill));
    expect(matched(producer, requestWith(exact(ids(2))))).toEqual([2, 2, 0]);
    nowMs = 2001;
    expect(matched(producer, requestWith(exact(ids(2))))).toEqual([0, 0, 0]);
  });

  it.each([
    ["fails before its prompt is computed", false, { kind: "failed", status: 503 } as const, 0],
    ["is left while it is answered", true, { kind: "client-gone" } as const, 3],
    ["completes", true, { kind: "completed", status: 200 } as const, 3],
  ])("believes it as the request %s", async (_what, isPrefilled, cause, blocks) => {
    const endpoint = pool.add();
    const producer = await create({ speculativeIndexing: true });
    const request = requestWith(exact(ids(3)));
    producer.produce(request, pool.snapshot());
    const assignment = assignmentOf([endpoint]);
    producer.assigned(request, assignment);
    if (isPrefilled) producer.firstByte(request);
    producer.ended(request, assignment, cause);
    expect(matched(producer, requestWith(exact(ids(3))))).toEqual([blocks]);
  });

  it("keeps what engines said over a reload that listens in the same way", async () => {
    const endpoint = pool.add();
    const old = await create();
    await say(old, endpoint, stored(3));
    const fresh = await create({ speculativeIndexing: true });
    await old.close();
    expect(matched(fresh, requestWith(exact(ids(3))))).toEqual([3]);
    await fresh.close();
    expect(pool.listeners).toBe(0);
  });

  it("reports the shares of a prompt that endpoints hold", async () => {
    const first = pool.add();
    pool.add();
    const producer = await create();
    await say(producer, first, stored(3));
    const seen: number[][] = [];
    producer.matchObserver = { matched: (...shares) => void seen.push(shares) };
    matched(producer, requestWith(exact(ids(4))));
    expect(seen).toEqual([[0.75, 0.375, 0.375]]);
  });

  it("scores by itself under the older name", async () => {
    const first = pool.add();
    pool.add();
    const scorer = new PrecisePrefixCacheScorer(parameters(), contextAt());
    producers.push(scorer.producer);
    await scorer.producer.opened();
    await say(scorer.producer, first, stored(3));
    const request = requestWith(exact(ids(4)));
    scorer.produce(request, pool.snapshot());
    const scores = new Float64Array(2);
    scorer.score({ request }, pool.snapshot(), scores);
    expect([...scores]).toEqual([0.75, 0]);
  });

  it.each([
    [{ speculativeTTL: "soon" }, ["speculativeTTL"]],
    [
      { indexerConfig: { kvBlockIndexConfig: { redisConfig: {}, valkeyConfig: null } } },
      ["indexerConfig.kvBlockIndexConfig.redisConfig"],
    ],
    [{ kvEventsConfig: { discoverPods: false } }, ["kvEventsConfig"]],
    [{ kvEventsConfig: { zmqEndpoint: "5557" } }, ["kvEventsConfig.zmqEndpoint"]],
    [
      { kvEventsConfig: { podDiscoveryConfig: { podLabelSelector: "a b" } } },
      ["kvEventsConfig.podDiscoveryConfig.podLabelSelector"],
    ],
    [{}, []],
  ] satisfies [Partial<PrecisePrefixCacheParameters>, string[]][])("finds the faults of %j", (more, places) => {
    const faults = precisePrefixCacheProducerDefinition.validate?.(parameters(more)) ?? [];
    expect(faults.map((fault) => fault.split(":")[0])).toEqual(places);
  });
});
