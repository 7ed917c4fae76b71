/** The picker before Dynamo workers that register in etcd and publish events over NATS, and that have two ranks each; some take requests over NATS too. */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type RunningEtcd, startEtcd } from "../etcd.ts";
import { type RunningNats, startNats } from "../nats.ts";
import { eventually } from "../stack.ts";
import { type LoadResult, sendLoad } from "./load.ts";
import { type Gateway, startGateway } from "./picker.ts";
import { type DynamoStack, startDynamo } from "./stack.ts";

const prompt = (index: number): string => `${index % 20} ${`prompt ${index % 20} `.repeat(60)}`;

describe.each([
  ["aggregated", { workers: 2 }],
  ["disaggregated", { layout: "disaggregated", prefill: 2, decode: 1 }],
  ["aggregated", { workers: 2, requestPlane: "nats" }],
] as const)("over etcd and NATS (%s, %j)", (layout, options) => {
  let etcd: RunningEtcd;
  let nats: RunningNats;
  let stack: DynamoStack;
  let gateway: Gateway;
  beforeAll(async () => {
    [etcd, nats] = await Promise.all([startEtcd(), startNats()]);
    stack = await startDynamo({
      ...options,
      backend: { etcd: etcd.url },
      eventPlane: { nats: nats.url },
      dataParallel: 2,
    });
    gateway = await startGateway(stack, { layout });
  });
  afterAll(async () => {
    await gateway?.close();
    await stack?.close();
    await nats?.kill();
    await etcd?.close();
  });

  const load = (requests = 200, concurrency = 8): Promise<LoadResult> =>
    sendLoad({ url: gateway.url, stack, requests, concurrency, prompt });
  /** One request after the other, since load sends some past what is cached. */
  const hitRate = async (): Promise<number> => {
    expect((await load(20, 1)).faults).toEqual([]);
    let cached = 0;
    let tokens = 0;
    for (const { plan } of await gateway.decisions(20)) {
      cached += (plan?.prefill ?? plan?.decode)?.cachedTokens ?? 0;
      tokens += plan?.promptTokens ?? 0;
    }
    return cached / tokens;
  };

  it("serves on every worker and rank, and finds what is cached", async () => {
    const result = await load();
    expect(result.faults).toEqual([]);
    expect(Math.min(...result.served.values())).toBeGreaterThan(0);
    const ranks = (await gateway.decisions(200)).map(({ plan }) => (plan?.prefill ?? plan?.decode)?.dpRank);
    expect(new Set(ranks)).toEqual(new Set([0, 1]));
    await eventually("everything is cached", async () => (await hitRate()) > 0.9);
    await gateway.idle();
  });

  it("has its index back once the picker is, from the workers themselves", async () => {
    await eventually("everything is cached", async () => (await hitRate()) > 0.9);
    await gateway.restartPicker("SIGKILL");
    expect(await hitRate()).toBeGreaterThan(0.9);
    await gateway.idle();
  });

  it("serves on while etcd restarts, and finds a worker that comes then", async () => {
    await etcd.restart();
    expect((await load()).faults).toEqual([]);
    const added = await stack.addWorker();
    let next = 0;
    await eventually("the new worker serves", async () => {
      const fresh = await sendLoad({
        url: gateway.url,
        requests: 40,
        concurrency: 8,
        prompt: (index) => `${next + index} ${prompt(index)}`,
      });
      next += 40;
      expect(fresh.faults).toEqual([]);
      return (await added.served()) > 0;
    });
    await gateway.idle();
  });
});
