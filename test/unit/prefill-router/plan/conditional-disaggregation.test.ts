import { describe, expect, it } from "@jest/globals";
import {
  type BypassSignals,
  type ConditionalDisaggregation,
  decideBypass,
} from "../../../../src/prefill-router/plan/conditional-disaggregation.ts";
import { anyIndex, harness, planned, request, worker } from "./harness.ts";

const isl: ConditionalDisaggregation = {
  policy: "isl_bounding",
  effIslThreshold: 2048,
  effIslRatioThreshold: 0.7,
  prefillBusyThreshold: 1,
  decodeBusyThreshold: undefined,
};

function signals(promptTokens: number, cachedTokens: number, changes: Partial<BypassSignals> = {}): BypassSignals {
  return { promptTokens, cachedTokens, isPrefillBusy: undefined, isDecodeBusy: undefined, ...changes };
}

describe("conditional disaggregation", () => {
  const declined = "declined by the policy";
  it.each<[string, Partial<ConditionalDisaggregation>, BypassSignals, string]>([
    ["short and mostly cached", {}, signals(1000, 500), "bypassed"],
    ["short but not cached enough", {}, signals(1000, 300), declined],
    ["exactly at the share", {}, signals(10, 3), declined],
    ["long although mostly cached", {}, signals(10_000, 7_952), declined],
    ["one token below the number", {}, signals(10_000, 7_953), "bypassed"],
    ["more cached than the prompt has", {}, signals(100, 200), "bypassed"],
    ["an empty prompt", {}, signals(0, 0), "bypassed"],
    ["prefill busy, policy of length", {}, signals(1000, 0, { isPrefillBusy: true }), declined],
    ["prefill busy", { policy: "prefill_load" }, signals(9999, 0, { isPrefillBusy: true }), "bypassed"],
    ["prefill calm", { policy: "prefill_load" }, signals(10, 10, { isPrefillBusy: false }), declined],
    ["prefill load unknown", { policy: "prefill_load" }, signals(10, 10), declined],
    ["either: busy", { policy: "isl_or_load" }, signals(9999, 0, { isPrefillBusy: true }), "bypassed"],
    ["either: short", { policy: "isl_or_load" }, signals(100, 90, { isPrefillBusy: false }), "bypassed"],
    ["either: neither", { policy: "isl_or_load" }, signals(9999, 0, { isPrefillBusy: false }), declined],
    [
      "decode busy",
      { decodeBusyThreshold: 0.5 },
      signals(100, 90, { isDecodeBusy: true }),
      "denied: decode worker busy",
    ],
    ["decode unknown", { decodeBusyThreshold: 0.5 }, signals(100, 90), "denied: decode load unknown"],
    ["decode calm", { decodeBusyThreshold: 0.5 }, signals(100, 90, { isDecodeBusy: false }), "bypassed"],
    [
      "declined before decode is asked",
      { decodeBusyThreshold: 0.5 },
      signals(9999, 0, { isDecodeBusy: true }),
      declined,
    ],
  ])("%s", (_name, changes, given, expected) => {
    expect(decideBypass({ ...isl, ...changes }, given)).toBe(expected);
  });

  const workers = [worker(1, "prefill"), worker(2, "decode", { totalKvBlocks: 1 })];

  it("plans a request on the decode worker that has its prompt, with the load of the prompt booked there", () => {
    const { plan, decode, router } = harness({ workers, config: { conditional: isl }, index: anyIndex() });
    decode.cached.set("2:0", 90);
    const made = planned(plan(request(100)).outcome);
    expect(made).toMatchObject({ mode: "aggregated", decode: { cachedTokens: 90 } });
    expect(decode.loads()).toMatchObject([{ activePrefillTokens: 10 }]);
    expect(router.snapshot().counters.bypassed).toBe(1);
    made.booking.free();
  });

  it.each<[string, Parameters<typeof request>[1]]>([
    ["a pinned prefill worker", { pinned: { prefill: { workerId: 1n, dpRank: 0 } } }],
    ["no tokens", { sequenceHashes: new Uint32Array(0) }],
  ])("keeps both legs for a request with %s", (_name, changes) => {
    const { plan, decode } = harness({ workers, config: { conditional: isl }, index: anyIndex() });
    decode.cached.set("2:0", 90);
    expect(planned(plan(request(100, changes)).outcome).mode).toBe("disaggregated");
  });

  it("looks at the decode worker's blocks before it gives it a prompt", () => {
    const busy = { ...isl, decodeBusyThreshold: 0.5 };
    const { plan, decode } = harness({ workers, config: { conditional: busy }, index: anyIndex() });
    decode.cached.set("2:0", 90);
    expect(planned(plan(request(100)).outcome).mode).toBe("disaggregated");
  });

  it("bypasses a busy prefill worker, and only then", () => {
    const load = { ...isl, policy: "prefill_load" as const };
    const { plan } = harness({ workers, config: { conditional: load }, index: anyIndex() });
    expect(planned(plan(request(1001)).outcome).mode).toBe("disaggregated");
    expect(planned(plan(request(1001)).outcome).mode).toBe("aggregated");
  });
});
