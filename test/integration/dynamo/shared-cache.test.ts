/** A Mooncake store behind the workers and where the running picker sends prompts because of it: what is stored and removed, masters that come late, restart, leave out batches and talk nonsense, and workers that disagree. */
import { afterEach, beforeEach, describe, expect, it, jest } from "@jest/globals";
import type { DynamoPeer, PeerOptions } from "../../dynamo-peer/peer.ts";
import type { PeerSite } from "../../dynamo-peer/site.ts";
import { cardLayout, type Mooncake, pageHashes, plainLayout, startMooncake, storedPages } from "../../mooncake.ts";
import { eventually } from "../../stack.ts";
import { createFixture } from "./fixture.ts";
import type { Picking, PickingOptions } from "./picking.ts";

jest.setTimeout(90_000);

const fixture = createFixture();
const layout = { ...plainLayout, pageSize: 16, keyPrefix: "tiny" };
const hicache = { environment: { DYN_SHARED_CACHE_TYPE: "hicache" } } satisfies PickingOptions;

/** Eight whole blocks, of which one worker holds the first four. */
const prompt = Array.from({ length: 8 * 16 + 3 }, (_, index) => index + 1);
const pages = storedPages(pageHashes(prompt, 16), "tiny_");
/** Of other blocks, which run where half of the prompt is: a reason to go elsewhere, were the other half not to be computed there. */
const busy = Array.from({ length: 4 * 16 }, (_, index) => index + 500);

let site: PeerSite;
let picking: Picking;
let mooncake: Mooncake;
let holder: DynamoPeer;
let idle: DynamoPeer;

beforeEach(() => {
  site = fixture.site();
});
afterEach(() => fixture.closeAll());

const saying = (
  changes: Partial<typeof layout> = {},
  endpoint: string | undefined = mooncake.endpoint,
): PeerOptions => ({
  runtimeData: { sglang_hicache_mooncake: cardLayout({ ...layout, ...changes }, endpoint) },
});

async function start(options: PickingOptions = hicache, peer: PeerOptions = saying()): Promise<void> {
  const isPrefill = peer.role === "prefill";
  // A prefill worker is as busy as what it has to compute, another as what it holds for what runs.
  const [busyBlocks, cachedBlocks] = isPrefill ? [4, 1] : [3, 3];
  holder = await fixture.peer(site, peer);
  idle = await fixture.peer(site, peer);
  picking = await fixture.picker(site, options);
  await eventually("the workers' events are heard", async () => {
    const { events } = await picking.set();
    return events.sources.length === 2 && events.sources.every(({ state }) => state === "live");
  });
  holder.cache.store(prompt.slice(0, 4 * 16));
  holder.cache.store(busy.slice(0, cachedBlocks * 16));
  const known = 4 + cachedBlocks;
  await eventually("the blocks are known", async () => (await picking.set()).index?.heldBlocks === known);
  const running = await picking.plan({ tokens: busy.slice(0, busyBlocks * 16) });
  expect(isPrefill ? running.prefill : running.decode).toBe(String(holder.instanceId));
}

async function startMaster(endpoint?: string): Promise<void> {
  const master = await startMooncake(endpoint);
  fixture.keep(master);
  mooncake = master;
}

const cacheView = async () => (await picking.set()).sharedCache;

async function follows(): Promise<void> {
  await eventually("the store is followed", async () => (await cacheView())?.stages.decode.state === "following");
}

async function goesTo(peer: DynamoPeer, deviceBlocks: number): Promise<void> {
  let last: unknown;
  await eventually("the choice", async () => {
    last = await picking.matchOf(prompt);
    return JSON.stringify(last) === JSON.stringify({ workerId: String(peer.instanceId), dpRank: 0, deviceBlocks });
  }).catch((error: unknown) => {
    throw new Error(`went to ${JSON.stringify(last)}, not to ${peer.instanceId}`, { cause: error });
  });
}

describe("a store that all workers share", () => {
  it("sends a prompt away from the worker that holds half of it, as long as it holds the other half", async () => {
    await startMaster();
    await start();
    await follows();
    await goesTo(holder, 4);
    await mooncake.publish(pages);
    await goesTo(idle, 0);
    await mooncake.publish(pages.map((event) => ({ ...event, type: "removed" })));
    await goesTo(holder, 4);
    // Holes are no matter: the last four pages alone are worth nothing less to the one than to the other.
    await mooncake.publish(pages.slice(2 * 4));
    await goesTo(holder, 4);
    const { counters } = (await cacheView()) ?? { counters: undefined };
    expect(counters).toMatchObject({ stored: 24, removed: 16, foreign: 0, gaps: 0, malformed: 0 });
    const at = 'dynamo_namespace="ns",dynamo_component="backend"';
    const hitRates = await picking.metrics(`dynamo_component_router_shared_cache_hit_rate_count{${at}}`);
    expect(Number(hitRates[0]?.split(" ")[1])).toBeGreaterThan(3);
    expect(await picking.metrics("llm_d_epp_dynamo_shared_cache_pages")).toEqual([
      'llm_d_epp_dynamo_shared_cache_pages{model="tiny",dynamo_namespace="ns"} 4',
    ]);
    expect(await picking.metrics("dynamo_router_overhead_shared_cache_query_ms_count")).toHaveLength(1);
    expect(await picking.metrics("dynamo_router_shared_cache_errors_total")).toEqual([
      "dynamo_router_shared_cache_errors_total 0",
    ]);
  });

  it("is worth what the multiplier says, and nothing at none", async () => {
    await startMaster();
    await start({ environment: { ...hicache.environment, DYN_SHARED_CACHE_MULTIPLIER: "0" } });
    await follows();
    await mooncake.publish(pages);
    await eventually("the pages are known", async () => (await cacheView())?.stages.decode.pages === 8);
    await goesTo(holder, 4);
  });

  it("is not asked where the settings name none", async () => {
    await startMaster();
    await start({});
    await mooncake.publish(pages);
    expect(await cacheView()).toBeNull();
    await goesTo(holder, 4);
    expect(await picking.metrics("dynamo_component_router_shared_cache")).toEqual([]);
  });

  it("may come late, restart and leave out batches: what is not borne out is not believed", async () => {
    await startMaster();
    const { endpoint } = mooncake;
    await mooncake.close();
    await start(hicache, saying({}, endpoint));
    await eventually("it is waited for", async () => (await cacheView())?.stages.decode.state === "disconnected");
    await goesTo(holder, 4);
    await startMaster(endpoint);
    await follows();
    await mooncake.publish(pages);
    await goesTo(idle, 0);
    mooncake.sequence += 5;
    await mooncake.publish([]);
    await goesTo(holder, 4);
    await mooncake.publish(pages);
    await goesTo(idle, 0);

    await mooncake.close();
    await eventually("it has gone", async () => (await cacheView())?.stages.decode.state === "disconnected");
    // As Dynamo has it: what a store held is believed until its events say otherwise.
    await goesTo(idle, 0);
    await startMaster(endpoint);
    await follows();
    await mooncake.publish([]);
    await goesTo(holder, 4);
    expect((await cacheView())?.counters).toMatchObject({ gaps: 2, disconnects: expect.any(Number) });
  });

  it("outlives what is no event, and forgets what such a message may have told", async () => {
    await startMaster();
    await start();
    await follows();
    await mooncake.publish(pages);
    await goesTo(idle, 0);
    await mooncake.send(["", "short", "frames"]);
    await mooncake.send(["", Buffer.alloc(8)]);
    await eventually("both are counted", async () => (await cacheView())?.counters["malformed"] === 2);
    await goesTo(idle, 0);
    await mooncake.send(["", Buffer.from([0, 0, 0, 0, 0, 0, 0, 1]), Buffer.from("\x93not msgpack")]);
    mooncake.sequence = 2;
    await mooncake.publish([]);
    await goesTo(holder, 4);
    await mooncake.publish(pages);
    await goesTo(idle, 0);
    expect(await picking.metrics("dynamo_router_shared_cache_errors_total")).toEqual([
      "dynamo_router_shared_cache_errors_total 3",
    ]);
  });

  it("is not looked up while workers lay it out differently, and is known anew when they agree", async () => {
    await startMaster();
    await start();
    await follows();
    await mooncake.publish(pages);
    await goesTo(idle, 0);
    const odd = await fixture.peer(site, saying({ tpSize: 2 }));
    await eventually("they differ", async () => (await cacheView())?.stages.decode.state === "degraded");
    await goesTo(holder, 4);
    expect((await cacheView())?.stages.decode.reason).toMatch(/^workers \d+ and \d+ differ in tpSize$/);
    const degraded =
      'llm_d_epp_dynamo_shared_cache_state{model="tiny",dynamo_namespace="ns",stage="decode",state="degraded"} 1';
    expect(await picking.metrics("llm_d_epp_dynamo_shared_cache_state")).toContain(degraded);
    const warnings = picking.child.lines.filter((line) => line.includes("shared cache cannot be looked up"));
    expect(warnings).toHaveLength(1);
    await odd.close();
    await follows();
    await goesTo(holder, 4);
    await mooncake.publish(pages);
    await goesTo(idle, 0);
  });

  it("is where the configuration says, whatever the workers say", async () => {
    await startMaster();
    const environment = { ...hicache.environment, DYN_MOONCAKE_KV_EVENTS_ENDPOINT: mooncake.endpoint };
    await start({ environment }, saying({}, "tcp://127.0.0.1:1"));
    await follows();
    await mooncake.publish(pages);
    await goesTo(idle, 0);
  });

  it("serves prefill workers, whose own cards say how", async () => {
    await startMaster();
    const prefill = { ...saying(), role: "prefill" } as const;
    await fixture.peer(site, { role: "decode", publishesEvents: false, ...saying({ tpSize: 4 }) });
    await start(hicache, prefill);
    await eventually("it is followed for both", async () => {
      const view = await cacheView();
      return view?.stages.prefill.state === "following" && view.stages.decode.state === "following";
    });
    await goesTo(holder, 4);
    await mooncake.publish(pages);
    await goesTo(idle, 0);
    expect((await cacheView())?.stages).toMatchObject({ prefill: { pages: 8 }, decode: { pages: 8 } });
  });
});
