import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import { prefixMatchKey } from "../../../../src/data/attributes.ts";
import { endpointName } from "../../../../src/data/endpoint.ts";
import {
  type ApproxPrefixCacheProducer,
  approxPrefixCacheProducerDefinition,
} from "../../../../src/data/producers/approx-prefix-cache-producer.ts";
import type { PeerId } from "../../../../src/data/shared-state.ts";
import type { InferenceRequest } from "../../../../src/request/inference-request.ts";
import fc from "../../../properties.ts";
import { assignmentOf, contextOf, createPool, type Pool, textOf, textRequest } from "./pool.ts";

const name = "approx";
const parameters = {
  autoTune: true,
  blockSizeTokens: 16,
  maxPrefixTokensToMatch: 1_000_000,
  maxPrefixBlocksToMatch: 2_048,
  lruCapacityPerServer: 31_250,
};

/** A replica of the producer, and what it told. */
interface Replica {
  readonly pool: Pool;
  readonly producer: ApproxPrefixCacheProducer;
  readonly told: Buffer[];
}

let open: ApproxPrefixCacheProducer[] = [];

function replica(endpoints: number, lruCapacityPerServer = parameters.lruCapacityPerServer): Replica {
  const pool = createPool();
  for (let i = 0; i < endpoints; i++) pool.add();
  const producer = approxPrefixCacheProducerDefinition.create(
    { ...parameters, lruCapacityPerServer },
    contextOf(pool, name),
  );
  open.push(producer);
  const told: Buffer[] = [];
  producer.shared.shareWith({
    append: (payload, length) => {
      told.push(Buffer.from(payload.subarray(0, length)));
      return true;
    },
    changed: () => {},
  });
  return { pool, producer, told };
}

function send({ pool, producer }: Replica, request: InferenceRequest, endpoint: number): void {
  producer.produce(request, pool.snapshot());
  producer.assigned(request, assignmentOf([pool.snapshot()[endpoint] as never]));
}

function matched({ pool, producer }: Replica, request: InferenceRequest): readonly number[] {
  producer.produce(request, pool.snapshot());
  const match = request.attribute(prefixMatchKey(name));
  return pool.snapshot().map((endpoint) => match?.matchedBlocks(endpoint) ?? -1);
}

function tell(from: Replica, to: Replica, peer = "a"): void {
  for (const payload of from.told.splice(0)) expect(to.producer.shared.apply(peer as PeerId, payload)).toBe(true);
}

function tellKnown(from: Replica, to: Replica): void {
  for (const payload of from.producer.shared.known()) {
    expect(to.producer.shared.apply("a" as PeerId, Buffer.from(payload))).toBe(true);
  }
}

beforeEach(() => {
  open = [];
});

afterEach(async () => {
  for (const producer of open) await producer.close();
});

describe("prefixes that replicas share", () => {
  it("are known everywhere where a request was sent from one", () => {
    const [a, b] = [replica(3), replica(3)];
    send(a, textRequest([textOf(10)]), 1);
    tell(a, b);
    expect(matched(b, textRequest([textOf(10)]))).toEqual([0, 10, 0]);
    expect(matched(b, textRequest([textOf(10)]))).toEqual(matched(a, textRequest([textOf(10)])));
  });

  it("are taken back everywhere where the request failed, but not what another replica has touched since", () => {
    const [a, b, c] = [replica(2), replica(2), replica(2)];
    const first = textRequest([textOf(4)]);
    send(a, first, 0);
    const payloads = [...a.told];
    tell(a, b);
    a.told.push(...payloads);
    tell(a, c);
    send(c, textRequest([textOf(4)]), 0);
    a.producer.ended(first, assignmentOf([a.pool.snapshot()[0] as never]), { kind: "failed", status: 500 });
    const taken = [...a.told];
    tell(a, b);
    a.told.push(...taken);
    tell(a, c);
    expect(matched(a, textRequest([textOf(4)]))).toEqual([0, 0]);
    expect(matched(b, textRequest([textOf(4)]))).toEqual([0, 0]);
    expect(matched(c, textRequest([textOf(4)]))).toEqual([4, 0]);
  });

  it("are told to a replica that begins, the most recent first, as far as it has room", () => {
    const a = replica(2);
    for (let i = 0; i < 5; i++) send(a, textRequest([textOf(8, 1000 * i)]), i % 2);
    const b = replica(2);
    tellKnown(a, b);
    for (let i = 0; i < 5; i++) {
      const request = (): InferenceRequest => textRequest([textOf(8, 1000 * i)]);
      expect(matched(b, request())).toEqual(matched(a, request()));
    }
    // Room for 8 blocks of 64 tokens on each endpoint.
    const small = replica(2, (8 * 64) / 16);
    tellKnown(a, small);
    expect(matched(small, textRequest([textOf(8, 4000)]))).toEqual([8, 0]);
    expect(matched(small, textRequest([textOf(8, 2000)]))).toEqual([0, 0]);
  });

  it("do not push out what a replica knows of its own", () => {
    const a = replica(1);
    for (let i = 0; i < 5; i++) send(a, textRequest([textOf(8, 1000 * i)]), 0);
    const b = replica(1, (8 * 64) / 16);
    send(b, textRequest([textOf(8, 9000)]), 0);
    tellKnown(a, b);
    expect(matched(b, textRequest([textOf(8, 9000)]))).toEqual([8]);
  });

  it("of an endpoint that a replica does not know are left out", () => {
    const [a, b] = [replica(3), replica(1)];
    send(a, textRequest([textOf(4)]), 2);
    tell(a, b);
    expect(matched(b, textRequest([textOf(4)]))).toEqual([0]);
    expect(b.producer.indexedBlocks).toBe(0);
  });

  it("of another server that had the endpoint's name are left out", () => {
    const [a, b] = [replica(1), replica(1)];
    send(a, textRequest([textOf(4)]), 0);
    const payload = a.told[0] as Buffer;
    const key = "default/pod-0001 10.0.0.1:8000";
    expect(payload.toString("latin1").endsWith(key)).toBe(true);
    payload.write("9", payload.length - 6);
    tell(a, b);
    expect(b.producer.indexedBlocks).toBe(0);
    expect(b.pool.get(endpointName("default", "pod-0001"))).toBeDefined();
  });

  it("of prompts longer than a payload are told from their beginning on", () => {
    const [a, b] = [replica(1), replica(1)];
    const long = textOf(5000);
    const request = textRequest([long]);
    a.producer.produce(request, a.pool.snapshot());
    send(a, request, 0);
    tell(a, b);
    const [deep = 0] = matched(a, textRequest([long]));
    expect(deep).toBe(5000);
    const [told = 0] = matched(b, textRequest([long]));
    expect(told).toBeGreaterThan(3000);
    expect(told).toBeLessThan(deep);
  });

  it("cost nothing where nobody listens", () => {
    const a = replica(1);
    a.producer.shared.shareWith(undefined);
    send(a, textRequest([textOf(4)]), 0);
    expect(a.told).toEqual([]);
  });

  it("survive payloads of any bytes", () => {
    const a = replica(2);
    const b = replica(2);
    send(a, textRequest([textOf(20)]), 0);
    const good = a.told[0] as Buffer;
    const mutated = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 6 }).map((changes) => {
      const bytes = Buffer.from(good);
      for (const [at, byte] of changes) bytes[at] = byte;
      return bytes;
    });
    const cut = fc.nat(good.length).map((length) => good.subarray(0, length));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated, cut), (bytes) => {
        expect(typeof b.producer.shared.apply("a" as PeerId, Buffer.from(bytes))).toBe("boolean");
      }),
      { numRuns: 500 },
    );
    send(b, textRequest([textOf(20, 9000)]), 1);
    expect(matched(b, textRequest([textOf(20, 9000)]))).toEqual([expect.any(Number), 20]);
  });
});
