/** Spans as an exporter receives them: in memory, and a real OTLP collector's side of the wire. */
import { describe, expect, it } from "@jest/globals";
import { InMemorySpanExporter, type ReadableSpan } from "@opentelemetry/sdk-trace-node";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { createTracing, type Tracing } from "../../../src/telemetry/tracing.ts";
import { startCollector } from "./collector.ts";

const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
const spanId = "00f067aa0ba902b7";
const sampled = `00-${traceId}-${spanId}-01`;
const unsampled = `00-${traceId}-${spanId}-00`;

/** Keeps the spans beyond shutdown, which the SDK's own forgets. */
class KeptSpans extends InMemorySpanExporter {
  kept: ReadableSpan[] = [];
  override async shutdown(): Promise<void> {
    this.kept = [...this.getFinishedSpans()];
    await super.shutdown();
  }
}

async function start(environment: Readonly<Record<string, string>> = {}, random = 0): Promise<[Tracing, KeptSpans]> {
  const exporter = new KeptSpans();
  const tracing = await createTracing({
    environment: { OTEL_TRACES_EXPORTER: "otlp", ...environment },
    version: "1",
    log: silentLogger,
    random: () => random,
    exporter,
  });
  if (tracing === undefined) throw new Error("no tracing");
  return [tracing, exporter];
}

const headers = (entries: Readonly<Record<string, string>> = {}): Map<string, string> =>
  new Map(Object.entries({ ":method": "POST", ":path": "/v1/chat/completions?key=secret", ...entries }));

describe("tracing", () => {
  it("is absent where the environment asks for no spans", async () => {
    expect(await createTracing({ environment: {}, version: "1", log: silentLogger, random: () => 0 })).toBeUndefined();
  });

  it("continues a sampled trace and carries its own span on, leaving tracestate and baggage as they are", async () => {
    const [tracing, exporter] = await start();
    const traced = tracing.start(headers({ traceparent: sampled, tracestate: "a=1", baggage: "b=2" }), 5);
    traced?.span.end(25);
    await tracing.close();
    const [span] = exporter.kept;
    expect(span?.name).toBe("gateway.request");
    expect(span?.kind).toBe(1);
    expect(span?.spanContext().traceId).toBe(traceId);
    expect(span?.parentSpanContext?.spanId).toBe(spanId);
    expect(span?.spanContext().traceState?.serialize()).toBe("a=1");
    expect(traced?.headers).toEqual([["traceparent", `00-${traceId}-${span?.spanContext().spanId}-01`]]);
    expect(span?.attributes).toEqual({ "http.request.method": "POST", "url.path": "/v1/chat/completions" });
  });

  it.each<[string, Record<string, string>, Record<string, string>, number, boolean]>([
    ["follows a parent that is not sampled", {}, { traceparent: unsampled }, 0, false],
    [
      "follows a sampled parent whatever the ratio",
      { OTEL_TRACES_SAMPLER_ARG: "0" },
      { traceparent: sampled },
      0.5,
      true,
    ],
    ["traces a root below the ratio", {}, {}, 0.0999, true],
    ["leaves a root at the ratio", {}, {}, 0.1, false],
    ["treats a malformed parent as none", {}, { traceparent: "00-junk" }, 0.0999, true],
    ["traces every root with always_on", { OTEL_TRACES_SAMPLER: "always_on" }, { traceparent: unsampled }, 0.999, true],
    ["traces nothing with always_off", { OTEL_TRACES_SAMPLER: "always_off" }, { traceparent: sampled }, 0, false],
  ])("%s", async (_name, environment, given, random, isTraced) => {
    const [tracing] = await start(environment, random);
    expect(tracing.start(headers(given), 0) !== undefined).toBe(isTraced);
    await tracing.close();
  });

  it("does not let a tracestate without its parent stand beside a new trace", async () => {
    const [tracing] = await start();
    const traced = tracing.start(headers({ traceparent: "junk", tracestate: "a=1" }), 0);
    expect(traced?.headers.map(([name, value]) => [name, name === "tracestate" ? value : value.length])).toEqual([
      ["traceparent", 55],
      ["tracestate", ""],
    ]);
    await tracing.close();
  });

  it("nests children exactly, and marks what failed", async () => {
    const [tracing, exporter] = await start();
    const traced = tracing.start(headers(), 10);
    const child = traced?.span.child("step", 12, { "step.size": 3 });
    child?.child("inner", 13).end(14);
    child?.end(20, "NoEndpoints");
    traced?.span.end(30);
    traced?.span.end(40, "twice");
    await tracing.close();
    const byName = new Map(exporter.kept.map((span) => [span.name, span]));
    const [outer, step, inner] = ["gateway.request", "step", "inner"].map((name) => byName.get(name));
    expect(exporter.kept).toHaveLength(3);
    expect(step?.parentSpanContext?.spanId).toBe(outer?.spanContext().spanId);
    expect(inner?.parentSpanContext?.spanId).toBe(step?.spanContext().spanId);
    expect(step?.attributes).toEqual({ "step.size": 3, "error.type": "NoEndpoints" });
    expect(step?.status.code).toBe(2);
    expect(outer?.status.code).toBe(0);
    const lengthMs = (span: ReadableSpan | undefined) =>
      Math.round((span?.duration[0] ?? 0) * 1e3 + (span?.duration[1] ?? 0) / 1e6);
    expect([lengthMs(outer), lengthMs(step), lengthMs(inner)]).toEqual([20, 8, 1]);
  });

  it("costs a request that is not traced next to nothing", async () => {
    const [tracing] = await start({}, 0.5);
    const given = headers({ traceparent: unsampled });
    const none = headers();
    const startedMs = performance.now();
    for (let n = 0; n < 100_000; n++) if (tracing.start(n % 2 === 0 ? given : none, 0) !== undefined) throw new Error();
    expect((performance.now() - startedMs) / 100_000).toBeLessThan(0.02);
    await tracing.close();
  });
});

describe("the OTLP exporter", () => {
  it("sends what is left to the collector when it is closed", async () => {
    const collector = await startCollector();
    const environment = {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${collector.port}`,
      OTEL_SERVICE_NAME: "epp-under-test",
      OTEL_TRACES_SAMPLER_ARG: "1",
    };
    const tracing = await createTracing({ environment, version: "1", log: silentLogger, random: () => 0 });
    const traced = tracing?.start(headers({ traceparent: sampled }), 0);
    traced?.span.child("gateway.request_orchestration", 1).end(2);
    traced?.span.end(3);
    await tracing?.close();
    collector.close();
    const all = Buffer.concat(collector.received);
    for (const text of ["epp-under-test", "gateway.request", "gateway.request_orchestration"]) {
      expect(all.includes(text)).toBe(true);
    }
    expect(all.includes(Buffer.from(traceId, "hex"))).toBe(true);
    expect(all.includes("key=secret")).toBe(false);
  });

  it("harms nobody when there is no collector", async () => {
    const warnings: string[] = [];
    const environment = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:1", OTEL_EXPORTER_OTLP_TIMEOUT: "200" };
    const log = { ...silentLogger, warn: (_fields: unknown, message: string) => warnings.push(message) };
    const tracing = await createTracing({ environment, version: "1", log, random: () => 0 });
    tracing?.start(headers(), 0)?.span.end(1);
    await tracing?.close();
    expect(warnings.length).toBeGreaterThan(0);
  }, 15_000);
});
