/** What we and Dynamo's own KV router believe of the same Mooncake store, event by event, and whom the two choose because of it. */
import { afterEach, describe, expect, it } from "@jest/globals";
import { parseHicacheCard } from "../../src/dynamo/model-card/hicache-card.ts";
import type { HicacheLayout } from "../../src/dynamo/model-card/model-card.ts";
import { Fields } from "../../src/dynamo/record-json.ts";
import { keyPrefixOf, keySuffixesOf } from "../../src/prefill-router/shared-cache/object-keys.ts";
import { SharedCaches } from "../../src/prefill-router/shared-cache/shared-caches.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import type { DynamoPeer } from "../dynamo-peer/peer.ts";
import { createFixture } from "../integration/dynamo/fixture.ts";
import {
  cardLayout,
  encodePositionalBatch,
  type ObjectEvent,
  pageHashes,
  plainLayout,
  sequenceFrame,
  startMooncake,
  storedPages,
} from "../mooncake.ts";
import { eventually } from "../stack.ts";
import { type Oracle, startOracle } from "./oracle.ts";

const pageSize = 4;
const steps = 60;

interface Scores {
  readonly blocks: number;
  readonly held: Readonly<Record<string, number>>;
  readonly shared: { readonly enabled: boolean; readonly ranges: readonly (readonly [number, number])[] };
}

const fixture = createFixture();
afterEach(() => fixture.closeAll());

type Random = (below: number) => number;

function seeded(seed: number): Random {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 0x1_0000_0000) * below);
  };
}

const runtimeData = (layout: HicacheLayout, endpoint: string) => ({
  sglang_hicache_mooncake: cardLayout(layout, endpoint),
});

async function open(environment: Readonly<Record<string, string>>, blockSize: number, multiplier: number) {
  const oracle = fixture.keep(startOracle("shared_cache.py", environment));
  await oracle.ask("open", { endpoint: "ns.backend.generate", block_size: blockSize, multiplier });
  return oracle;
}

/** Prompts that share beginnings, as those of a conversation do. */
function prompts(random: Random): number[][] {
  const stem = Array.from({ length: 24 }, () => random(150_000));
  return Array.from({ length: 6 }, (_, index) => [
    ...stem.slice(0, 4 * index),
    ...Array.from({ length: 5 + random(20) }, () => random(150_000)),
  ]);
}

const layouts: readonly (readonly [string, Partial<HicacheLayout>])[] = [
  ["one rank", {}],
  ["a key prefix", { keyPrefix: "tag_Qwen-Qwen3-0.6B", extraBackendTag: "tag" }],
  ["an empty key prefix", { keyPrefix: "" }],
  ["two ranks by two stages", { tpSize: 2, ppSize: 2, extraBackendTag: "tag" }],
  ["MLA", { isMla: true, tpSize: 8 }],
  ["MLA in two stages", { isMla: true, ppSize: 2 }],
  ["split heads", { tpSize: 2, tpLcmSize: 4, splitsHeads: true }],
  ["EAGLE", { isEagle: true }],
];

describe("what a store is believed to have", () => {
  it.each(layouts)("is what Dynamo believes, with %s", async (name, changes) => {
    const random = seeded(name.length);
    const layout = { ...plainLayout, ...changes, pageSize };
    const site = fixture.site();
    const mooncake = fixture.keep(await startMooncake());
    const data = runtimeData(layout, mooncake.endpoint);
    const peer = await fixture.peer(site, { runtimeData: data });
    const oracle = await open(site.environment, pageSize, 0.5);
    const caches = fixture.keep(
      new SharedCaches({
        set: "ns/tiny",
        blockSize: pageSize,
        eventsEndpoint: undefined,
        stages: ["decode"],
        now: () => 0,
        log: silentLogger,
      }),
    );
    const hicache = parseHicacheCard(new Fields({ runtime_data: data }, ""));
    caches.upsertWorker({ id: peer.instanceId, role: "aggregated", hicache });

    const keysOf = (hash: string) => keySuffixesOf(layout).map((suffix) => `${keyPrefixOf(layout)}${hash}${suffix}`);
    const asked = prompts(random);
    const hashes = [...new Set(asked.flatMap((tokens) => pageHashes(tokens, pageSize, layout.isEagle)))];
    const ours = (tokens: readonly number[]): number[][] => {
      const flat = [...caches.hitsOf(Uint32Array.from(tokens), undefined).of("decode")];
      return Array.from({ length: flat.length / 2 }, (_, index) => flat.slice(2 * index, 2 * index + 2));
    };
    const theirs = async (tokens: readonly number[]) =>
      (await oracle.ask<Scores>("scores", { tokens })).shared.ranges.map((range) => [...range]);
    /** Both have heard what was sent before once they know of this. */
    const settle = async (step: number): Promise<void> => {
      const sentinel = Array.from({ length: pageSize + 1 }, () => 1_000_000 + step);
      const [hash = ""] = pageHashes(sentinel, pageSize, layout.isEagle);
      const stored = keysOf(hash).map((key): ObjectEvent => ({ type: "stored", key }));
      await eventually(`both hear of step ${step}`, async () => {
        await mooncake.publish(stored);
        return ours(sentinel).length === 1 && (await theirs(sentinel)).length === 1;
      });
    };

    await settle(0);
    let found = 0;
    for (let step = 1; step <= steps; step++) {
      const events = Array.from({ length: 1 + random(12) }, (): ObjectEvent[] => {
        const hash = hashes[random(hashes.length)] ?? "";
        const type = random(4) === 0 ? "removed" : "stored";
        const tenant = random(12) === 0 ? "somebody" : "default";
        const keys = keysOf(hash).filter(() => random(20) !== 0);
        const grouped = random(3) > 0 ? { group: `sglang-hicache:${keyPrefixOf(layout)}${hash}` } : {};
        return keys.map((key) => ({ type, key, tenant, ...grouped }));
      }).flat();
      const how = random(16);
      if (how === 0) mooncake.sequence += 1 + random(3);
      if (how === 1) mooncake.sequence = random(mooncake.sequence + 1);
      if (how === 2) await mooncake.send(["", sequenceFrame(mooncake.sequence++), "nonsense"]);
      if (how === 5) await mooncake.send(["", sequenceFrame(random(mooncake.sequence + 5)), "nonsense"]);
      if (how === 3) await mooncake.send(["", sequenceFrame(mooncake.sequence++), encodePositionalBatch(events)]);
      else await mooncake.publish(events);
      if (how === 4) {
        mooncake.sequence--;
        await mooncake.publish(events.map((event) => ({ ...event, type: "removed" })));
      }
      await settle(step);
      for (const tokens of asked) {
        const ranges = ours(tokens);
        found += ranges.length;
        expect({ step, ranges }).toEqual({ step, ranges: await theirs(tokens) });
      }
    }
    expect(found).toBeGreaterThan(steps);
  });
});

describe("what workers say of a store", () => {
  it("counts for us as for Dynamo: nothing while they differ, and nothing of before when they agree again", async () => {
    const site = fixture.site();
    const mooncake = fixture.keep(await startMooncake());
    const layout = { ...plainLayout, pageSize: 16 };
    const saying = (changes: Partial<HicacheLayout>) => ({
      runtimeData: runtimeData({ ...layout, ...changes }, mooncake.endpoint),
    });
    await fixture.peer(site, saying({}));
    const oracle = await open(site.environment, 16, 0.5);
    const picking = await fixture.picker(site, { environment: { DYN_SHARED_CACHE_TYPE: "hicache" } });
    const prompt = Array.from({ length: 40 }, (_, index) => index);
    const known = async () => ({
      theirs: (await oracle.ask<Scores>("scores", { tokens: prompt })).shared.ranges.length,
      ours: (await picking.set()).sharedCache?.stages.decode.pages,
    });
    const reaches = async (what: string, theirs: number, ours: number): Promise<void> => {
      let last: unknown;
      await eventually(what, async () => {
        last = await known();
        return JSON.stringify(last) === JSON.stringify({ theirs, ours });
      }).catch((error: unknown) => {
        throw new Error(`not ${what}: ${JSON.stringify(last)}`, { cause: error });
      });
    };
    /** Either may subscribe a while after the other. */
    const publishUntilKnown = async (): Promise<void> => {
      await eventually("both follow the store", async () => {
        await mooncake.publish(storedPages(pageHashes(prompt, 16)));
        const { theirs, ours } = await known();
        return theirs === 1 && ours === 2;
      });
    };
    await publishUntilKnown();
    // A worker without a store, and one that says what cannot be read, have no voice.
    await fixture.peer(site, {});
    const unreadable = await fixture.peer(site, { runtimeData: { sglang_hicache_mooncake: { backend: 7 } } });
    await eventually("three workers", async () => (await picking.workers()).length === 3);
    await reaches("still known", 1, 2);
    await unreadable.close();
    const odd = await fixture.peer(site, saying({ keyPrefix: "odd" }));
    await reaches("they differ", 0, 0);
    await odd.close();
    await eventually("two workers", async () => (await picking.workers()).length === 2);
    await eventually("they agree", async () => (await picking.set()).sharedCache?.stages.decode.state === "following");
    await reaches("nothing of before", 0, 0);
    await publishUntilKnown();
  });
});

describe("who is chosen because of a store", () => {
  const blockSize = 16;
  const multiplier = 0.47;
  const prompt = Array.from({ length: 8 * blockSize + 3 }, (_, index) => index + 1);
  const busy = Array.from({ length: 3 * blockSize }, (_, index) => index + 500);
  const layout = { ...plainLayout, pageSize: blockSize, keyPrefix: "tiny" };

  it("is whom Dynamo's router chooses, for any pages that are there", async () => {
    const site = fixture.site();
    const mooncake = fixture.keep(await startMooncake());
    const options = { runtimeData: runtimeData(layout, mooncake.endpoint) };
    const peers: DynamoPeer[] = await fixture.peers(site, 2, options);
    const [holder] = peers;
    if (holder === undefined) throw new Error("two peers");
    const oracle: Oracle = await open(site.environment, blockSize, multiplier);
    const picking = await fixture.picker(site, {
      environment: { DYN_SHARED_CACHE_TYPE: "hicache", DYN_SHARED_CACHE_MULTIPLIER: String(multiplier) },
    });
    await eventually("the picker hears both", async () => {
      const { events, sharedCache } = await picking.set();
      const isLive = events.sources.length === 2 && events.sources.every(({ state }) => state === "live");
      return isLive && sharedCache?.stages.decode.state === "following";
    });
    holder.cache.store(prompt.slice(0, 4 * blockSize));
    holder.cache.store(busy);
    const id = String(holder.instanceId);
    const scores = () => oracle.ask<Scores>("scores", { tokens: prompt });
    await eventually("both know what is held", async () => {
      const { index } = await picking.set();
      return index?.heldBlocks === 7 && (await scores()).held[id] === 4;
    });
    // The worker that holds half of the prompt has three blocks more to do than the other.
    expect(await oracle.ask("choose", { tokens: busy, id: "busy" })).toMatchObject({ worker: id });
    expect((await picking.plan({ tokens: busy })).decode).toBe(id);

    const random = seeded(7);
    const hashes = pageHashes(prompt, blockSize);
    const chosen = new Map<string, number>();
    for (let round = 0; round < 40; round++) {
      // As likely few as many of them.
      const odds = random(9);
      const kept = hashes.map(() => random(8) < odds);
      const pages = storedPages(hashes, "tiny_");
      await mooncake.publish(
        pages.map((event, index) => ({ ...event, type: kept[index >> 1] === true ? "stored" : "removed" })),
      );
      const last = mooncake.sequence - 1;
      const ranges = (): string => kept.flatMap((isKept, at) => (isKept ? [at] : [])).join();
      await eventually("both know what is stored", async () => {
        const { sharedCache } = await picking.set();
        const { shared } = await scores();
        const known = shared.ranges.flatMap(([from, to]) => Array.from({ length: to - from }, (_, at) => from + at));
        return sharedCache?.stages.decode.sequence === last && known.join() === ranges();
      });
      const { worker } = await oracle.ask<{ readonly worker: string }>("choose", { tokens: prompt });
      expect({ kept: ranges(), worker: (await picking.matchOf(prompt)).workerId }).toEqual({ kept: ranges(), worker });
      chosen.set(worker, (chosen.get(worker) ?? 0) + 1);
    }
    // Each of the two in a good share of the rounds: the store decides.
    expect(Math.min(...chosen.values())).toBeGreaterThan(5);
    expect(chosen.size).toBe(2);
  });
});
