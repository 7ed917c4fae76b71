import { describe, expect, it } from "@jest/globals";
import type { RouterWorker } from "../../../../src/prefill-router/contracts.ts";
import {
  effectiveTaints,
  hasRequiredTaints,
  mergeConstraints,
  taintMultiplier,
  transferConstraints,
} from "../../../../src/prefill-router/stage/taints.ts";
import { worker } from "./fleet.ts";

describe("taints", () => {
  it("are a worker's own and those of where it lies", () => {
    const taints = effectiveTaints(worker(1, { taints: ["h100"], topologyDomains: new Map([["zone", "us-1a"]]) }));
    expect([...taints]).toEqual(["h100", "dynamo.topology/zone=us-1a"]);
  });

  it("are required all together", () => {
    const constraints = { requiredTaints: ["a", "b"], preferredTaints: new Map() };
    expect(hasRequiredTaints(constraints, new Set(["a", "b", "c"]))).toBe(true);
    expect(hasRequiredTaints(constraints, new Set(["a"]))).toBe(false);
  });

  it("are preferred by bounded, reciprocal factors", () => {
    const preferring = (weight: number) =>
      taintMultiplier({ requiredTaints: [], preferredTaints: new Map([["a", weight]]) }, new Set(["a"]));
    expect(preferring(1) * preferring(-1)).toBeCloseTo(1, 14);
    expect(preferring(1e9)).toBe(Math.exp(-1));
    expect(preferring(0.1)).toBe(Math.exp(-Math.tanh(Math.fround(0.1))));
    expect(taintMultiplier({ requiredTaints: [], preferredTaints: new Map([["a", 1]]) }, new Set())).toBe(1);
  });
});

describe("the KV transfer domain", () => {
  const there: Partial<RouterWorker> = { kvTransferDomain: "rack", topologyDomains: new Map([["rack", "7"]]) };
  it.each<[string, Partial<RouterWorker>, object]>([
    ["asks nothing where none is named", {}, { kind: "none" }],
    [
      "requires its taint",
      { ...there, kvTransferEnforcement: "required" },
      { kind: "constraints", constraints: { requiredTaints: ["dynamo.topology/rack=7"], preferredTaints: new Map() } },
    ],
    [
      "prefers its taint",
      { ...there, kvTransferEnforcement: "preferred", kvTransferPreferredWeight: 2 },
      {
        kind: "constraints",
        constraints: { requiredTaints: [], preferredTaints: new Map([["dynamo.topology/rack=7", 2]]) },
      },
    ],
    [
      "is invalid without a place",
      { kvTransferDomain: "zone", kvTransferEnforcement: "required" },
      { kind: "invalid" },
    ],
    ["is invalid without enforcement", there, { kind: "invalid" }],
    ["is invalid without the weight it needs", { ...there, kvTransferEnforcement: "preferred" }, { kind: "invalid" }],
  ])("%s", (_name, members, expected) => {
    expect(transferConstraints(worker(1, members))).toMatchObject(expected);
  });

  it("joins what the request asks for itself", () => {
    const own = { requiredTaints: ["a"], preferredTaints: new Map([["x", 1]]) };
    const transfer = { requiredTaints: ["a", "b"], preferredTaints: new Map([["x", 2]]) };
    expect(mergeConstraints(own, transfer)).toEqual({
      requiredTaints: ["a", "b"],
      preferredTaints: new Map([["x", 2]]),
    });
    expect(mergeConstraints(undefined, transfer)).toBe(transfer);
  });
});
