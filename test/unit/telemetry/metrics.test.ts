/** The page after ordinary traffic against the reference picker's own, family by family (test/fixtures/reference-metrics.json). */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "@jest/globals";
import { endpointName } from "../../../src/data/endpoint.ts";
import { createMetrics, type Metrics } from "../../../src/telemetry/metrics.ts";
import type { RequestLabels } from "../../../src/telemetry/request-metrics.ts";
import { type PageFamily, parsePage, type Sample } from "./exposition-page.ts";

interface ReferenceFamily {
  readonly name: string;
  readonly type: string;
  readonly labels: readonly string[];
  readonly buckets?: readonly number[];
}

const reference = JSON.parse(
  readFileSync(new URL("../../fixtures/reference-metrics.json", import.meta.url), "utf8"),
) as { readonly families: readonly ReferenceFamily[] };

const llama: RequestLabels = { model: "llama", targetModel: "llama-v2", fairnessId: "tenant", priority: 3 };
const picked = { name: endpointName("default", "pod-a-rank-0"), namespace: "default", port: 8000 };
const answer = {
  durationMs: 2_000,
  responseBytes: 500,
  firstByteMs: 400,
  promptTokens: 100,
  completionTokens: 21,
  cachedTokens: 64,
  streaming: true,
};

function start(streamMetrics = false): Metrics {
  return createMetrics({ streamMetrics, version: "1.2.3", commit: "abc" });
}

/** What the layers report of a request that goes well. */
function request(metrics: Metrics, labels = llama): void {
  const { requests } = metrics;
  requests.plugin("Scorer", "queue-scorer", "queue", 0.3);
  requests.scheduled(0.15, "success", labels.targetModel, picked);
  const record = requests.started(labels, 4_000);
  record.decided(1.5);
  record.firstByte(400, true);
  record.interTokenLatency(30);
  record.responseProcessed(0.2);
  record.ended(answer);
}

/** What the composition root writes into families itself. */
function surroundings({ families }: Metrics): void {
  for (const gauge of [
    families.averageKvCache,
    families.averageQueue,
    families.averageRunning,
    families.deviationKvCache,
    families.deviationQueue,
    families.deviationRunning,
    families.readyEndpoints,
  ]) {
    gauge.series("pool").set(1);
  }
  families.endpointQueue.series("pool", "pod-a").set(2);
  families.pollErrors.series("metrics-data-source").add(1);
  families.prefixSize.series("approx", "approx-prefix-cache-producer").set(7);
  families.prefixHitRatio.series("approx", "approx-prefix-cache-producer").observe(0.5);
  families.prefixHitBytes.series("approx", "approx-prefix-cache-producer").observe(512);
  families.inflightRequests.series("pod-a", "default", "inflight-load-producer", "tenant", "3").set(1);
  families.inflightTokens.series("pod-a", "default", "inflight-load-producer", "tenant", "3").set(100);
}

async function pageOf(metrics: Metrics): Promise<ReadonlyMap<string, PageFamily>> {
  return parsePage(await metrics.render());
}

function sampleValue(
  families: ReadonlyMap<string, PageFamily>,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const family = families.get(name) ?? families.get(name.replace(/_(bucket|sum|count)$/, ""));
  const matches = (sample: Sample): boolean =>
    sample.name === name && Object.entries(labels).every(([label, value]) => sample.labels[label] === value);
  const found = family?.samples.filter(matches) ?? [];
  if (found.length > 1) throw new Error(`${found.length} samples match ${name}`);
  return found[0]?.value;
}

/** Series of a histogram whose buckets fall, or do not end at their count. */
function torn(family: PageFamily): readonly string[] {
  const faults: string[] = [];
  let last = 0;
  for (const { name, labels, value } of family.samples) {
    const isCount = name.endsWith("_count");
    if (name.endsWith("_bucket") ? value < last : isCount && value !== last)
      faults.push(`${name} ${JSON.stringify(labels)}`);
    if (!name.endsWith("_sum")) last = isCount ? 0 : value;
  }
  return faults;
}

describe("the page after traffic", () => {
  const metrics = start();
  request(metrics);
  metrics.requests.refused("ServiceUnavailable", "llama", llama);
  surroundings(metrics);
  const page = pageOf(metrics);

  it.each(reference.families.map((family) => [family.name, family] as const))(
    "shows %s as the reference does",
    async (name, expected) => {
      const family = (await page).get(name);
      expect(family?.type).toBe(expected.type);
      const histogram = expected.type === "histogram";
      const samples = family?.samples ?? [];
      expect(samples.length).toBeGreaterThan(0);
      const labelled = histogram ? samples.filter((sample) => sample.name === `${name}_count`) : samples;
      for (const sample of labelled) expect(Object.keys(sample.labels).sort()).toEqual([...expected.labels].sort());
      if (!histogram) return;
      const buckets = samples.filter((sample) => sample.name === `${name}_bucket`);
      for (const { labels } of buckets) expect(Object.keys(labels).sort()).toEqual([...expected.labels, "le"].sort());
      expect(buckets.map(({ labels }) => Number(labels["le"]?.replace("+Inf", "Infinity")))).toEqual([
        ...(expected.buckets ?? []),
        Infinity,
      ]);
    },
  );

  it("holds no family of the old names that the reference does not have", async () => {
    const known = new Set(reference.families.map(({ name }) => name));
    const notYetSeen = /model_rewrite|extract_errors/;
    const old = [...(await page).keys()].filter((name) => /^inference_|^llm_d_inference/.test(name));
    expect(old.filter((name) => !known.has(name) && !notYetSeen.test(name))).toEqual([]);
  });

  it("gives both generations of a family the same values", async () => {
    const families = await page;
    for (const [canonical, legacy] of [
      ["llm_d_epp_request_total", "inference_objective_request_total"],
      ["llm_d_epp_request_error_total", "inference_objective_request_error_total"],
      ["llm_d_epp_request_duration_seconds_sum", "inference_objective_request_duration_seconds_sum"],
      ["llm_d_epp_ready_endpoints", "inference_pool_ready_pods"],
      ["llm_d_epp_prefix_indexer_size", "inference_extension_prefix_indexer_size"],
    ] as const) {
      expect([legacy, sampleValue(families, legacy)]).toEqual([legacy, sampleValue(families, canonical)]);
    }
  });
});

describe("what a request counts", () => {
  it("counts each part of a streaming answer once, in seconds", async () => {
    const metrics = start();
    request(metrics);
    const families = await pageOf(metrics);
    const labels = { model_name: "llama", target_model_name: "llama-v2", fairness_id: "tenant", priority: "3" };
    const m = (name: string, more: Readonly<Record<string, string>> = {}) =>
      sampleValue(families, `llm_d_epp_${name}`, { ...labels, ...more });
    expect({
      total: m("request_total"),
      running: m("request_running"),
      duration: m("request_duration_seconds_sum"),
      size: m("request_size_bytes_sum"),
      answered: m("response_size_bytes_sum"),
      input: m("request_input_tokens_sum"),
      cached: m("request_cached_tokens_sum"),
      output: m("request_output_tokens_sum"),
      first: m("request_ttft_seconds_sum", { streaming: "true" }),
      between: m("request_streaming_itl_seconds_sum"),
      perToken: m("request_ntpot_seconds_count"),
      streamed: m("request_streaming_tpot_seconds_sum"),
    }).toEqual({
      total: 1,
      running: 0,
      duration: 2,
      size: 4000,
      answered: 500,
      input: 100,
      cached: 64,
      output: 21,
      first: 0.4,
      between: 0.03,
      perToken: 1,
      streamed: 0.08,
    });
    expect(sampleValue(families, "llm_d_epp_request_processing_duration_seconds_sum")).toBe(0.0015);
    expect(sampleValue(families, "llm_d_epp_response_processing_duration_seconds_sum")).toBe(0.0002);
    expect(
      sampleValue(families, "llm_d_epp_scheduler_attempts_total", {
        status: "success",
        target_model_name: "llama-v2",
        endpoint_name: "pod-a-rank-0",
        namespace: "default",
        port: "8000",
      }),
    ).toBe(1);
  });

  it("says unary of the first byte of an answer that does not stream, and nothing of token times", async () => {
    const metrics = start();
    const record = metrics.requests.started(llama, 1);
    record.firstByte(100, false);
    record.ended({ ...answer, streaming: false });
    const families = await pageOf(metrics);
    expect(sampleValue(families, "llm_d_epp_request_ttft_seconds_sum", { streaming: "false" })).toBe(0.1);
    expect(families.get("llm_d_epp_request_streaming_tpot_seconds")?.samples).toEqual([]);
    expect(families.get("llm_d_epp_request_streaming_itl_seconds")?.samples).toEqual([]);
  });

  it("runs from its start to its one end", async () => {
    const metrics = start();
    const record = metrics.requests.started(llama, 1);
    expect(sampleValue(await pageOf(metrics), "inference_objective_running_requests", { model_name: "llama" })).toBe(1);
    record.ended(answer);
    record.ended(answer);
    const families = await pageOf(metrics);
    expect(sampleValue(families, "inference_objective_running_requests", { model_name: "llama" })).toBe(0);
    expect(sampleValue(families, "llm_d_epp_request_duration_seconds_count")).toBe(1);
  });

  it("leaves out tokens that the engine did not report", async () => {
    const metrics = start();
    const none = { promptTokens: undefined, completionTokens: undefined, cachedTokens: undefined };
    metrics.requests.started(llama, 1).ended({ ...answer, ...none });
    const families = await pageOf(metrics);
    for (const name of ["input", "output", "cached"]) {
      expect(families.get(`llm_d_epp_request_${name}_tokens`)?.samples).toEqual([]);
    }
  });

  it.each<[number, string]>([
    [16384, "16384"],
    [16385, "32778"],
    [32778, "32778"],
    [32779, "65536"],
    [65537, "+Inf"],
  ])("puts an answer of %i bytes into the bucket %s", async (responseBytes, bucket) => {
    const metrics = start();
    metrics.requests.started(llama, 1).ended({ ...answer, responseBytes });
    const samples = (await pageOf(metrics)).get("llm_d_epp_response_size_bytes")?.samples ?? [];
    const first = samples.find((sample) => sample.name.endsWith("_bucket") && sample.value === 1);
    expect(first?.labels["le"]).toBe(bucket);
  });
});

describe("errors", () => {
  it("are counted under the request's labels, the old name without priority and fairness id", async () => {
    const metrics = start();
    metrics.requests.refused("ResourceExhausted", "llama", llama);
    metrics.requests.refused("ResourceExhausted", "llama", { ...llama, priority: -1, fairnessId: "other-tenant" });
    metrics.requests.started(llama, 1).failed("ModelServerError");
    const families = await pageOf(metrics);
    const name = "llm_d_epp_request_error_total";
    expect(sampleValue(families, name, { error_code: "ResourceExhausted", priority: "3", fairness_id: "tenant" })).toBe(
      1,
    );
    expect(sampleValue(families, name, { error_code: "ResourceExhausted", priority: "-1" })).toBe(1);
    expect(sampleValue(families, name, { error_code: "ModelServerError" })).toBe(1);
    const old = families.get("inference_objective_request_error_total")?.samples ?? [];
    expect(old).toEqual([
      {
        name: "inference_objective_request_error_total",
        labels: { model_name: "llama", target_model_name: "llama-v2", error_code: "ResourceExhausted" },
        value: 2,
      },
      {
        name: "inference_objective_request_error_total",
        labels: { model_name: "llama", target_model_name: "llama-v2", error_code: "ModelServerError" },
        value: 1,
      },
    ]);
  });

  it("before parsing have empty model names", async () => {
    const metrics = start();
    metrics.requests.refused("BadRequest", "");
    const families = await pageOf(metrics);
    expect(sampleValue(families, "llm_d_epp_request_error_total", { model_name: "", target_model_name: "" })).toBe(1);
    expect(families.get("llm_d_epp_request_total")?.samples).toEqual([]);
  });
});

describe("label values of clients", () => {
  it("fold into other after 1,000 model names, shared by both model labels", () => {
    const { requests, families } = start();
    for (let n = 0; n < 600; n++) {
      requests.started({ ...llama, model: `model-${n}`, targetModel: `target-${n}` }, 1);
    }
    const models = new Set([...families.requestTotal.all()].flatMap(({ labelValues }) => labelValues.slice(0, 2)));
    expect(models.size).toBe(1001);
    expect(models.has("other")).toBe(true);
    expect(models.has("target-499")).toBe(true);
    expect(models.has("model-500")).toBe(false);
  });

  it("fold into other after 1,000 fairness ids", () => {
    const { requests, families } = start();
    for (let n = 0; n < 1_003; n++) requests.started({ ...llama, fairnessId: `tenant-${n}` }, 1);
    expect(families.requestTotal.size).toBe(1001);
    expect(families.requestTotal.series("llama", "llama-v2", "other", "3").value).toBe(3);
  });

  it("fold into other when they are longer than any name", async () => {
    const metrics = start();
    const long = "x".repeat(201);
    metrics.requests.started({ ...llama, model: long, targetModel: long.slice(1), fairnessId: long }, 1);
    const [sample] = (await pageOf(metrics)).get("llm_d_epp_request_total")?.samples ?? [];
    expect(sample?.labels).toMatchObject({
      model_name: "other",
      target_model_name: long.slice(1),
      fairness_id: "other",
    });
  });

  it.each(["a\u0000b", "\ud800", "a\udc00b"])(
    "fold into other when they cannot be told apart on the page (%j)",
    (model) => {
      const { requests, families } = start();
      requests.started({ ...llama, model, targetModel: model }, 1);
      expect([...families.requestTotal.all()].map(({ labelValues }) => labelValues)).toEqual([
        ["other", "other", "tenant", "3"],
      ]);
    },
  );

  it("cannot be combined without bound: beyond 2,000 label sets only what an operator named keeps its name", () => {
    const { requests, families } = start();
    requests.models.pin(["ours"]);
    const labels = (n: number): RequestLabels => {
      const model = `model-${n % 70}`;
      return { model, targetModel: model, fairnessId: `tenant-${Math.floor(n / 70)}`, priority: 0 };
    };
    for (let n = 0; n < 2_500; n++) {
      requests.started(labels(n), 1);
      requests.refused("BadRequest", "", labels(n));
    }
    requests.started({ ...labels(0), model: "ours", targetModel: "ours" }, 1);
    requests.started(labels(0), 1);
    const counts = new Map(
      [...families.requestTotal.all()].map(({ labelValues, value }) => [labelValues.join(" "), value]),
    );
    expect(counts.size).toBe(2_002);
    expect(counts.get("other other other 0")).toBe(500);
    expect(counts.get("ours ours other 0")).toBe(1);
    expect(counts.get("model-0 model-0 tenant-0 0")).toBe(2);
    expect(families.requestErrors.series("other", "other", "other", "0", "BadRequest").value).toBe(500);
  });

  it("never fold when an operator wrote them into a rewrite rule, however late they come", async () => {
    const metrics = start();
    metrics.requests.models.pin(["rewritten", "target"]);
    for (let n = 0; n < 1_000; n++) metrics.requests.refused("BadRequest", `model-${n}`);
    metrics.requests.modelRewritten("rule", "rewritten", "target");
    metrics.requests.started({ ...llama, model: "rewritten", targetModel: "target" }, 1);
    metrics.requests.started({ ...llama, model: "unknown", targetModel: "unknown" }, 1);
    const families = await pageOf(metrics);
    for (const name of [
      "llm_d_epp_model_rewrite_decisions_total",
      "inference_extension_model_rewrite_decisions_total",
    ]) {
      const labels = { model_rewrite_name: "rule", model_name: "rewritten", target_model: "target" };
      expect(sampleValue(families, name, labels)).toBe(1);
    }
    expect(
      sampleValue(families, "llm_d_epp_request_total", { model_name: "rewritten", target_model_name: "target" }),
    ).toBe(1);
    expect(sampleValue(families, "llm_d_epp_request_total", { model_name: "other", target_model_name: "other" })).toBe(
      1,
    );
  });

  it.each(['a"b', "a\\b", "a\nb", 'a"} 1\nevil{x="', "日本", "\\n"])("are escaped (%j)", async (model) => {
    const metrics = start();
    metrics.requests.started({ ...llama, model, targetModel: model }, 1);
    const samples = (await pageOf(metrics)).get("llm_d_epp_request_total")?.samples;
    expect(samples?.map(({ labels }) => labels["model_name"])).toEqual([model]);
  });
});

describe("the page", () => {
  it("names the build", async () => {
    const families = await pageOf(start());
    for (const name of ["llm_d_epp_info", "inference_extension_info"]) {
      expect(families.get(name)?.samples).toEqual([{ name, labels: { commit: "abc", build_ref: "1.2.3" }, value: 1 }]);
    }
  });

  it("shows extproc_streams_* only when asked to", async () => {
    const names = (families: ReadonlyMap<string, PageFamily>) =>
      [...families.keys()].filter((name) => /extproc/.test(name));
    expect(names(await pageOf(start()))).toEqual([]);
    expect(names(await pageOf(start(true)))).toEqual([
      "llm_d_epp_extproc_streams_inflight",
      "llm_d_epp_extproc_stream_duration_seconds",
      "llm_d_epp_extproc_streams_total",
    ]);
  });

  it("has Node's own metrics too", async () => {
    const families = await pageOf(start());
    expect(families.get("process_cpu_seconds_total")?.type).toBe("counter");
    expect(families.has("nodejs_eventloop_lag_seconds")).toBe(true);
  });

  it("is the same for scrapes that come together, and refreshes its gauges for each that comes later", async () => {
    const metrics = start();
    let refreshed = 0;
    metrics.onCollect(() => {
      refreshed++;
    });
    const [a, b] = await Promise.all([metrics.render(), metrics.render()]);
    expect(a).toBe(b);
    expect(refreshed).toBe(1);
    await metrics.render();
    expect(refreshed).toBe(2);
  });

  it("stays whole while traffic goes on", async () => {
    const metrics = start();
    for (let n = 0; n < 60; n++) request(metrics, { ...llama, model: `model-${n}` });
    let turns = 0;
    let done = false;
    const turn = (): void => {
      // Traffic goes on meanwhile.
      request(metrics, { ...llama, model: `model-${turns % 60}` });
      turns++;
      if (!done) setImmediate(turn);
    };
    setImmediate(turn);
    const families = await pageOf(metrics);
    done = true;
    expect([...families.values()].filter(({ type }) => type === "histogram").flatMap(torn)).toEqual([]);
  });

  it("forgets attempts on endpoints that have left once there are many", async () => {
    const metrics = start();
    const attempt = (n: number) =>
      metrics.requests.scheduled(0.1, "success", "m", { name: `default/pod-${n}`, namespace: "default", port: 1 });
    for (let n = 0; n < 2_000; n++) attempt(n);
    metrics.requests.pruneAttempts(() => false);
    expect(metrics.families.schedulerAttempts.size).toBe(2_000);
    attempt(2_000);
    metrics.requests.scheduled(0.1, "failure", "m", undefined);
    metrics.requests.pruneAttempts((namespace, name) => namespace === "default" && name === "pod-7");
    expect(metrics.families.schedulerAttempts.size).toBe(2);
    attempt(7);
    const families = await pageOf(metrics);
    expect(sampleValue(families, "llm_d_epp_scheduler_attempts_total", { endpoint_name: "pod-7" })).toBe(2);
    expect(sampleValue(families, "llm_d_epp_scheduler_attempts_total", { status: "failure" })).toBe(1);
  });

  it("counts a plugin under its new type after a reload gave its name to another", async () => {
    const metrics = start();
    metrics.requests.plugin("Scorer", "queue-scorer", "mine", 1);
    metrics.requests.plugin("Scorer", "random-scorer", "mine", 1);
    const families = await pageOf(metrics);
    const counts = families
      .get("llm_d_epp_plugin_duration_seconds")
      ?.samples.filter(({ name }) => name.endsWith("_count"));
    expect(counts?.map(({ labels, value }) => [labels["plugin_type"], value])).toEqual([
      ["queue-scorer", 1],
      ["random-scorer", 1],
    ]);
  });
});

describe("the metrics of several pools", () => {
  it("are one family of a name, told apart by the pool, with those of the process beside them", async () => {
    const metrics = start();
    const [a, b] = [metrics.ofPool("a"), metrics.ofPool("b")];
    request(a);
    request(b);
    request(b);
    metrics.families.configReloads.series("applied").add(1);
    const page = await metrics.render();
    expect(page.match(/^# TYPE llm_d_epp_request_total /gm)).toHaveLength(1);
    const totals = parsePage(page).get("llm_d_epp_request_total");
    expect(totals?.samples.map(({ labels, value }) => [labels["pool"], value])).toEqual([
      ["a", 1],
      ["b", 2],
    ]);
    expect(page).toContain('llm_d_epp_config_reloads_total{outcome="applied"} 1');
    // Of the older generation, which hides labels and adds up what then is the same.
    expect(page).toMatch(/^inference_objective_running_requests\{pool="b",model_name="llama"\} /m);
  });

  it("of a family without labels have the pool as their only one", async () => {
    const metrics = start();
    request(metrics.ofPool("a"));
    expect(await metrics.render()).toMatch(/^llm_d_epp_scheduler_e2e_duration_seconds_count\{pool="a"\} 1$/m);
  });
});
