import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import { type PrefixMatch, prefixMatchKey, promptTokensKey } from "../../../../src/data/attributes.ts";
import type { Endpoint } from "../../../../src/data/endpoint.ts";
import type { EndCause } from "../../../../src/data/producer.ts";
import {
  type ApproxPrefixCacheParameters,
  type ApproxPrefixCacheProducer,
  approxPrefixCacheProducerDefinition,
} from "../../../../src/data/producers/approx-prefix-cache-producer.ts";
import type { InferenceRequest } from "../../../../src/request/inference-request.ts";
import { assignmentOf, contextOf, createPool, type Pool, requestOf, textOf, textRequest } from "./pool.ts";

const name = "approx";
const defaults: ApproxPrefixCacheParameters = {
  autoTune: true,
  blockSizeTokens: 16,
  maxPrefixTokensToMatch: 131_072,
  maxPrefixBlocksToMatch: 2_048,
  lruCapacityPerServer: 31_250,
};

let pool: Pool;
let producers: ApproxPrefixCacheProducer[];

beforeEach(() => {
  pool = createPool();
  producers = [];
});

afterEach(async () => {
  for (const producer of producers) await producer.close();
});

function create(parameters: Partial<ApproxPrefixCacheParameters> = {}): ApproxPrefixCacheProducer {
  const producer = approxPrefixCacheProducerDefinition.create({ ...defaults, ...parameters }, contextOf(pool, name));
  producers.push(producer);
  return producer;
}

function matchOf(producer: ApproxPrefixCacheProducer, request: InferenceRequest): PrefixMatch | undefined {
  producer.produce(request, pool.snapshot());
  return request.attribute(prefixMatchKey(name));
}

function matched(producer: ApproxPrefixCacheProducer, request: InferenceRequest): readonly number[] {
  const match = matchOf(producer, request);
  return pool.snapshot().map((endpoint) => match?.matchedBlocks(endpoint) ?? -1);
}

/** Sends the request to the endpoint and leaves it in flight. */
function send(producer: ApproxPrefixCacheProducer, request: InferenceRequest, ...endpoints: readonly Endpoint[]): void {
  producer.produce(request, pool.snapshot());
  producer.assigned(request, assignmentOf(endpoints));
}

describe("approx-prefix-cache-producer", () => {
  it("predicts the blocks of an earlier prompt on the endpoint that got it, before that request ends", () => {
    const producer = create();
    const first = pool.add();
    pool.add();
    send(producer, textRequest([textOf(5)]), first);
    expect(matched(producer, textRequest([textOf(5) + textOf(2, 900)]))).toEqual([5, 0]);
    expect(matched(producer, textRequest([textOf(3) + textOf(2, 900)]))).toEqual([3, 0]);
    expect(matched(producer, textRequest([textOf(5, 900)]))).toEqual([0, 0]);
  });

  it("counts the trailing partial block and matches it only when it is the same", () => {
    const producer = create();
    send(producer, textRequest([`${textOf(2)}tail`]), pool.add());
    const same = matchOf(producer, textRequest([`${textOf(2)}tail`]));
    expect([same?.totalBlocks, same?.hashes.length, same?.blockSizeTokens]).toEqual([3, 6, 64]);
    expect(matched(producer, textRequest([`${textOf(2)}tail`]))).toEqual([3]);
    expect(matched(producer, textRequest([`${textOf(2)}tale`]))).toEqual([2]);
  });

  it.each([
    ["another target model", { model: "other" }],
    ["another cache salt", { cacheSalt: "tenant" }],
  ])("finds nothing under %s", (_name, options) => {
    const producer = create();
    send(producer, textRequest([textOf(3)]), pool.add());
    expect(matched(producer, textRequest([textOf(3)], options))).toEqual([0]);
  });

  it("hashes under the model that leaves, not the one that was asked for", () => {
    const producer = create();
    const rewritten = textRequest([textOf(3)], { model: "alias" });
    rewritten.targetModel = "m";
    send(producer, rewritten, pool.add());
    expect(matched(producer, textRequest([textOf(3)]))).toEqual([3]);
  });

  it("matches each prompt of a request by itself and adds the matches up", () => {
    const producer = create();
    send(producer, textRequest([textOf(4), textOf(6, 50)]), pool.add());
    expect(matched(producer, textRequest([textOf(6, 50), textOf(2)]))).toEqual([8]);
    expect(matched(producer, textRequest([textOf(4) + textOf(6, 50)]))).toEqual([4]);
  });

  it("hashes token ids where the client sent them or a tokenizer found them", () => {
    const producer = create();
    const ids = Uint32Array.from({ length: 200 }, (_, i) => i * 7);
    send(producer, requestOf({ kind: "tokens", chains: [ids] }), pool.add());
    const tokenized = textRequest(["any text"]);
    tokenized.setAttribute(promptTokensKey, { ids: [ids.slice(0, 128)], exact: true });
    expect(matched(producer, tokenized)).toEqual([2]);
    const estimated = textRequest(["any text"]);
    estimated.setAttribute(promptTokensKey, { ids: [ids], exact: false });
    expect(matched(producer, estimated)).toEqual([0]);
  });

  it.each([
    ["an opaque body", requestOf({ kind: "opaque" }, { body: Buffer.from("xyz") })],
    ["an empty prompt", textRequest([""])],
    ["no prompt", textRequest([])],
  ])("publishes nothing for %s", (_name, request) => {
    const producer = create();
    expect(matchOf(producer, request)).toBeUndefined();
    producer.assigned(request, assignmentOf([pool.add()]));
    producer.ended(request, assignmentOf([]), { kind: "failed", status: 500 });
    expect(producer.indexedBlocks).toBe(0);
  });

  it("learns the first endpoint of the prefill profile as well", () => {
    const producer = create();
    const decode = pool.add();
    const prefill = pool.add();
    const request = textRequest([textOf(3)]);
    producer.produce(request, pool.snapshot());
    producer.assigned(request, assignmentOf([decode], prefill));
    expect(matched(producer, textRequest([textOf(3)]))).toEqual([3, 3]);
  });

  const before = "before the first byte";
  const after = "after it";
  it.each<[EndCause, string, number]>([
    [{ kind: "completed", status: 200 }, after, 5],
    [{ kind: "failed", status: 500 }, after, 2],
    [{ kind: "failed", status: 400 }, before, 2],
    [{ kind: "error" }, after, 2],
    [{ kind: "client-gone" }, before, 2],
    [{ kind: "client-gone" }, after, 5],
    [{ kind: "evicted" }, before, 2],
    [{ kind: "evicted" }, after, 5],
    [{ kind: "timeout" }, before, 2],
    [{ kind: "timeout" }, after, 5],
  ])("after an end of %j %s, believes in %i blocks where 2 were there before", (cause, when, expected) => {
    const producer = create();
    const endpoint = pool.add();
    const assignment = assignmentOf([endpoint]);
    send(producer, textRequest([textOf(2)]), endpoint);
    const request = textRequest([textOf(5)]);
    send(producer, request, endpoint);
    if (when === after) producer.firstByte(request);
    producer.ended(request, assignment, cause);
    expect(matched(producer, textRequest([textOf(5)]))).toEqual([expected]);
  });

  it("keeps what another request relies on when the first one fails", () => {
    const producer = create();
    const endpoint = pool.add();
    const request = textRequest([textOf(5)]);
    send(producer, request, endpoint);
    send(producer, textRequest([textOf(3)]), endpoint);
    producer.ended(request, assignmentOf([endpoint]), { kind: "failed", status: 503 });
    expect(matched(producer, textRequest([textOf(5)]))).toEqual([3]);
  });

  it("moves the blocks to the fallback that served the request", () => {
    const producer = create();
    const destination = pool.add();
    const fallback = pool.add();
    const request = textRequest([textOf(3)]);
    send(producer, request, destination, fallback);
    producer.responseHeaders(request, assignmentOf([destination, fallback]), {
      status: 200,
      served: fallback.hostPort,
    });
    expect(matched(producer, textRequest([textOf(3)]))).toEqual([0, 3]);
  });

  it("holds as many tokens as the engine does, and follows its capacity when a scrape changes it", () => {
    const producer = create();
    let endpoint = pool.add({ totalBlocks: 40, blockSizeTokens: 16 });
    send(producer, textRequest([textOf(30)]), endpoint);
    expect(matched(producer, textRequest([textOf(30)]))).toEqual([10]);
    endpoint = pool.scrape(endpoint, { totalBlocks: 80, blockSizeTokens: 16 });
    send(producer, textRequest([textOf(30)]), endpoint);
    expect(matched(producer, textRequest([textOf(30)]))).toEqual([20]);
    endpoint = pool.scrape(endpoint, { totalBlocks: 20, blockSizeTokens: 16 });
    send(producer, textRequest([textOf(1)]), endpoint);
    expect(matched(producer, textRequest([textOf(30)]))).toEqual([5]);
  });

  it.each([
    ["unknown", true, {}],
    ["not asked for", false, { totalBlocks: 4, blockSizeTokens: 16 }],
  ])(
    "holds lruCapacityPerServer blocks of blockSizeTokens tokens while the engine's capacity is %s",
    (_name, autoTune, metrics) => {
      const producer = create({ autoTune, lruCapacityPerServer: 28 });
      send(producer, textRequest([textOf(30)]), pool.add(metrics));
      expect(matched(producer, textRequest([textOf(30)]))).toEqual([7]);
    },
  );

  it("gives the next endpoint in a slot nothing of the one before", () => {
    const producer = create();
    const gone = pool.add();
    send(producer, textRequest([textOf(3)]), gone);
    const match = matchOf(producer, textRequest([textOf(3)]));
    pool.remove(gone);
    const next = pool.add();
    expect([match?.matchedBlocks(gone), match?.matchedBlocks(next)]).toEqual([3, 0]);
    expect(matched(producer, textRequest([textOf(3)]))).toEqual([0]);
    expect(producer.indexedBlocks).toBe(0);
  });

  it("learns nothing for an endpoint that left while the request was decided", () => {
    const producer = create();
    const gone = pool.add();
    const request = textRequest([textOf(3)]);
    producer.produce(request, pool.snapshot());
    pool.remove(gone);
    producer.assigned(request, assignmentOf([gone]));
    producer.ended(request, assignmentOf([gone]), { kind: "error" });
    expect(producer.indexedBlocks).toBe(0);
  });

  it("matches candidates only", () => {
    const producer = create();
    const first = pool.add();
    const second = pool.add();
    send(producer, textRequest([textOf(3)]), first);
    send(producer, textRequest([textOf(3)]), second);
    const request = textRequest([textOf(3)]);
    producer.produce(request, [second]);
    const match = request.attribute(prefixMatchKey(name));
    expect([match?.matchedBlocks(first), match?.matchedBlocks(second)]).toEqual([0, 3]);
  });

  it("keeps what it learnt over a reload, and lets go of the store with the last producer", async () => {
    const old = create();
    send(old, textRequest([textOf(3)]), pool.add());
    const fresh = create({ maxPrefixTokensToMatch: 128 });
    await old.close();
    await old.close();
    expect(matched(fresh, textRequest([textOf(3)]))).toEqual([2]);
    expect(pool.listeners).toBe(1);
    await fresh.close();
    expect(pool.listeners).toBe(0);
  });

  it.each([
    ["raises the engines' small blocks to 64 tokens", [16, 16], 64],
    ["takes the engines' block size", [128, 128], 128],
    ["takes the size most engines report, not the first", [256, 128, 128], 128],
    ["takes the one that is known", [0, 128, 0], 128],
    ["clamps a size that no engine has", [1_000_000], 32_768],
  ])("%s", (_name, sizes, expected) => {
    const producer = create();
    for (const blockSizeTokens of sizes) pool.add({ blockSizeTokens });
    expect(matchOf(producer, textRequest([textOf(1)]))?.blockSizeTokens).toBe(expected);
  });

  it("keeps its block size while half the pool still reports it, since a change forgets everything", () => {
    const producer = create();
    const endpoints = [0, 1, 2].map(() => pool.add({ blockSizeTokens: 128 }));
    send(producer, textRequest([textOf(4)]), endpoints[0] as Endpoint);
    pool.scrape(endpoints[0] as Endpoint, { blockSizeTokens: 256 });
    expect(matchOf(producer, textRequest([textOf(4)]))?.blockSizeTokens).toBe(128);
    pool.scrape(endpoints[1] as Endpoint, { blockSizeTokens: 256 });
    expect(matchOf(producer, textRequest([textOf(4)]))?.blockSizeTokens).toBe(256);
  });

  it.each([
    ["the token limit first", { maxPrefixTokensToMatch: 192, maxPrefixBlocksToMatch: 2 }, 3],
    ["the block limit when there is no token limit", { maxPrefixTokensToMatch: 0, maxPrefixBlocksToMatch: 2 }, 2],
    ["no limit when both are 0", { maxPrefixTokensToMatch: 0, maxPrefixBlocksToMatch: 0 }, 9],
  ])("hashes up to %s", (_name, limits, blocks) => {
    const producer = create(limits);
    pool.add();
    expect(matchOf(producer, textRequest([textOf(4), textOf(5)]))?.totalBlocks).toBe(blocks);
  });

  it("reports the predicted hit of every assignment", () => {
    const producer = create();
    const endpoint = pool.add();
    const hits: [number, number][] = [];
    producer.hitObserver = { hit: (matchedBytes, totalBytes) => hits.push([matchedBytes, totalBytes]) };
    send(producer, textRequest([textOf(2)]), endpoint);
    send(producer, textRequest([textOf(5)]), endpoint);
    expect(hits).toEqual([
      [0, 512],
      [512, 1_280],
    ]);
    expect(producer.indexedBlocks).toBe(5);
    expect(producer.indexSizeBytes).toBeGreaterThan(0);
  });

  it("matches more than 64 endpoints", () => {
    const producer = create();
    const endpoints = Array.from({ length: 130 }, () => pool.add());
    for (const [i, endpoint] of endpoints.entries()) send(producer, textRequest([textOf(1 + (i % 5))]), endpoint);
    expect(matched(producer, textRequest([textOf(5)]))).toEqual(endpoints.map((_, i) => 1 + (i % 5)));
  });
});
