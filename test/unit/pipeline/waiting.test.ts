/** Decisions that wait: for producers, for admission, and over a change of configuration. */
import { describe, expect, it } from "@jest/globals";
import type { DataProducer, EndCause } from "../../../src/data/producer.ts";
import type { Decision } from "../../../src/pipeline/contracts.ts";
import { createPipeline } from "../../../src/pipeline/pipeline.ts";
import { type Rejection, reject } from "../../../src/request/rejection.ts";
import fc from "../../properties.ts";
import { endpoint, named, plan, request, world } from "./fakes.ts";

/** Lets promises that are settled reach those who wait for them. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

function deferred(): { readonly promise: Promise<void>; resolve(): void; reject(error: Error): void } {
  const { promise, resolve, reject: fail } = Promise.withResolvers<void>();
  return { promise, resolve, reject: fail };
}

function deciding(producers: readonly (readonly [string, DataProducer])[]) {
  const steps: string[] = [];
  const fake = world({
    plan: plan({
      producers: producers.map(([name, producer]) => named(name, producer)),
      filters: [named("filter", { filter: (_c, all) => (steps.push("scheduled") > 0 ? all : []) })],
      observers: [
        named("observer", { assigned: () => void steps.push("assigned"), ended: () => void steps.push("ended") }),
      ],
    }),
  });
  const pipeline = createPipeline(fake.dependencies);
  const decisions: Decision[] = [];
  const pending = pipeline.decide(request(), undefined, (decision) => decisions.push(decision));
  return { fake, pipeline, decisions, pending, steps };
}

describe("a producer that answers later", () => {
  it("is waited for, and its timer is given back", async () => {
    const answer = deferred();
    const { decisions, fake, pipeline } = deciding([["slow", { produce: () => answer.promise }]]);
    expect([decisions.length, pipeline.pendingDecisions, fake.clock.waiting]).toEqual([0, 1, 1]);
    answer.resolve();
    await settle();
    expect(decisions).toMatchObject([{ kind: "routed" }]);
    expect([pipeline.pendingDecisions, fake.clock.waiting]).toEqual([0, 0]);
    expect(fake.lines).not.toContain("pluginFailed DataProducer slow-type slow");
  });

  it("is given up after 400 ms; the request goes on and the late answer changes nothing", async () => {
    const answer = deferred();
    const { decisions, fake } = deciding([["slow", { produce: () => answer.promise }]]);
    fake.clock.advance(399);
    expect(decisions).toEqual([]);
    fake.clock.advance(1);
    expect(decisions).toMatchObject([{ kind: "routed" }]);
    answer.resolve();
    await settle();
    expect(decisions).toHaveLength(1);
    expect(fake.lines.filter((line) => line.startsWith("pluginFailed"))).toEqual([
      "pluginFailed DataProducer slow-type slow",
    ]);
  });

  it.each(["before", "after"])("that fails %s its time is up is counted once and harms nobody", async (when) => {
    const answer = deferred();
    const { decisions, fake } = deciding([["slow", { produce: () => answer.promise }]]);
    if (when === "after") fake.clock.advance(400);
    answer.reject(new Error("tokenizer is gone"));
    await settle();
    expect(decisions).toMatchObject([{ kind: "routed" }]);
    expect(fake.lines.filter((line) => line.startsWith("pluginFailed"))).toHaveLength(1);
    expect(fake.clock.waiting).toBe(0);
  });

  it("holds up only those that read from it", async () => {
    const tokens = deferred();
    const called: string[] = [];
    const { decisions } = deciding([
      ["tokens", { produce: () => (called.push("tokens") > 0 ? tokens.promise : undefined) }],
      ["load", { produce: () => void called.push("load") }],
      ["prefix", { after: ["tokens-type"], produce: () => void called.push("prefix") }],
    ]);
    expect(called).toEqual(["tokens", "load"]);
    tokens.resolve();
    await settle();
    expect(called).toEqual(["tokens", "load", "prefix"]);
    expect(decisions).toHaveLength(1);
  });

  it("waits beside others that are slow, 400 ms in all", () => {
    const never = { produce: () => new Promise<void>(() => {}) };
    const { decisions, fake } = deciding([
      ["one", never],
      ["two", never],
    ]);
    fake.clock.advance(400);
    expect(decisions).toHaveLength(1);
  });

  it("that throws at once is counted, and the next one runs", () => {
    const called: string[] = [];
    const { decisions, fake } = deciding([
      [
        "broken",
        {
          produce: () => {
            throw new Error("broken plugin");
          },
        },
      ],
      ["sound", { produce: () => void called.push("sound") }],
    ]);
    expect([called, decisions.length]).toEqual([["sound"], 1]);
    expect(fake.lines).toContain("pluginFailed DataProducer broken-type broken");
  });

  it.each([1, true, "done", {}])("that returns %j has answered at once", (junk) => {
    const { decisions, fake } = deciding([["odd", { produce: () => junk as never }]]);
    expect([decisions.length, fake.clock.waiting]).toEqual([1, 0]);
  });

  it("sees the endpoints that left meanwhile leave the candidates", async () => {
    const answer = deferred();
    const { decisions, fake } = deciding([["slow", { produce: () => answer.promise }]]);
    fake.endpoints = [endpoint("10.0.0.1", 8000, { generation: 2 }), endpoint("10.0.0.2"), endpoint("10.0.0.9")];
    answer.resolve();
    await settle();
    expect(decisions).toMatchObject([{ kind: "routed", destinations: [{ address: "10.0.0.2" }] }]);
  });

  it("leaves 503 when all candidates left meanwhile", async () => {
    const answer = deferred();
    const { decisions, fake } = deciding([["slow", { produce: () => answer.promise }]]);
    fake.endpoints = [];
    answer.resolve();
    await settle();
    expect(decisions).toMatchObject([
      { kind: "rejected", rejection: { code: "ServiceUnavailable", droppedReason: "rejected-no-endpoints" } },
    ]);
  });
});

describe("a decision that is cancelled while it waits", () => {
  it.each<[EndCause, readonly string[]]>([
    [{ kind: "client-gone" }, []],
    [{ kind: "timeout" }, ["refused GatewayTimeout llama llama"]],
    [{ kind: "shutdown" }, ["refused ServiceUnavailable llama llama"]],
    [{ kind: "error" }, ["refused Internal llama llama"]],
  ])("by %j books nothing, keeps no timer and never calls back", async (cause, refused) => {
    const answer = deferred();
    const { decisions, fake, pending, pipeline, steps } = deciding([["slow", { produce: () => answer.promise }]]);
    pending.cancel(cause);
    pending.cancel(cause);
    answer.resolve();
    await settle();
    expect([decisions, steps, fake.clock.waiting, pipeline.pendingDecisions]).toEqual([[], [], 0, 0]);
    expect(fake.lines).toEqual(refused);
  });

  it("after it was decided is not cancelled at all", () => {
    const { decisions, pending, steps } = deciding([]);
    pending.cancel({ kind: "client-gone" });
    expect([decisions.length, steps]).toEqual([1, ["scheduled", "assigned"]]);
  });

  it("by the end of the pipeline never calls back", async () => {
    const { decisions, pipeline } = deciding([["slow", { produce: () => new Promise<void>(() => {}) }]]);
    await pipeline.close();
    expect([decisions, pipeline.pendingDecisions]).toEqual([[], 0]);
  });
});

describe("admission that queues", () => {
  function queued() {
    const queue: { done: (rejection: Rejection | undefined) => void; cancelled: EndCause[] }[] = [];
    const fake = world({
      dependencies: {
        admission: {
          admit: (_request, _candidates, done) => {
            const cancelled: EndCause[] = [];
            queue.push({ done, cancelled });
            return { cancel: (cause) => void cancelled.push(cause) };
          },
        },
      },
    });
    const pipeline = createPipeline(fake.dependencies);
    const decisions: Decision[] = [];
    const pending = pipeline.decide(request(), undefined, (decision) => decisions.push(decision));
    const [place] = queue;
    if (place === undefined) throw new Error("not queued");
    return { fake, pipeline, decisions, pending, place };
  }

  it("lets the request go on among the endpoints of that moment", () => {
    const { decisions, fake, place } = queued();
    expect(decisions).toEqual([]);
    fake.endpoints = [endpoint("10.0.0.7")];
    place.done(undefined);
    expect(decisions).toMatchObject([{ kind: "routed", destinations: [{ address: "10.0.0.7" }] }]);
  });

  it("refuses 503 when the pool emptied while the request waited", () => {
    const { decisions, fake, place } = queued();
    fake.endpoints = [];
    place.done(undefined);
    expect(decisions).toMatchObject([{ kind: "rejected", rejection: { droppedReason: "rejected-no-endpoints" } }]);
  });

  it("may refuse later", () => {
    const { decisions, place } = queued();
    place.done(reject("ResourceExhausted", "request timed out in queue", { droppedReason: "rejected-ttl-expired" }));
    expect(decisions).toMatchObject([{ kind: "rejected", rejection: { droppedReason: "rejected-ttl-expired" } }]);
  });

  it("loses a request that is cancelled, and a late answer changes nothing", () => {
    const { decisions, pending, pipeline, place } = queued();
    pending.cancel({ kind: "client-gone" });
    place.done(undefined);
    expect([decisions, place.cancelled, pipeline.pendingDecisions]).toEqual([[], [{ kind: "client-gone" }], 0]);
  });
});

describe("any mix of slow producers, cancellations, deadlines and ends", () => {
  const events = fc.array(
    fc.record({
      at: fc.nat({ max: 5 }),
      what: fc.constantFrom("resolve", "reject", "cancel", "end", "advance", "join", "leave"),
    }),
    { maxLength: 30 },
  );

  it("decides each request at most once and leaves no timer, booking, decision or exchange", async () => {
    await fc.assert(
      fc.asyncProperty(events, async (sequence) => {
        const answers: ReturnType<typeof deferred>[] = [];
        const produce = () => {
          const answer = deferred();
          answers.push(answer);
          return answer.promise;
        };
        const load = { requests: 0 };
        const observer = {
          assigned: () => {
            load.requests += 1;
          },
          ended: () => {
            load.requests -= 1;
          },
        };
        const fake = world({
          plan: plan({ producers: [named("slow", { produce })], observers: [named("load", observer)] }),
        });
        const pool = fake.endpoints;
        const pipeline = createPipeline(fake.dependencies);
        const requests = Array.from({ length: 6 }, () => {
          const decisions: Decision[] = [];
          const pending = pipeline.decide(request(), undefined, (decision) => decisions.push(decision));
          return { decisions, pending };
        });
        const end = (decisions: readonly Decision[], cause: EndCause): void => {
          for (const decision of decisions) if (decision.kind === "routed") decision.exchange.end(cause);
        };
        for (const { at, what } of sequence) {
          if (what === "resolve") answers[at]?.resolve();
          if (what === "reject") answers[at]?.reject(new Error("no answer"));
          if (what === "cancel") requests[at]?.pending.cancel({ kind: "client-gone" });
          if (what === "end") end(requests[at]?.decisions ?? [], { kind: "completed", status: 200 });
          if (what === "advance") fake.clock.advance(100);
          if (what === "join") fake.endpoints = pool;
          if (what === "leave") fake.endpoints = [];
          await Promise.resolve();
        }
        fake.clock.advance(400);
        for (const { decisions } of requests) end(decisions, { kind: "client-gone" });
        expect(requests.filter(({ decisions }) => decisions.length > 1)).toEqual([]);
        expect([load.requests, fake.clock.waiting, pipeline.pendingDecisions, pipeline.openExchanges]).toEqual([
          0, 0, 0, 0,
        ]);
        expect(pipeline.reapedExchanges).toBe(0);
      }),
      { numRuns: 150 },
    );
  });
});

describe("a plan that is replaced under load", () => {
  it("serves the requests that began with it to their end, and is drained after the last", async () => {
    const ended: string[] = [];
    const planNamed = (name: string, answer?: Promise<void>) =>
      plan({
        producers: [named("producer", { produce: () => answer })],
        observers: [named(name, { ended: () => void ended.push(name) })],
      });
    const answer = deferred();
    const old = planNamed("old", answer.promise);
    const fake = world({ plan: old });
    const pipeline = createPipeline(fake.dependencies);
    const decisions: Decision[] = [];
    pipeline.decide(request(), undefined, (decision) => decisions.push(decision));

    fake.plan = planNamed("new");
    pipeline.decide(request(), undefined, (decision) => decisions.push(decision));
    let isDrained = false;
    const drained = pipeline.drained(old).then(() => {
      isDrained = true;
    });
    answer.resolve();
    await settle();
    expect([decisions.length, isDrained]).toEqual([2, false]);

    for (const decision of decisions) {
      if (decision.kind === "routed") decision.exchange.end({ kind: "completed", status: 200 });
    }
    await drained;
    expect(ended.toSorted()).toEqual(["new", "old"]);
    await pipeline.drained(plan());
  });
});
