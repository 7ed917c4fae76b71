/** What the decision log shows of requests that a real pipeline decided. */
import { describe, expect, it } from "@jest/globals";
import { DecisionLog } from "../../../src/admin/decision-log.ts";
import type { EndCause } from "../../../src/data/producer.ts";
import type { Decision } from "../../../src/pipeline/contracts.ts";
import { createPipeline } from "../../../src/pipeline/pipeline.ts";
import { InferenceRequest } from "../../../src/request/inference-request.ts";
import { reject } from "../../../src/request/rejection.ts";
import { chat, endpoint, named, type PlanParts, plan, world } from "../pipeline/fakes.ts";

const canary = "the-secret-prompt";
const [one, two, three] = [endpoint("10.0.0.1"), endpoint("10.0.0.2"), endpoint("10.0.0.3")];
const completed: EndCause = { kind: "completed", status: 200 };

interface RequestInit {
  readonly model?: string;
  readonly path?: string;
  readonly receivedAtMs?: number;
}

function request(id: string, init: RequestInit = {}): InferenceRequest {
  return new InferenceRequest({
    id,
    method: "POST",
    path: init.path ?? "/v1/chat/completions",
    headers: new Map([["authorization", canary]]),
    body: Buffer.from(JSON.stringify({ model: "llama", messages: [{ role: "user", content: canary }] })),
    parsed: { ...chat, model: init.model ?? "llama" },
    receivedAtMs: init.receivedAtMs ?? 0,
  });
}

function start(parts: PlanParts = {}, size = 4, dependencies: Parameters<typeof world>[0]["dependencies"] = {}) {
  const log = new DecisionLog(size, (atMs) => Date.UTC(2030, 0, 1) + atMs);
  const made = world({
    plan: plan(parts),
    endpoints: [one, two, three],
    dependencies: {
      decisions: log,
      route: (asked) => {
        asked.targetModel = `${asked.parsed.model}-v2`;
        asked.objective = "gold";
        asked.priority = 7;
        asked.fairnessId = "tenant";
        return undefined;
      },
      ...dependencies,
    },
  });
  const pipeline = createPipeline(made.dependencies);
  const decide = (asked: InferenceRequest): Decision | undefined => {
    let decided: Decision | undefined;
    pipeline.decide(asked, undefined, (decision) => {
      decided = decision;
    });
    return decided;
  };
  return { log, pipeline, decide, clock: made.clock };
}

describe("the decision log", () => {
  it("shows every candidate, verdict, score, weight and the winner of a routed request, and how it ended", () => {
    const { log, decide, clock } = start({
      screeners: [named("screener", { screen: (_cycle, endpoints) => endpoints })],
      filters: [
        named("drops-three", { filter: (_cycle, endpoints) => endpoints.filter((kept) => kept !== three) }),
        named("keeps-all", { filter: (_cycle, endpoints) => endpoints }),
      ],
      scorers: [
        named("queue", { score: (_cycle, _endpoints, scores) => scores.set([0.25, 1]) }),
        named("prefix", { score: (_cycle, _endpoints, scores) => scores.set([0.5, 0]) }),
      ],
      picker: {
        pick: (_cycle, endpoints) => {
          clock.nowMs = 1.2345;
          return [...endpoints].reverse();
        },
      },
    });
    const decision = decide(request("r1"));
    if (decision?.kind !== "routed") throw new Error("not routed");
    clock.nowMs = 250;
    decision.exchange.usage({ promptTokens: 9, completionTokens: 3, totalTokens: 12, cachedTokens: 8 });
    decision.exchange.end(completed);
    expect(JSON.parse(JSON.stringify(log.list(10)))).toEqual([
      {
        requestId: "r1",
        at: "2030-01-01T00:00:00.000Z",
        path: "/v1/chat/completions",
        model: "llama",
        targetModel: "llama-v2",
        objective: "gold",
        priority: 7,
        fairnessId: "tenant",
        bodyBytes: 76,
        candidates: ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"],
        profiles: [
          {
            profile: null,
            filters: [{ screener: "screener", kept: ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"], removed: [] }],
            endpoints: [],
            picker: null,
            winner: [],
          },
          {
            profile: "default",
            filters: [
              { filter: "drops-three", kept: ["10.0.0.1:8000", "10.0.0.2:8000"], removed: ["10.0.0.3:8000"] },
              { filter: "keeps-all", kept: ["10.0.0.1:8000", "10.0.0.2:8000"], removed: [] },
            ],
            endpoints: [
              {
                endpoint: "10.0.0.2:8000",
                name: "default/10.0.0.2-8000",
                scores: {
                  queue: { score: 1, weight: 1, weighted: 1 },
                  prefix: { score: 0, weight: 1, weighted: 0 },
                },
                total: 1,
              },
              {
                endpoint: "10.0.0.1:8000",
                name: "default/10.0.0.1-8000",
                scores: {
                  queue: { score: 0.25, weight: 1, weighted: 0.25 },
                  prefix: { score: 0.5, weight: 1, weighted: 0.5 },
                },
                total: 0.75,
              },
            ],
            picker: "picker",
            winner: ["10.0.0.2:8000", "10.0.0.1:8000"],
          },
        ],
        outcome: { kind: "routed", profile: "default", destinations: ["10.0.0.2:8000", "10.0.0.1:8000"] },
        decisionMs: 1.235,
        end: {
          kind: "completed",
          status: 200,
          usage: { promptTokens: 9, completionTokens: 3, totalTokens: 12, cachedTokens: 8 },
          durationMs: 250,
        },
      },
    ]);
  });

  it("keeps the scores of a decision when the next one reuses their arrays", () => {
    let score = 0.25;
    const { log, decide } = start({
      scorers: [
        named("queue", {
          score: (_cycle, _endpoints, scores) => {
            scores.fill(score);
          },
        }),
      ],
    });
    decide(request("first"));
    score = 1;
    decide(request("second"));
    const totals = log.list(10).map((shown) => JSON.stringify(shown).match(/"total":([\d.]+)/)?.[1]);
    expect(totals).toEqual(["1", "0.25"]);
  });

  it("shows a request that is under way, without an end", () => {
    const { log, decide } = start();
    decide(request("r1"));
    expect(log.list(1)[0]).toMatchObject({ outcome: { kind: "routed" }, end: null });
  });

  it("shows why a request was refused", () => {
    const refusal = reject("ServiceUnavailable", "no capacity", {
      droppedReason: "rejected-no-endpoints",
      retryAfterSeconds: 1,
    });
    const { log, decide } = start({ admitters: [named("full", { admit: () => refusal })] });
    decide(request("r1"));
    expect(log.list(1)[0]).toMatchObject({
      outcome: { kind: "rejected", code: "ServiceUnavailable", droppedReason: "rejected-no-endpoints" },
      end: null,
      decisionMs: 0,
    });
  });

  it("shows the filter that emptied the candidates", () => {
    const { log, decide } = start({ filters: [named("empties", { filter: () => [] })] });
    decide(request("r1"));
    expect(log.list(1)[0]).toMatchObject({
      outcome: { kind: "rejected", code: "ResourceExhausted" },
      profiles: [{ profile: "default", filters: [{ filter: "empties", kept: [], removed: expect.anything() }] }],
    });
  });

  it("shows a request that left before it was decided as cancelled", () => {
    const { log, pipeline } = start({ producers: [named("slow", { produce: () => new Promise<void>(() => {}) })] });
    const pending = pipeline.decide(request("r1"), undefined, () => {});
    expect(log.list(1)[0]).toMatchObject({ outcome: { kind: "undecided" }, end: null });
    pending.cancel({ kind: "client-gone" });
    expect(log.list(1)[0]).toMatchObject({ outcome: { kind: "cancelled" }, end: { kind: "client-gone" } });
  });

  it("keeps the last ones only, newest first, and finds those of one id", () => {
    const { log, decide } = start({}, 3);
    for (const id of ["a", "b", "a", "c", "a"]) decide(request(id));
    const ids = (limit: number, id?: string) => log.list(limit, id).map((shown) => shown["requestId"]);
    expect(ids(10)).toEqual(["a", "c", "a"]);
    expect(ids(2)).toEqual(["a", "c"]);
    expect(ids(10, "a")).toEqual(["a", "a"]);
    expect(ids(1, "c")).toEqual(["c"]);
    expect(ids(10, "b")).toEqual([]);
  });

  it("ends a list early when its decisions are large", () => {
    const large = Array.from({ length: 5_000 }, (_, n) => endpoint(`10.0.${n >> 8}.${n & 255}`));
    const parts = { scorers: [named("queue", { score: () => {} })] };
    const { log, decide } = start(parts, 4, { endpoints: { snapshot: () => large } });
    for (const id of ["a", "b", "c"]) decide(request(id));
    expect(log.list(10).map((shown) => shown["requestId"])).toEqual(["c", "b"]);
    expect(log.list(10, "a").map((shown) => shown["requestId"])).toEqual(["a"]);
  });

  it("says when the headers came, which its durations count from", () => {
    const log = new DecisionLog(1, (atMs) => Date.UTC(2030, 0, 1) + atMs);
    log.begin(request("r1", { receivedAtMs: 40 }));
    expect(log.list(1)).toMatchObject([{ at: "2030-01-01T00:00:00.040Z" }]);
  });

  it("of size 0 records nothing", () => {
    const log = new DecisionLog(0, () => 0);
    expect(log.begin(request("r1"))).toBeUndefined();
    expect(log.list(10)).toEqual([]);
  });

  it("holds neither prompt nor header values", () => {
    const { log, decide } = start();
    decide(request("r1"));
    expect(JSON.stringify(log.list(1))).not.toContain(canary);
  });

  it("cuts names that a client made long, and still finds the request by its id", () => {
    const long = "x".repeat(4_000);
    const { log, decide } = start();
    decide(request(long, { model: long, path: `/${long}` }));
    expect(log.list(1, long)).toHaveLength(1);
    expect(JSON.stringify(log.list(1)).length).toBeLessThan(4_000);
  });
});
