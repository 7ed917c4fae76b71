import { describe, expect, it } from "@jest/globals";
import type { DecisionRecording } from "../../../src/pipeline/decision-sink.ts";
import { createPipeline } from "../../../src/pipeline/pipeline.ts";
import { type FakeWorld, named, plan, request, world } from "./fakes.ts";

function recording(steps: string[]): DecisionRecording {
  return {
    candidates: (all) => void steps.push(`candidates ${all.length}`),
    screened: (screener, before, after) => void steps.push(`screened ${screener} ${before.length}>${after.length}`),
    filtered: (profile, filter, before, after) =>
      void steps.push(`filtered ${profile} ${filter} ${before.length}>${after.length}`),
    scored: (profile, scorer, weight, _all, scores) =>
      void steps.push(`scored ${profile} ${scorer} ${weight} ${scores.join()}`),
    picked: (profile, picker, _all, totals, picked) =>
      void steps.push(`picked ${profile} ${picker} ${totals.join()} ${picked[0]?.address}`),
    rejected: (rejection, ms) => void steps.push(`rejected ${rejection.code} ${ms}`),
    scheduled: (result, ms) => void steps.push(`scheduled ${result.primary} ${ms}`),
    ended: (cause, _usage, ms) => void steps.push(`ended ${cause.kind} ${ms}`),
  };
}

function recorded(steps: string[], parts: Parameters<typeof plan>[0] = {}): FakeWorld {
  return world({ plan: plan(parts), dependencies: { decisions: { begin: () => recording(steps) } } });
}

describe("the decision sink", () => {
  it("is told every step of a routed request and its end", () => {
    const steps: string[] = [];
    const fake = recorded(steps, {
      screeners: [named("screen", { screen: (_c, all) => all })],
      filters: [named("filter", { filter: (_c, all) => all.slice(1) })],
      scorers: [named("score", { score: (_c, _all, scores) => void scores.fill(0.25) })],
    });
    fake.clock.advance(5);
    createPipeline(fake.dependencies).decide(request(), undefined, (decision) => {
      if (decision.kind === "routed") decision.exchange.end({ kind: "client-gone" });
    });
    expect(steps).toEqual([
      "candidates 2",
      "screened screen 2>2",
      "filtered default filter 2>1",
      "scored default score 1 0.25",
      "picked default picker 0.25 10.0.0.2",
      "scheduled default 5",
      "ended client-gone 5",
    ]);
  });

  it("is told of a refusal last", () => {
    const steps: string[] = [];
    const fake = recorded(steps, { filters: [named("none", { filter: () => [] })] });
    createPipeline(fake.dependencies).decide(request(), undefined, () => {});
    expect(steps).toEqual(["candidates 2", "filtered default none 2>0", "rejected ResourceExhausted 0"]);
  });

  it("is told that a waiting request was cancelled", () => {
    const steps: string[] = [];
    const fake = recorded(steps, { producers: [named("slow", { produce: () => new Promise<void>(() => {}) })] });
    createPipeline(fake.dependencies)
      .decide(request(), undefined, () => {})
      .cancel({ kind: "timeout" });
    expect(steps).toEqual(["candidates 2", "ended timeout 0"]);
  });
});
