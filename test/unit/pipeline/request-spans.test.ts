/** The tree of spans that a decision leaves, over the real pipeline with a clock turned by its plugins. */
import { describe, expect, it } from "@jest/globals";
import type { DecisionRecording } from "../../../src/pipeline/decision-sink.ts";
import { bothSinks } from "../../../src/pipeline/decision-sinks.ts";
import { createPipeline } from "../../../src/pipeline/pipeline.ts";
import { createDecisionSpans, requestSpanKey } from "../../../src/pipeline/request-spans.ts";
import type { SchedulingPlan } from "../../../src/scheduling/contracts.ts";
import type { SpanAttributes, TraceSpan } from "../../../src/telemetry/tracing.ts";
import { type FakeWorld, named, type PlanParts, plan, request, world } from "./fakes.ts";

interface Recorded {
  readonly name: string;
  readonly startMs: number;
  endMs: number | undefined;
  error: string | undefined;
  readonly attributes: Record<string, string | number | boolean>;
  readonly children: Recorded[];
}

/** A span that keeps what it is told, and fails on a second end or a child that outlives it. */
function recorded(name: string, startMs: number, attributes: SpanAttributes = {}): { span: TraceSpan; kept: Recorded } {
  const kept: Recorded = {
    name,
    startMs,
    endMs: undefined,
    error: undefined,
    attributes: { ...attributes },
    children: [],
  };
  const span: TraceSpan = {
    child: (childName, childStartMs, childAttributes) => {
      if (kept.endMs !== undefined) throw new Error(`${childName} begins after the end of ${name}`);
      const child = recorded(childName, childStartMs, childAttributes);
      kept.children.push(child.kept);
      return child.span;
    },
    set: (more) => {
      Object.assign(kept.attributes, more);
    },
    end: (atMs, error) => {
      if (kept.endMs !== undefined) throw new Error(`${name} ends twice`);
      if (kept.children.some((child) => child.endMs === undefined)) throw new Error(`a child outlives ${name}`);
      kept.endMs = atMs;
      kept.error = error;
    },
  };
  return { span, kept };
}

/** name[start-end]!error(children) */
function drawn(span: Recorded): string {
  const children = span.children.length === 0 ? "" : ` (${span.children.map(drawn).join(" ")})`;
  return `${span.name}[${span.startMs}-${span.endMs}]${span.error === undefined ? "" : `!${span.error}`}${children}`;
}

function traced(parts: (spend: (ms: number) => void) => PlanParts, options: Partial<FakeWorld["dependencies"]> = {}) {
  let spendOn: FakeWorld | undefined;
  const spend = (ms: number): void => {
    if (spendOn !== undefined) spendOn.clock.nowMs += ms;
  };
  const built: SchedulingPlan = plan(parts(spend));
  const decisions = createDecisionSpans({ now: () => spendOn?.clock.nowMs ?? 0, typeOf: (name) => `${name}-type` });
  spendOn = world({ plan: built, dependencies: { ...options, decisions } });
  return { world: spendOn, pipeline: createPipeline(spendOn.dependencies) };
}

const usual = (spend: (ms: number) => void): PlanParts => ({
  filters: ["first", "second"].map((name) =>
    named(name, {
      filter: (_cycle: unknown, endpoints) => {
        spend(2);
        return endpoints;
      },
    }),
  ) as NonNullable<PlanParts["filters"]>,
  scorers: ["queue", "prefix"].map((name) => named(name, { score: () => spend(3) })),
  picker: {
    pick: (_cycle, endpoints) => {
      spend(1);
      return endpoints.slice(0, 1);
    },
  },
  producers: [named("producer", { produce: () => spend(10) })],
});

describe("the spans of a decision", () => {
  it("nest as the reference's do, and the profile begins after the producers", () => {
    const { pipeline } = traced(usual);
    const { span, kept } = recorded("gateway.request", 0);
    const asked = request();
    asked.setAttribute(requestSpanKey, span);
    pipeline.decide(asked, undefined, (decision) => {
      if (decision.kind !== "routed") throw new Error("not routed");
      decision.exchange.usage({ promptTokens: 7, completionTokens: 5, totalTokens: 12, cachedTokens: undefined });
      decision.exchange.end({ kind: "completed", status: 200 });
    });
    expect(kept.children.map(drawn)).toEqual([
      "gateway.request_orchestration[0-21] (run_scheduler_profile[10-21] (filter_endpoints[10-14] llm_d.epp.scoring[14-20] " +
        "(llm_d.epp.scorer.queue-type[14-17] llm_d.epp.scorer.prefix-type[17-20])))",
    ]);
    expect(kept.endMs).toBeUndefined();
    expect(kept.attributes).toMatchObject({
      "gateway.request.id": "r1",
      "gen_ai.request.model": "llama",
      "gateway.destination": "10.0.0.1:8000",
      "gen_ai.usage.input_tokens": 7,
      "gen_ai.usage.output_tokens": 5,
    });
    expect(kept.children[0]?.children[0]?.attributes).toMatchObject({
      "gateway.profile": "default",
      "gateway.picker": "picker",
      "gateway.picked": "10.0.0.1:8000",
    });
  });

  it("end with the filter that emptied the candidates", () => {
    const { pipeline } = traced((spend) => ({
      filters: [
        named("empties", {
          filter: () => {
            spend(2);
            return [];
          },
        }),
      ],
    }));
    const { span, kept } = recorded("gateway.request", 0);
    const asked = request();
    asked.setAttribute(requestSpanKey, span);
    pipeline.decide(asked, undefined, () => {});
    expect(kept.children.map(drawn)).toEqual([
      "gateway.request_orchestration[0-2]!ResourceExhausted (run_scheduler_profile[0-2]!NoEndpoints (filter_endpoints[0-2]))",
    ]);
    expect(kept.children[0]?.children[0]?.children[0]?.attributes).toMatchObject({
      "gateway.filters.emptied_by": "empties",
    });
  });

  it("end when a request leaves while a producer is waited for", () => {
    const { pipeline } = traced(() => ({ producers: [named("slow", { produce: () => new Promise<void>(() => {}) })] }));
    const { span, kept } = recorded("gateway.request", 0);
    const asked = request();
    asked.setAttribute(requestSpanKey, span);
    pipeline.decide(asked, undefined, () => {}).cancel({ kind: "client-gone" });
    expect(kept.children.map(drawn)).toEqual(["gateway.request_orchestration[0-0]!client-gone"]);
  });

  it("are not made for a request that carries no span", () => {
    const sink = createDecisionSpans({ now: () => 0, typeOf: (name) => name });
    expect(sink.begin(request())).toBeUndefined();
  });
});

describe("two listeners", () => {
  const recording = {} as DecisionRecording;
  const yes = { begin: () => recording };
  const no = { begin: () => undefined };

  it("cost nothing where one of them or both do not record", () => {
    expect(bothSinks(yes, no).begin(request())).toBe(recording);
    expect(bothSinks(no, yes).begin(request())).toBe(recording);
    expect(bothSinks(no, no).begin(request())).toBeUndefined();
  });

  it("both hear every step", () => {
    const heard: string[] = [];
    const listener = (name: string): DecisionRecording => {
      const note = (step: string) => () => {
        heard.push(`${name} ${step}`);
      };
      return {
        candidates: note("candidates"),
        screened: note("screened"),
        filtered: note("filtered"),
        scored: note("scored"),
        picked: note("picked"),
        rejected: note("rejected"),
        scheduled: note("scheduled"),
        ended: note("ended"),
        ...(name === "a" ? { profileStarted: note("profileStarted") } : {}),
      };
    };
    const { pipeline } = (() => {
      const made = world({
        plan: plan({
          filters: [named("f", { filter: (_cycle, endpoints) => endpoints })],
          scorers: [named("s", { score: () => {} })],
          screeners: [named("screener", { screen: (_cycle, endpoints) => endpoints })],
        }),
        dependencies: { decisions: bothSinks({ begin: () => listener("a") }, { begin: () => listener("b") }) },
      });
      return { pipeline: createPipeline(made.dependencies) };
    })();
    pipeline.decide(request(), undefined, (decision) => {
      if (decision.kind === "routed") decision.exchange.end({ kind: "completed", status: 200 });
    });
    const steps = ["candidates", "screened", "filtered", "scored", "picked", "scheduled", "ended"];
    expect(heard.filter((step) => step.startsWith("b"))).toEqual(steps.map((step) => `b ${step}`));
    expect(heard.filter((step) => step.startsWith("a") && step !== "a profileStarted")).toEqual(
      steps.map((step) => `a ${step}`),
    );
    expect(heard).toContain("a profileStarted");
  });
});
