import { beforeEach, describe, expect, it } from "@jest/globals";
import { prefixMatchKey, uncachedTokensKey } from "../../../../src/data/attributes.ts";
import type { Endpoint } from "../../../../src/data/endpoint.ts";
import {
  type InflightLoadParameters,
  type InflightLoadProducer,
  inflightLoadProducerDefinition,
} from "../../../../src/data/producers/inflight-load-producer.ts";
import type { InferenceRequest } from "../../../../src/request/inference-request.ts";
import { assignmentOf, contextOf, createPool, type Pool, textOf, textRequest } from "./pool.ts";

let pool: Pool;
let first: Endpoint;
let second: Endpoint;

beforeEach(() => {
  pool = createPool();
  first = pool.add();
  second = pool.add();
});

function create(parameters: Partial<InflightLoadParameters> = {}): InflightLoadProducer {
  return inflightLoadProducerDefinition.create(
    { addEstimatedOutputTokens: false, outputRatio: 1.5, ...parameters },
    contextOf(pool, "inflight-load-producer"),
  );
}

/** A request of 640 prompt tokens. */
function request(maxOutputTokens?: number): InferenceRequest {
  const created = textRequest([textOf(10)], maxOutputTokens === undefined ? {} : { maxOutputTokens });
  created.promptTokens = 640;
  return created;
}

function loads(): unknown {
  return [first, second].map(({ load }) => [load.requests, load.tokens]);
}

function cached(of: InferenceRequest, blocks: number, on: Endpoint, producer = "approx-prefix-cache-producer"): void {
  of.setAttribute(prefixMatchKey(producer), {
    blockSizeTokens: 64,
    totalBlocks: 10,
    hashes: new Uint32Array(20),
    matchedBlocks: (endpoint) => (endpoint === on ? blocks : 0),
  });
}

describe("inflight-load-producer", () => {
  it("books at assignment, frees the prompt at the first byte and the request at the end", () => {
    const producer = create();
    const sent = request();
    const assignment = assignmentOf([first, second]);
    producer.produce(sent);
    producer.assigned(sent, assignment);
    expect(loads()).toEqual([
      [1, 640],
      [0, 0],
    ]);
    producer.firstByte(sent);
    expect(loads()).toEqual([
      [1, 0],
      [0, 0],
    ]);
    producer.ended(sent);
    expect(loads()).toEqual([
      [0, 0],
      [0, 0],
    ]);
  });

  it("frees everything at an end without a first byte, once", () => {
    const producer = create({ addEstimatedOutputTokens: true });
    const kept = request();
    const sent = request();
    for (const each of [kept, sent]) {
      producer.produce(each);
      producer.assigned(each, assignmentOf([first]));
    }
    producer.ended(sent);
    producer.ended(sent);
    producer.firstByte(sent);
    expect(loads()).toEqual([
      [1, 1_600],
      [0, 0],
    ]);
  });

  it("books once for a request that is assigned twice", () => {
    const producer = create();
    const sent = request();
    producer.assigned(sent, assignmentOf([first]));
    producer.assigned(sent, assignmentOf([second]));
    producer.ended(sent);
    expect(loads()).toEqual([
      [0, 0],
      [0, 0],
    ]);
  });

  it("counts only the prompt tokens that the endpoint has not cached, and publishes them", () => {
    const producer = create();
    const sent = request();
    cached(sent, 4, first);
    producer.produce(sent);
    const uncached = sent.attribute(uncachedTokensKey);
    expect([uncached?.uncachedTokens(first), uncached?.uncachedTokens(second)]).toEqual([384, 640]);
    producer.assigned(sent, assignmentOf([first]));
    expect(first.load.tokens).toBe(384);
  });

  it("never counts less than nothing, though the last block is a partial one", () => {
    const producer = create();
    const sent = request();
    sent.promptTokens = 600;
    cached(sent, 10, first);
    producer.produce(sent);
    producer.assigned(sent, assignmentOf([first]));
    expect(first.load.tokens).toBe(0);
  });

  it("reads the match of the producer that it is told to", () => {
    const producer = create({ prefixMatchInfoProducerName: "precise" });
    const sent = request();
    cached(sent, 4, first);
    cached(sent, 9, first, "precise");
    producer.produce(sent);
    expect(sent.attribute(uncachedTokensKey)?.uncachedTokens(first)).toBe(64);
  });

  it.each([
    ["outputRatio of the prompt", {}, undefined, 960],
    ["maxEstimatedOutputTokens", { maxEstimatedOutputTokens: 100 }, 300, 100],
    ["what the client allows", {}, 300, 300],
    ["outputRatio where the client allows 0, which means no limit", {}, 0, 960],
  ])("expects no more output than %s, until the end", (_name, parameters, maxOutputTokens, expected) => {
    const producer = create({ addEstimatedOutputTokens: true, ...parameters });
    const sent = request(maxOutputTokens);
    producer.produce(sent);
    producer.assigned(sent, assignmentOf([first]));
    producer.firstByte(sent);
    expect(first.load.tokens).toBe(expected);
    producer.ended(sent);
    expect(first.load.tokens).toBe(0);
  });

  it("books the prompt on the prefill endpoint and the answer on the destination", () => {
    const producer = create({ addEstimatedOutputTokens: true });
    const sent = request();
    producer.produce(sent);
    producer.assigned(sent, assignmentOf([first], second));
    expect(loads()).toEqual([
      [1, 960],
      [1, 640],
    ]);
    producer.firstByte(sent);
    expect(loads()).toEqual([
      [1, 960],
      [0, 0],
    ]);
    producer.ended(sent);
    expect(loads()).toEqual([
      [0, 0],
      [0, 0],
    ]);
  });

  it("moves the load to the fallback that served the request", () => {
    const producer = create();
    const sent = request();
    const assignment = assignmentOf([first, second]);
    producer.produce(sent);
    producer.assigned(sent, assignment);
    producer.responseHeaders(sent, assignment, { status: 200, served: second.hostPort });
    expect(loads()).toEqual([
      [0, 0],
      [1, 640],
    ]);
    producer.firstByte(sent);
    producer.ended(sent);
    expect(loads()).toEqual([
      [0, 0],
      [0, 0],
    ]);
  });
});
