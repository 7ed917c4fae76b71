/** Requests and tokens in flight as gauges, over the real producer and store. */
import { describe, expect, it } from "@jest/globals";
import { createPluginGauges } from "../../../src/app/plugin-gauges.ts";
import type { Instance } from "../../../src/config/instantiate.ts";
import type { Endpoint } from "../../../src/data/endpoint.ts";
import { InflightLoadProducer } from "../../../src/data/producers/inflight-load-producer.ts";
import { InferenceRequest } from "../../../src/request/inference-request.ts";
import { createMetrics } from "../../../src/telemetry/metrics.ts";
import { chat, endpoint } from "../pipeline/fakes.ts";

function start() {
  const present = new Map([endpoint("a"), endpoint("b"), endpoint("c")].map((one) => [one.name, one]));
  const [a, b, c] = [...present.values()] as [Endpoint, Endpoint, Endpoint];
  const nothing = { releaseTokens: () => {}, release: () => {} };
  const producer = new InflightLoadProducer(
    { addEstimatedOutputTokens: true, outputRatio: 0.5 },
    { book: () => nothing },
  );
  const open: InferenceRequest[] = [];
  const metrics = createMetrics({ streamMetrics: false, version: "1" });
  createPluginGauges({
    metrics,
    store: { get: (name) => present.get(name) },
    pipeline: { visitOpen: (visit) => open.forEach(visit) },
    instances: () => new Map([["load", { plugin: producer, entry: {} } as unknown as Instance]]),
  }).watchInstances();
  const ask = (bytes: number, destinations: readonly Endpoint[], init: { flow?: string; prefill?: Endpoint } = {}) => {
    const request = new InferenceRequest({
      id: "r",
      method: "POST",
      path: "/",
      headers: new Map(),
      body: Buffer.alloc(bytes),
      parsed: chat,
      receivedAtMs: 0,
    });
    request.fairnessId = init.flow ?? "flow";
    const byProfile = new Map(init.prefill === undefined ? [] : [["prefill", [init.prefill]]]);
    const assignment = { destinations, byProfile };
    producer.assigned(request, assignment);
    open.push(request);
    return { request, assignment };
  };
  const shown = async (): Promise<Readonly<Record<string, readonly [requests: number, tokens: number]>>> => {
    await metrics.render();
    const gauges: Record<string, [number, number]> = {};
    for (const { labelValues, value } of metrics.families.inflightRequests.all()) {
      gauges[labelValues.join(" ")] = [value, metrics.families.inflightTokens.series(...labelValues).value];
    }
    return gauges;
  };
  return { producer, present, a, b, c, ask, open, shown };
}

describe("the in-flight gauges", () => {
  it("add up the open requests of an endpoint, flow and priority", async () => {
    const { a, b, ask, shown } = start();
    ask(400, [a]);
    ask(400, [a]);
    ask(800, [a], { flow: "other-flow" });
    ask(400, [b]);
    expect(await shown()).toEqual({
      "a-8000 default load flow 0": [2, 300],
      "a-8000 default load other-flow 0": [1, 300],
      "b-8000 default load flow 0": [1, 150],
    });
  });

  it("fall with the first byte, move with a fallback, and stay at 0 after the end", async () => {
    const { producer, a, b, ask, open, shown } = start();
    const { request, assignment } = ask(400, [a, b]);
    producer.responseHeaders(request, assignment, { status: 200, served: b.hostPort });
    expect(await shown()).toEqual({ "b-8000 default load flow 0": [1, 150] });
    producer.firstByte(request);
    expect(await shown()).toEqual({ "b-8000 default load flow 0": [1, 50] });
    producer.ended(request);
    open.length = 0;
    expect(await shown()).toEqual({ "b-8000 default load flow 0": [0, 0] });
  });

  it("show a prefill endpoint until the first byte", async () => {
    const { producer, a, c, ask, shown } = start();
    const { request } = ask(400, [a], { prefill: c });
    expect(await shown()).toEqual({
      "a-8000 default load flow 0": [1, 50],
      "c-8000 default load flow 0": [1, 100],
    });
    producer.firstByte(request);
    expect(await shown()).toEqual({
      "a-8000 default load flow 0": [1, 50],
      "c-8000 default load flow 0": [0, 0],
    });
  });

  it("vanish with their endpoint", async () => {
    const { present, a, ask, open, shown } = start();
    ask(400, [a]);
    await shown();
    open.length = 0;
    present.delete(a.name);
    expect(await shown()).toEqual({});
  });
});
