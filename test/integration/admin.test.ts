/** What a running picker tells of itself: metrics, debug pages, logs and spans after traffic, and that none of them holds a prompt. */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import {
  connectExtProc,
  type ExtProc,
  type Reply,
  requestBody,
  requestHeaders,
  responseBody,
  responseHeaders,
} from "../conformance/ext-proc-client.ts";
import { type FakeEngines, startFakeEngines } from "../conformance/fake-engines.ts";
import { eventually } from "../stack.ts";
import { type Collector, startCollector } from "../unit/telemetry/collector.ts";
import { type PageFamily, parsePage } from "../unit/telemetry/exposition-page.ts";

const canary = "canary-prompt-4f1d";
const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
const untracedId = "00f92f3577b34da6a3ce929d0e0e4700";
const spanId = "00f067aa0ba902b7";

let engines: FakeEngines;
let collector: Collector;
let picker: Child<EppPorts>;
let extProc: ExtProc;
const lines: string[] = [];

const get = (path: string): Promise<Response> => fetch(`http://127.0.0.1:${picker.ready.metricsPort}${path}`);
const metrics = async (): Promise<ReadonlyMap<string, PageFamily>> => parsePage(await (await get("/metrics")).text());

async function sample(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number | undefined> {
  const families = await metrics();
  const family = families.get(name) ?? families.get(name.replace(/_(bucket|sum|count)$/, ""));
  return family?.samples.find(
    (one) => one.name === name && Object.entries(labels).every(([label, value]) => one.labels[label] === value),
  )?.value;
}

function asked(id: string, extra: Readonly<Record<string, string>> = {}) {
  return requestHeaders({
    ":method": "POST",
    ":path": `/v1/chat/completions?q=${canary}`,
    "x-request-id": id,
    "content-type": "application/json",
    authorization: `Bearer ${canary}`,
    ...extra,
  });
}

const prompt = (content: string): string =>
  JSON.stringify({ model: "llama", stream: true, messages: [{ role: "user", content }] });
const longPrompt = `${canary} `.repeat(200);

/** Headers and body in, their replies out; the stream stays open. */
async function ask(id: string, body: string, extra: Readonly<Record<string, string>> = {}) {
  const conversation = extProc.open();
  conversation.send(asked(id, extra), requestBody(body));
  const replies = await conversation.replied(1);
  return { conversation, first: replies[0] };
}

async function answered(
  id: string,
  body: string,
  extra: Readonly<Record<string, string>> = {},
): Promise<Reply | undefined> {
  const { conversation, first } = await ask(id, body, extra);
  const before = (await conversation.replied(2)).length;
  const usage = { prompt_tokens: 50, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 10 } };
  conversation.send(
    responseHeaders({ ":status": "200", "content-type": "text/event-stream" }),
    responseBody(`data: {"choices":[{"delta":{"content":"${canary}"}}]}\n\n`),
    responseBody(`data: {"choices":[],"usage":${JSON.stringify(usage)}}\n\ndata: [DONE]\n\n`, { endOfStream: true }),
  );
  await conversation.replied(before + 3);
  conversation.halfClose();
  await conversation.ended();
  return first;
}

beforeAll(async () => {
  engines = await startFakeEngines(2);
  collector = await startCollector();
  picker = await startEppChild(
    [
      `--endpoints=${engines.engines.map(({ address }) => address).join(",")}`,
      "--secure-serving=false",
      "--pool-name=pool",
      "--drain-timeout=0s",
      "--drain-grace=1s",
      "--enable-grpc-stream-metrics",
      "--refresh-metrics-interval=10ms",
      "-v=5",
    ],
    {
      environment: {
        OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${collector.port}`,
        OTEL_TRACES_SAMPLER_ARG: "0",
        OTEL_BSP_SCHEDULE_DELAY: "50",
      },
      onLine: (line) => lines.push(line),
    },
  );
  extProc = connectExtProc(picker.ready.grpcPort, false);
  await eventually("fresh engine metrics", async () => (await sample("llm_d_epp_ready_endpoints")) === 2);
}, 30_000);

afterAll(async () => {
  extProc.close();
  await picker.close();
  collector.close();
  await engines.close();
});

describe("a running picker", () => {
  it("counts a request's load while it runs, and nothing after its end", async () => {
    const labels = {
      producer_name: "inflight-load-producer",
      fairness_id: "default-flow",
      priority: "0",
      namespace: "default",
    };
    const { conversation } = await ask("in-flight", prompt(longPrompt));
    expect(await sample("llm_d_epp_inflight_requests", labels)).toBe(1);
    expect(await sample("llm_d_epp_inflight_tokens", labels)).toBeGreaterThan(100);
    expect(await sample("llm_d_epp_extproc_streams_inflight")).toBe(1);
    conversation.cancel();
    await eventually("no load", async () => (await sample("llm_d_epp_inflight_requests", labels)) === 0);
    expect(await sample("llm_d_epp_inflight_tokens", labels)).toBe(0);
    await eventually("no stream", async () => (await sample("llm_d_epp_extproc_streams_inflight")) === 0);
    const ended = (await metrics()).get("llm_d_epp_extproc_streams_total")?.samples ?? [];
    expect(ended.map(({ labels: { code }, value }) => [code === "OK" || code === "Canceled", value])).toEqual([
      [true, 1],
    ]);
  });

  it("counts what the prefix index found", async () => {
    await answered("prefix-1", prompt(longPrompt));
    const labels = { plugin_name: "approx-prefix-cache-producer", plugin_type: "approx-prefix-cache-producer" };
    const count = await sample("llm_d_epp_prefix_indexer_hit_ratio_count", labels);
    const hits = (await sample("llm_d_epp_prefix_indexer_hit_bytes_sum", labels)) ?? 0;
    await answered("prefix-2", prompt(longPrompt));
    expect(await sample("llm_d_epp_prefix_indexer_hit_ratio_count", labels)).toBe((count ?? 0) + 1);
    expect(await sample("llm_d_epp_prefix_indexer_hit_bytes_sum", labels)).toBeGreaterThan(hits);
    expect(await sample("llm_d_epp_prefix_indexer_size", labels)).toBeGreaterThan(0);
    expect(await sample("llm_d_epp_extproc_streams_total", { code: "OK" })).toBeGreaterThan(1);
  });

  it("counts an answer's usage once, and each plugin that ran", async () => {
    const before = (await sample("llm_d_epp_request_input_tokens_sum", { model_name: "llama" })) ?? 0;
    await answered("usage", prompt("hello"));
    expect(await sample("llm_d_epp_request_input_tokens_sum", { model_name: "llama" })).toBe(before + 50);
    const plugins = (await metrics()).get("llm_d_epp_plugin_duration_seconds")?.samples ?? [];
    const points = new Set(plugins.map(({ labels }) => labels["extension_point"]));
    expect([...points]).toEqual(
      expect.arrayContaining(["Scorer", "Picker", "ProfilePicker", "DataProducer", "PreRequest"]),
    );
  });

  it("carries a sampled trace on with its own span, and leaves one that is not sampled alone", async () => {
    const traced = await answered("traced", prompt(canary), {
      traceparent: `00-${traceId}-${spanId}-01`,
      tracestate: "vendor=1",
      baggage: "user=2",
    });
    const untraced = await answered("untraced", prompt(canary), { traceparent: `00-${untracedId}-${spanId}-00` });
    if (traced?.kind !== "requestHeaders" || untraced?.kind !== "requestHeaders") throw new Error("not routed");
    expect(traced.set["traceparent"]).toMatch(new RegExp(`^00-${traceId}-(?!${spanId})[0-9a-f]{16}-01$`));
    expect(Object.keys(traced.set)).not.toContain("tracestate");
    expect(traced.remove).not.toContain("tracestate");
    expect(Object.keys(untraced.set)).not.toContain("traceparent");
    const own = Buffer.from(traced.set["traceparent"]?.split("-")[2] ?? "", "hex");
    const names = [
      "gateway.request_orchestration",
      "run_scheduler_profile",
      "llm_d.epp.scoring",
      "llm_d.epp.scorer.queue-scorer",
    ];
    await eventually("every span at the collector", async () => {
      const all = Buffer.concat(collector.received);
      return [...names, own, "signalbox-epp"].every((part) => all.includes(part));
    });
    expect(Buffer.concat(collector.received).includes(Buffer.from(untracedId, "hex"))).toBe(false);
  });

  it("explains a decision by its request's id", async () => {
    await answered("explained", prompt("hello"));
    const shown = (await (await get("/debug/decisions/explained")).json()) as Record<string, unknown>[];
    expect(shown).toHaveLength(1);
    expect(shown[0]).toMatchObject({
      requestId: "explained",
      path: "/v1/chat/completions",
      model: "llama",
      outcome: { kind: "routed", profile: "default" },
      end: { kind: "completed", status: 200, usage: { promptTokens: 50, completionTokens: 2, cachedTokens: 10 } },
    });
    expect((await get("/debug/decisions/nobody")).status).toBe(404);
    for (const limit of ["0", "-1", "1001", "1.5", "x", ""]) {
      expect((await get(`/debug/decisions?limit=${limit}`)).status).toBe(400);
    }
    expect(await (await get("/debug/decisions?limit=1")).json()).toHaveLength(1);
  });

  it.each([
    "/debug/endpoints",
    "/debug/objects",
    "/debug/config",
    "/debug/plugins",
    "/debug/plugins/state",
    "/debug/decisions",
    "/debug/exchanges",
    "/debug/pprof/profile?seconds=0.05",
    "/debug/pprof/heap?seconds=0.05",
  ])("answers %s with JSON", async (path) => {
    const answer = await get(path);
    expect([answer.status, answer.headers.get("content-type")]).toEqual([200, "application/json"]);
    expect(typeof (await answer.json())).toBe("object");
  });

  it("lists its debug pages at /debug", async () => {
    const index = await (await get("/debug")).text();
    expect(index.split("\n")).toEqual(expect.arrayContaining(["/metrics", "/debug/config", "/debug/pprof/profile"]));
  });

  it("never shows prompts, answers, queries or credentials in logs, pages or spans, at the trace level", async () => {
    const refused = [
      `{"model":"llama","messages":[{"role":"user","content":"${canary}"`,
      `{"model":"llama","messages":[{"role":"user","content":"${canary}\\x"}]}`,
      `{"model":"llama","prompt":"${canary}"}`,
      `{"model":"llama","messages":"${canary}"}`,
      `{"model":["${canary}"],"messages":[]}`,
      canary,
      `"${canary}"`,
    ];
    for (const [n, body] of refused.entries()) {
      const { conversation } = await ask(`refused-${n}`, body, { traceparent: `00-${traceId}-${spanId}-01` });
      conversation.halfClose();
      await conversation.ended();
    }
    await answered("last", prompt(longPrompt), { traceparent: `00-${traceId}-${spanId}-01` });
    await eventually("a log line of the last request", async () => lines.some((line) => line.includes('"last"')));
    const texts: Record<string, string> = {
      log: lines.join("\n"),
      spans: Buffer.concat(collector.received).toString("latin1"),
    };
    const pages = [
      "/metrics",
      "/debug/decisions?limit=1000",
      "/debug/plugins/state",
      "/debug/endpoints",
      "/debug/exchanges",
    ];
    for (const path of [...pages, "/debug/pprof/heap?seconds=0.1", "/debug/pprof/profile?seconds=0.1"]) {
      texts[path] = await (await get(path)).text();
    }
    const holders = Object.entries(texts).filter(([, text]) => text.includes(canary));
    expect(holders.map(([where]) => where)).toEqual([]);
    expect(texts["log"]).toContain('"level":"debug"');
  });

  it("names the request on each line about one", () => {
    const parsed = lines
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const about = parsed.filter(
      ({ msg }) => /request|endpoint was|picked/.test(String(msg)) && !/serves/.test(String(msg)),
    );
    expect(about.length).toBeGreaterThan(5);
    expect(about.filter(({ requestId }) => typeof requestId !== "string")).toEqual([]);
  });
});
