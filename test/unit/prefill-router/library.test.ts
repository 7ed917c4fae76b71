import { describe, expect, it } from "@jest/globals";
import {
  type OpenRouter,
  openPrefillRouter,
  type PlanOutcome,
  SettingsFault,
  workerOf,
} from "../../../src/prefill-router/library.ts";

const tokens = Array.from({ length: 64 }, (_, index) => index);

function planNow(open: OpenRouter, asked = tokens): PlanOutcome | undefined {
  let found: PlanOutcome | undefined;
  open.router.plan({ requestId: "r", ...open.prompt(asked) }, (outcome) => {
    found = outcome;
  });
  return found;
}

describe("the library", () => {
  it("sends a prompt where its blocks are, and forgets them with the rank", async () => {
    const open = openPrefillRouter({ blockSize: 16 });
    const { router } = open;
    for (const id of [1n, 2n]) router.upsertWorker(workerOf({ id }));
    const blocks = open.blocksOf({ workerId: 2n, dpRank: 0 });
    expect(blocks.stored({ blockHashes: [7n, 2n ** 64n - 1n], tokens: tokens.slice(0, 32) })).toBe("applied");
    expect(blocks.stored({ blockHashes: [9n], tokens: tokens.slice(32, 48), parentHash: 2n ** 64n - 1n })).toBe(
      "applied",
    );
    const outcome = planNow(open);
    expect(outcome).toMatchObject({ plan: { decode: { worker: { id: 2n }, deviceBlocks: 3, cachedTokens: 48 } } });
    if (outcome?.kind === "planned") outcome.plan.booking.free();
    blocks.removed([9n]);
    expect(router.preview({ requestId: "r", ...open.prompt(tokens) })).toMatchObject({ decode: { deviceBlocks: 2 } });
    blocks.close();
    expect(router.preview({ requestId: "r", ...open.prompt(tokens) })).toMatchObject({ decode: { deviceBlocks: 0 } });
    await open.close();
    expect(planNow(open)).toMatchObject({ refusal: { kind: "closed" } });
  });

  it("counts what a shared cache has beyond a rank's own blocks, and takes no such cache to be Dynamo's", async () => {
    const open = openPrefillRouter({ blockSize: 16, settings: { sharedCacheMultiplier: 0.5 } });
    for (const id of [1n, 2n]) open.router.upsertWorker(workerOf({ id }));
    open.blocksOf({ workerId: 1n, dpRank: 0 }).stored({ blockHashes: [1n, 2n], tokens: tokens.slice(0, 32) });
    // Other prompts, which the rank with the longer prefix has still to compute.
    const busy = { requestId: "busy", ...open.prompt(tokens.slice(0, 12).map((token) => token + 100)) };
    for (let each = 0; each < 2; each++) {
      open.router.plan({ ...busy, pinned: { decode: { workerId: 1n, dpRank: 0 } } }, () => undefined);
    }
    const asked = { requestId: "r", ...open.prompt(tokens) };
    const sharedHits = { of: () => Uint32Array.of(0, 4) };
    expect(open.router.preview(asked)).toMatchObject({ decode: { worker: { id: 1n }, cost: 7.5 } });
    expect(open.router.preview({ ...asked, sharedHits })).toMatchObject({ decode: { worker: { id: 2n }, cost: 6 } });
    await open.close();
    expect(() => openPrefillRouter({ blockSize: 16, environment: { DYN_SHARED_CACHE_TYPE: "hicache" } })).toThrow(
      "sharedCacheType hicache is supported for workers that Dynamo registers only",
    );
  });

  it("takes settings by name or from an environment it is given, and names what cannot be", () => {
    expect(() => openPrefillRouter({ blockSize: 16, settings: { overlapScoreCredit: -1, what: 2 } })).toThrow(
      SettingsFault,
    );
    try {
      openPrefillRouter({ blockSize: 16, settings: { what: 2 }, environment: { DYN_ROUTER_QUEUE_POLICY: "nope" } });
    } catch (error) {
      expect((error as SettingsFault).faults).toHaveLength(2);
    }
    const open = openPrefillRouter({ blockSize: 16, environment: { DYN_ROUTER_USE_KV_EVENTS: "false" } });
    const { router } = open;
    router.upsertWorker(workerOf({ id: 1n }));
    expect(open.blocksOf({ workerId: 1n, dpRank: 0 }).stored({ blockHashes: [1n], tokens })).toBe("applied");
    expect(router.preview({ requestId: "r", ...open.prompt(tokens) })).toMatchObject({ decode: { deviceBlocks: 0 } });
    router.close();
  });

  it("computes short prompts where they decode, once conditional disaggregation is on", () => {
    const settings = { conditionalDisaggEnabled: true, conditionalDisaggEffIslThreshold: 100 };
    const open = openPrefillRouter({ blockSize: 16, settings });
    const { router } = open;
    router.upsertWorker(workerOf({ id: 1n, role: "prefill" }));
    router.upsertWorker(workerOf({ id: 2n, role: "decode" }));
    const long = Array.from({ length: 400 }, (_, index) => index);
    expect(planNow(open, long)).toMatchObject({ plan: { mode: "disaggregated" } });
    router.close();
  });
});
