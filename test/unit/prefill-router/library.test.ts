import { describe, expect, it } from "@jest/globals";
import { openPrefillRouter, type PlanOutcome, SettingsFault, workerOf } from "../../../src/prefill-router/library.ts";

const tokens = Array.from({ length: 64 }, (_, index) => index);

function planNow({ router, prompt }: ReturnType<typeof openPrefillRouter>, asked = tokens): PlanOutcome | undefined {
  let found: PlanOutcome | undefined;
  router.plan({ requestId: "r", ...prompt(asked) }, (outcome) => {
    found = outcome;
  });
  return found;
}

function opened(options: Partial<Parameters<typeof openPrefillRouter>[0]> = {}) {
  const open = openPrefillRouter({ blockSize: 16, ...options });
  return { ...open, router: open.router, prompt: open.prompt.bind(open), blocksOf: open.blocksOf.bind(open), open };
}

describe("the library", () => {
  it("sends a prompt where its blocks are, and forgets them with the rank", async () => {
    const { open, router, prompt, blocksOf } = opened();
    for (const id of [1n, 2n]) router.upsertWorker(workerOf({ id }));
    const blocks = blocksOf({ workerId: 2n, dpRank: 0 });
    expect(blocks.stored({ blockHashes: [7n, 2n ** 64n - 1n], tokens: tokens.slice(0, 32) })).toBe("applied");
    expect(blocks.stored({ blockHashes: [9n], tokens: tokens.slice(32, 48), parentHash: 2n ** 64n - 1n })).toBe(
      "applied",
    );
    const outcome = planNow({ ...open, router, prompt });
    expect(outcome).toMatchObject({ plan: { decode: { worker: { id: 2n }, deviceBlocks: 3, cachedTokens: 48 } } });
    if (outcome?.kind === "planned") outcome.plan.booking.free();
    blocks.removed([9n]);
    expect(router.preview({ requestId: "r", ...prompt(tokens) })).toMatchObject({ decode: { deviceBlocks: 2 } });
    blocks.close();
    expect(router.preview({ requestId: "r", ...prompt(tokens) })).toMatchObject({ decode: { deviceBlocks: 0 } });
    await open.close();
    expect(planNow({ ...open, router, prompt })).toMatchObject({ refusal: { kind: "closed" } });
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
    const { router, prompt, blocksOf } = opened({ environment: { DYN_ROUTER_USE_KV_EVENTS: "false" } });
    router.upsertWorker(workerOf({ id: 1n }));
    expect(blocksOf({ workerId: 1n, dpRank: 0 }).stored({ blockHashes: [1n], tokens })).toBe("applied");
    expect(router.preview({ requestId: "r", ...prompt(tokens) })).toMatchObject({ decode: { deviceBlocks: 0 } });
    router.close();
  });

  it("computes short prompts where they decode, once conditional disaggregation is on", () => {
    const settings = { conditionalDisaggEnabled: true, conditionalDisaggEffIslThreshold: 100 };
    const { open, router, prompt } = opened({ settings });
    router.upsertWorker(workerOf({ id: 1n, role: "prefill" }));
    router.upsertWorker(workerOf({ id: 2n, role: "decode" }));
    const long = Array.from({ length: 400 }, (_, index) => index);
    expect(planNow({ ...open, router, prompt }, long)).toMatchObject({ plan: { mode: "disaggregated" } });
    router.close();
  });
});
