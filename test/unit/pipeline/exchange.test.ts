import { describe, expect, it } from "@jest/globals";
import type { EndCause, RequestObserver } from "../../../src/data/producer.ts";
import type { Exchange } from "../../../src/pipeline/contracts.ts";
import { createPipeline, type RunningPipeline } from "../../../src/pipeline/pipeline.ts";
import fc from "../../properties.ts";
import { type FakeWorld, named, plan, request, world } from "./fakes.ts";

function open(
  fake: FakeWorld,
  pipeline: RunningPipeline = createPipeline(fake.dependencies),
  stream = false,
): Exchange {
  let exchange: Exchange | undefined;
  pipeline.decide(request({ parsed: { stream } }), undefined, (decision) => {
    if (decision.kind === "routed") exchange = decision.exchange;
  });
  if (exchange === undefined) throw new Error("not routed");
  return exchange;
}

function recorder(steps: string[]): RequestObserver {
  return {
    assigned: (_r, { destinations }) => void steps.push(`assigned ${destinations[0]?.address}`),
    responseHeaders: (_r, _a, { status }) => void steps.push(`headers ${status}`),
    firstByte: (_r, _a, atMs, approximate) => void steps.push(`firstByte ${atMs} ${approximate}`),
    ended: (_r, _a, cause, usage, atMs) =>
      void steps.push(`ended ${JSON.stringify(cause)} ${usage?.completionTokens} ${atMs}`),
  };
}

const usage = { promptTokens: 9, completionTokens: 4, totalTokens: 13, cachedTokens: undefined };

describe("an exchange", () => {
  it("tells observers of each step and metrics of the whole", () => {
    const steps: string[] = [];
    const fake = world({ plan: plan({ observers: [named("observer", recorder(steps))] }) });
    const exchange = open(fake, undefined, true);
    fake.clock.advance(10);
    exchange.responseHeaders(200, undefined);
    exchange.firstByte(false);
    exchange.chunk(100);
    fake.clock.advance(7);
    exchange.chunk(50);
    exchange.usage(usage);
    exchange.end({ kind: "completed", status: 200 });
    expect(steps).toEqual([
      "assigned 10.0.0.1",
      "headers 200",
      "firstByte 10 false",
      'ended {"kind":"completed","status":200} 4 17',
    ]);
    expect(fake.lines.slice(2)).toEqual([
      "decided",
      "responseProcessed",
      "firstByte streaming=true",
      "itl 7",
      "ended 150 9/4",
    ]);
  });

  it("measures no latency between the pieces of an answer that is not a stream", () => {
    const fake = world({});
    const exchange = open(fake);
    exchange.chunk(1);
    exchange.chunk(1);
    expect(fake.lines.filter((line) => line.startsWith("itl"))).toEqual([]);
  });

  it.each<[string, number | undefined, EndCause, EndCause, string | undefined]>([
    ["200 is a success", 200, { kind: "completed", status: 200 }, { kind: "completed", status: 200 }, undefined],
    ["any 2xx is a success", 202, { kind: "completed", status: 202 }, { kind: "completed", status: 202 }, undefined],
    ["503 is a failure", 503, { kind: "completed", status: 503 }, { kind: "failed", status: 503 }, "ModelServerError"],
    ["404 is a failure", 404, { kind: "completed", status: 404 }, { kind: "failed", status: 404 }, "ModelServerError"],
    [
      "the headers' status is used when the end has none",
      500,
      { kind: "completed", status: 0 },
      { kind: "failed", status: 500 },
      "ModelServerError",
    ],
    [
      "an unknown status is no failure",
      undefined,
      { kind: "completed", status: 0 },
      { kind: "completed", status: 0 },
      undefined,
    ],
    [
      "a failure stays one",
      undefined,
      { kind: "failed", status: 0 },
      { kind: "failed", status: 0 },
      "ModelServerError",
    ],
    [
      "an error status is one though the client left",
      503,
      { kind: "client-gone" },
      { kind: "failed", status: 503 },
      "ModelServerError",
    ],
    ["a client that left is nobody's error", 200, { kind: "client-gone" }, { kind: "client-gone" }, undefined],
    ["a deadline is", 200, { kind: "timeout" }, { kind: "timeout" }, "GatewayTimeout"],
    ["an eviction is", undefined, { kind: "evicted" }, { kind: "evicted" }, "ResourceExhausted"],
    ["a shutdown is not", undefined, { kind: "shutdown" }, { kind: "shutdown" }, undefined],
    ["a fault of ours is", undefined, { kind: "error" }, { kind: "error" }, "Internal"],
  ])("%s", (_name, status, reported, told, errorCode) => {
    const causes: EndCause[] = [];
    const fake = world({
      plan: plan({ observers: [named("observer", { ended: (_r, _a, cause) => void causes.push(cause) })] }),
    });
    const exchange = open(fake);
    if (status !== undefined) exchange.responseHeaders(status, undefined);
    exchange.end(reported);
    expect(causes).toEqual([told]);
    const failures = fake.lines.filter((line) => line.startsWith("failed"));
    expect(failures).toEqual(errorCode === undefined ? [] : [`failed ${errorCode}`]);
  });

  it("goes on when an observer throws, and counts every throw but logs the plugin once", () => {
    const steps: string[] = [];
    const broken = () => {
      throw new Error("broken plugin");
    };
    const fake = world({
      plan: plan({
        observers: [
          named("broken", { assigned: broken, responseHeaders: broken, firstByte: broken, ended: broken }),
          named("sound", recorder(steps)),
        ],
      }),
    });
    const exchange = open(fake);
    exchange.responseHeaders(200, undefined);
    exchange.firstByte(true);
    exchange.end({ kind: "completed", status: 200 });
    expect(steps).toHaveLength(4);
    expect(fake.lines.filter((line) => line.startsWith("pluginFailed"))).toEqual([
      "pluginFailed PreRequest broken-type broken",
      "pluginFailed ResponseHeader broken-type broken",
      "pluginFailed ResponseBody broken-type broken",
      "pluginFailed ResponseBody broken-type broken",
    ]);
    expect(fake.errors).toEqual(["broken plugin"]);
  });

  it("is ended when the front door breaks while it takes the decision", () => {
    const steps: string[] = [];
    const fake = world({ plan: plan({ observers: [named("observer", recorder(steps))] }) });
    const pipeline = createPipeline(fake.dependencies);
    pipeline.decide(request(), undefined, () => {
      throw new Error("stream is gone");
    });
    expect(steps).toEqual(["assigned 10.0.0.1", 'ended {"kind":"error"} undefined 0']);
    expect(pipeline.openExchanges + pipeline.pendingDecisions).toBe(0);
    expect(fake.errors).toEqual(["stream is gone"]);
  });

  it("that nobody ended is reaped, counted, and then deaf", () => {
    const steps: string[] = [];
    const fake = world({ plan: plan({ observers: [named("observer", recorder(steps))] }) });
    const pipeline = createPipeline(fake.dependencies);
    const old = open(fake, pipeline);
    fake.clock.advance(60);
    open(fake, pipeline);
    expect(pipeline.reap(50)).toBe(1);
    expect([pipeline.reapedExchanges, pipeline.openExchanges]).toEqual([1, 1]);
    old.end({ kind: "completed", status: 200 });
    expect(steps.filter((step) => step.startsWith("ended"))).toEqual(['ended {"kind":"error"} undefined 60']);
  });

  it("ends with the pipeline", async () => {
    const steps: string[] = [];
    const fake = world({ plan: plan({ observers: [named("observer", recorder(steps))] }) });
    const pipeline = createPipeline(fake.dependencies);
    open(fake, pipeline);
    open(fake, pipeline);
    await pipeline.close();
    expect(steps.filter((step) => step.startsWith("ended"))).toEqual(
      Array(2).fill('ended {"kind":"shutdown"} undefined 0'),
    );
    expect(pipeline.openExchanges).toBe(0);
  });
});

type Call = (exchange: Exchange) => void;

const calls = fc.constantFrom<readonly [string, Call]>(
  ["headers", (exchange) => void exchange.responseHeaders(200, "10.0.0.1:8000")],
  ["failure", (exchange) => void exchange.responseHeaders(503, undefined)],
  ["firstByte", (exchange) => exchange.firstByte(false)],
  ["approximate", (exchange) => exchange.firstByte(true)],
  ["chunk", (exchange) => exchange.chunk(10)],
  ["usage", (exchange) => exchange.usage(usage)],
  ["end", (exchange) => exchange.end({ kind: "completed", status: 200 })],
  ["gone", (exchange) => exchange.end({ kind: "client-gone" })],
);

describe("any sequence of calls", () => {
  it("releases everything, calls each observer at most once a step and in order, and ends it exactly once", () => {
    fc.assert(
      fc.property(fc.array(calls, { maxLength: 12 }), fc.boolean(), (sequence, throwing) => {
        const load = { requests: 0 };
        const steps: string[] = [];
        const booking: RequestObserver = {
          ...recorder(steps),
          assigned: () => {
            load.requests += 1;
            steps.push("assigned");
            if (throwing) throw new Error("broken plugin");
          },
          ended: () => {
            load.requests -= 1;
            steps.push("ended");
            if (throwing) throw new Error("broken plugin");
          },
        };
        const fake = world({ plan: plan({ observers: [named("booking", booking)] }) });
        const pipeline = createPipeline(fake.dependencies);
        const exchange = open(fake, pipeline, true);
        for (const [, call] of sequence) call(exchange);
        exchange.end({ kind: "client-gone" });
        for (const [, call] of sequence) call(exchange);

        const order = steps.map((step) =>
          ["assigned", "headers", "firstByte", "ended"].indexOf(step.split(" ")[0] ?? ""),
        );
        expect(load.requests).toBe(0);
        expect(order).toEqual([...new Set(order)].sort((a, b) => a - b));
        expect([steps[0], steps.at(-1)]).toEqual(["assigned", "ended"]);
        expect(fake.lines.filter((line) => line.startsWith("ended"))).toHaveLength(1);
        expect(pipeline.openExchanges + pipeline.pendingDecisions).toBe(0);
      }),
      { numRuns: 300 },
    );
  });
});
