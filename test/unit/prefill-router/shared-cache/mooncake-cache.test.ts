/** What a Mooncake store is believed to have, by its events. The vectors are facts of Dynamo 1.6.1's tests of the same. */
import { describe, expect, it } from "@jest/globals";
import type { HicacheLayout } from "../../../../src/dynamo/model-card/model-card.ts";
import { MooncakeCache } from "../../../../src/prefill-router/shared-cache/mooncake-cache.ts";
import { createSharedCacheCounters } from "../../../../src/prefill-router/shared-cache/shared-cache-counters.ts";
import { type ObjectEvent, pageHashes, plainLayout, storedPages } from "../../../mooncake.ts";
import { fakeSources, warningLog } from "./fake-source.ts";

const prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
const hashes = pageHashes(prompt, 4);

function start(changes: Partial<HicacheLayout> = {}, maxPages?: number) {
  const { open, opened } = fakeSources();
  const { log, warnings } = warningLog();
  const counters = createSharedCacheCounters();
  const cache = new MooncakeCache({
    endpoint: "tcp://127.0.0.1:5557",
    layout: { ...plainLayout, ...changes },
    counters,
    log,
    open,
    ...(maxPages === undefined ? {} : { maxPages }),
  });
  const [source] = opened;
  if (source === undefined) throw new Error("nothing was opened");
  const hits = (tokens: readonly number[] = prompt): number[] => [...cache.hitsOf(Uint32Array.from(tokens))];
  return { cache, counters, hits, source, warnings };
}

const removed = (key: string, group?: string): ObjectEvent => ({
  type: "removed",
  key,
  ...(group === undefined ? {} : { group }),
});

describe("a Mooncake store", () => {
  it("has a page once all of its parts are stored, and no more when one is removed", () => {
    const { source, hits } = start();
    source.say(1, storedPages(hashes).slice(0, 3));
    expect(hits()).toEqual([0, 1]);
    source.say(2, [removed(`${hashes[0]}_0_v`)]);
    expect(hits()).toEqual([]);
  });

  it("has pages with holes between them", () => {
    const { source, hits } = start();
    source.say(1, storedPages([hashes[0] ?? "", hashes[2] ?? ""]));
    expect(hits()).toEqual([0, 1, 2, 3]);
    source.say(2, storedPages([hashes[1] ?? ""]));
    expect(hits()).toEqual([0, 3]);
    expect(hits(prompt.slice(0, 7))).toEqual([0, 1]);
    expect(hits([])).toEqual([]);
    expect(hits([9, ...prompt])).toEqual([]);
  });

  it("has pages of its own layout only", () => {
    const { source, hits, counters } = start({ keyPrefix: "Qwen-Qwen3-0.6B" });
    source.say(1, [...storedPages(hashes), ...storedPages(hashes, "other_")]);
    expect(hits()).toEqual([]);
    expect(counters.foreign).toBe(12);
    source.say(2, storedPages(hashes, "Qwen-Qwen3-0.6B_"));
    expect(hits()).toEqual([0, 3]);
  });

  it("wants every part of a layout with ranks and stages", () => {
    const { source, hits } = start({ tpSize: 2, ppSize: 2 });
    const keys = [0, 1].flatMap((stage) =>
      [0, 1].flatMap((rank) => ["k", "v"].map((half) => `${hashes[0]}_${rank}_${stage}_${half}`)),
    );
    for (const [index, key] of keys.entries()) {
      expect(hits()).toEqual([]);
      source.say(index, [{ type: "stored", key }]);
    }
    expect(hits()).toEqual([0, 1]);
  });

  it("counts pages of token pairs with EAGLE", () => {
    const { source, hits } = start({ isEagle: true });
    source.say(1, storedPages(pageHashes(prompt, 4, true)));
    expect(hits()).toEqual([0, 3]);
    expect(hits(prompt.slice(0, 12))).toEqual([0, 2]);
  });

  it("keeps other pages when a removal names no group", () => {
    const { source, hits } = start();
    source.say(1, storedPages(hashes));
    source.say(2, [removed(`${hashes[1]}_0_k`), removed(`${hashes[2]}_0_k`, `sglang-hicache:${hashes[2]}`)]);
    expect(hits()).toEqual([0, 1]);
  });

  it("is not told the same twice", () => {
    const { source, hits } = start();
    source.say(0, storedPages(hashes));
    source.say(0, [removed(`${hashes[0]}_0_k`)]);
    expect(hits()).toEqual([0, 3]);
  });

  it("is forgotten after a gap but for what comes with the next batch", () => {
    const { source, hits, counters, warnings } = start();
    source.say(1, storedPages(hashes));
    source.say(3, storedPages(hashes.slice(0, 1)));
    expect(hits()).toEqual([0, 1]);
    expect(counters.gaps).toBe(1);
    expect(warnings).toHaveLength(1);
    source.say(2, []);
    expect(hits()).toEqual([]);
  });

  it("is forgotten after a batch that cannot be read, since what that told is missed", () => {
    const { source, hits, counters } = start();
    source.say(1, storedPages(hashes));
    source.handler.message(Buffer.alloc(0), 2, Buffer.from("garbage"));
    source.handler.malformed?.();
    // A stranger's number says nothing of ours.
    source.handler.message(Buffer.alloc(0), 77, Buffer.from("garbage"));
    expect(counters).toMatchObject({ malformed: 3, gaps: 0 });
    expect(hits()).toEqual([0, 3]);
    source.say(3, []);
    expect(counters.gaps).toBe(1);
    expect(hits()).toEqual([]);
  });

  it("is another one where the first number after a lost connection is the last again", () => {
    const { cache, source, hits, counters } = start();
    source.handler.connected?.();
    source.say(7, storedPages(hashes));
    expect(cache.isConnected).toBe(true);
    source.handler.disconnected();
    expect(cache.isConnected).toBe(false);
    expect(hits()).toEqual([0, 3]);
    source.handler.connected?.();
    source.say(8, []);
    expect(hits()).toEqual([0, 3]);
    source.handler.disconnected();
    source.say(8, storedPages(hashes.slice(0, 1)));
    expect(hits()).toEqual([0, 1]);
    expect(counters).toMatchObject({ disconnects: 2, gaps: 1 });
  });

  it("never takes more pages than it may, and begins anew with the one too many", () => {
    const { cache, source, hits, counters, warnings } = start({}, 2);
    source.say(1, storedPages(hashes.slice(0, 2)));
    expect(hits()).toEqual([0, 2]);
    source.say(2, storedPages(hashes.slice(2)));
    expect(hits()).toEqual([2, 3]);
    expect(cache.pages).toBe(1);
    expect(counters.overflows).toBe(1);
    expect(warnings).toHaveLength(1);
  });

  it("says once in a while that its events name no objects", () => {
    const { source, counters, warnings } = start();
    for (let sequence = 0; sequence < 100; sequence++) source.say(sequence, [{ type: "stored" }]);
    expect(counters.keyless).toBe(100);
    expect(warnings).toHaveLength(33);
  });

  it("is nothing once closed", async () => {
    const { cache, source, hits } = start();
    source.say(1, storedPages(hashes));
    await cache.close();
    expect(source.isClosed).toBe(true);
    expect(hits()).toEqual([]);
  });
});
