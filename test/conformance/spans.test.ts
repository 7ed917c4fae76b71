/** The spans of a routed request, received by an OTLP collector, joined to the client's trace and passed on to the engine. */
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { eventually } from "../stack.ts";
import { type Collector, startCollector } from "../unit/telemetry/collector.ts";
import { requestBody, requestHeaders } from "./ext-proc-client.ts";
import { type Picker, startPicker } from "./picker.ts";

const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
const parentSpan = "00f067aa0ba902b7";

let collector: Collector;
let picker: Picker;

beforeAll(async () => {
  collector = await startCollector();
  const environment = {
    OTEL_TRACES_EXPORTER: "otlp",
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${collector.port}`,
    OTEL_TRACES_SAMPLER_ARG: "1",
    OTEL_BSP_SCHEDULE_DELAY: "50",
  };
  picker = await startPicker({ transport: "http2", tls: false, engines: 2, environment });
}, 30_000);
afterAll(async () => {
  await picker.close();
  collector.close();
});

it("select lower queue and kv cache: spans of the request and of each step of its decision", async () => {
  await picker.observe([
    { queue: 3, kv: 0.2, adapters: [] },
    { queue: 0, kv: 0.1, adapters: [] },
  ]);
  const headers = {
    "x-llm-d-inference-objective": "my-model",
    traceparent: `00-${traceId}-${parentSpan}-01`,
  };
  const [reply] = await picker.extProc.exchange(
    [requestHeaders(headers), requestBody('{"model":"my-model","prompt":"spans"}', { endOfStream: true })],
    2,
  );
  const set = (reply as { set: Readonly<Record<string, string>> }).set;
  const passedOn = /^00-([0-9a-f]{32})-([0-9a-f]{16})-01$/.exec(set["traceparent"] ?? "");
  expect(passedOn?.[1]).toBe(traceId);
  expect(passedOn?.[2]).not.toBe(parentSpan);
  const wanted = [
    "gateway.request",
    "gateway.request_orchestration",
    "run_scheduler_profile",
    "llm_d.epp.scoring",
    "llm_d.epp.scorer.queue-scorer",
  ];
  const exported = await eventually("all spans", async () => {
    const bytes = Buffer.concat(collector.received);
    // The request's own span comes last, when its stream has ended.
    return wanted.every((name) => bytes.includes(name)) && bytes.includes(Buffer.from(parentSpan, "hex")) && bytes;
  });
  expect(exported.includes(Buffer.from(traceId, "hex"))).toBe(true);
  expect(exported.includes(Buffer.from(passedOn?.[2] ?? "", "hex"))).toBe(true);
  expect(exported.includes('spans"}')).toBe(false);
}, 20_000);
