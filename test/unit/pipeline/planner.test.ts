/** Decisions by a planner: it may wait, refuse and book, and what it booked always comes back. */
import { describe, expect, it } from "@jest/globals";
import { DecisionLog } from "../../../src/admin/decision-log.ts";
import type { Decision } from "../../../src/pipeline/contracts.ts";
import { createPipeline } from "../../../src/pipeline/pipeline.ts";
import { reject } from "../../../src/request/rejection.ts";
import type { Planner, PlannerOutcome, PlanOffer } from "../../../src/scheduling/contracts.ts";
import { endpoint, named, type PlanParts, plan, request, world } from "./fakes.ts";

const first = endpoint("a", 1);
const second = endpoint("b", 2);

function deciding(parts: PlanParts = {}) {
  const steps: string[] = [];
  let answer: ((outcome: PlannerOutcome) => void) | undefined;
  let offered: PlanOffer | undefined;
  const planner: Planner = {
    plan(_cycle, offer, done) {
      offered = offer;
      answer = done;
      return { cancel: () => void steps.push("cancelled") };
    },
  };
  const fake = world({
    endpoints: [first, second],
    plan: plan({
      planner,
      observers: [
        named("observer", { assigned: () => void steps.push("assigned"), ended: () => void steps.push("ended") }),
      ],
      ...parts,
    }),
  });
  const pipeline = createPipeline(fake.dependencies);
  const decisions: Decision[] = [];
  const pending = pipeline.decide(request(), undefined, (decision) => decisions.push(decision));
  return {
    fake,
    pipeline,
    decisions,
    pending,
    steps,
    offer: () => offered,
    answer: (outcome: PlannerOutcome) => answer?.(outcome),
    planned: (...destinations: readonly (typeof first)[]): PlannerOutcome => ({
      kind: "planned",
      destinations,
      abandoned: () => void steps.push("abandoned"),
    }),
  };
}

describe("a planner", () => {
  it("chooses the destination, whatever the profiles would have picked", () => {
    const { answer, planned, decisions, steps } = deciding();
    answer(planned(second));
    expect(decisions).toMatchObject([{ kind: "routed", destinations: [{ name: second.name }] }]);
    expect(steps).toEqual(["assigned"]);
  });

  it("may answer before plan returns", () => {
    const { decisions } = deciding({
      planner: {
        plan(_cycle, { candidates }, done) {
          done({ kind: "planned", destinations: candidates.slice(1), abandoned: () => undefined });
          return { cancel: () => undefined };
        },
      },
    });
    expect(decisions).toMatchObject([{ kind: "routed", destinations: [{ name: second.name }] }]);
  });

  it("is offered the candidates and what the filters of a profile leave of them", () => {
    const { offer } = deciding({ filters: [named("filter", { filter: (_cycle, all) => all.slice(1) })] });
    expect(offer()?.candidates.map(({ name }) => name)).toEqual([first.name, second.name]);
    expect(
      offer()
        ?.eligible("default")
        .map(({ name }) => name),
    ).toEqual([second.name]);
    expect(offer()?.eligible("no such profile")).toHaveLength(2);
  });

  it("explains itself to the decision log", () => {
    const log = new DecisionLog(1, () => 0);
    const { dependencies } = world({
      endpoints: [first, second],
      dependencies: { decisions: log },
      plan: plan({
        planner: {
          plan(_cycle, { candidates }, done) {
            const explain = () => ({ mode: "aggregated" });
            done({ kind: "planned", destinations: candidates.slice(1), explain, abandoned: () => undefined });
            return { cancel: () => undefined };
          },
        },
      }),
    });
    createPipeline(dependencies).decide(request(), undefined, () => undefined);
    expect(log.list(1)).toMatchObject([{ plan: { planner: "handler", mode: "aggregated" } }]);
  });

  it("that waits sees the endpoints that have joined, by the filters of the profile", () => {
    const third = endpoint("c", 3);
    const { offer, fake, answer, planned, decisions } = deciding({
      filters: [named("filter", { filter: (_cycle, all) => all.filter(({ name }) => name !== first.name) })],
    });
    expect(offer()?.latest()).toBe(offer());
    fake.endpoints = [first, second, third];
    const latest = offer()?.latest();
    expect(latest?.candidates).toHaveLength(3);
    expect(latest?.eligible("default").map(({ name }) => name)).toEqual([second.name, third.name]);
    answer(planned(third));
    expect(decisions).toMatchObject([{ kind: "routed", destinations: [{ name: third.name }] }]);
  });

  it("may refuse", () => {
    const { answer, decisions, steps } = deciding();
    answer(reject("GatewayTimeout", "the tokenizer took too long"));
    expect(decisions).toMatchObject([{ kind: "rejected", rejection: { code: "GatewayTimeout" } }]);
    expect(steps).toEqual([]);
  });

  it("gets its plan back when a filter refuses the destination", () => {
    const { answer, planned, decisions, steps } = deciding({ filters: [named("filter", { filter: () => [] })] });
    answer(planned(first));
    expect(decisions).toMatchObject([{ kind: "rejected", rejection: { code: "ResourceExhausted" } }]);
    expect(steps).toEqual(["abandoned"]);
  });

  it("gets its plan back when the destination has left while the request waited", () => {
    const { answer, planned, decisions, steps, fake } = deciding();
    fake.endpoints = [second];
    answer(planned(first));
    expect(decisions).toMatchObject([{ kind: "rejected", rejection: { code: "ServiceUnavailable" } }]);
    expect(steps).toEqual(["abandoned"]);
  });

  it("is told when the request leaves before it has answered, and a late answer comes back", () => {
    const { answer, planned, decisions, steps, pending, pipeline } = deciding();
    pending.cancel({ kind: "client-gone" });
    answer(planned(first));
    expect(decisions).toEqual([]);
    expect(steps).toEqual(["cancelled", "abandoned"]);
    expect(pipeline.pendingDecisions).toBe(0);
  });

  it("that throws refuses this request and no other", () => {
    const { decisions } = deciding({
      planner: {
        plan() {
          throw new Error("broken");
        },
      },
    });
    expect(decisions).toMatchObject([{ kind: "rejected", rejection: { code: "Internal" } }]);
  });

  it("has its plan ended by the exchange once the request is assigned", () => {
    const { answer, planned, decisions, steps } = deciding();
    answer(planned(first));
    const [decision] = decisions;
    if (decision?.kind === "routed") decision.exchange.end({ kind: "completed", status: 200 });
    expect(steps).toEqual(["assigned", "ended"]);
  });
});
