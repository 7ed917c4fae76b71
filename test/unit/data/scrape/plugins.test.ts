/** Parameters of the data sources, durations, metric specifications, model lists and freshness. */
import { describe, expect, it } from "@jest/globals";
import { noMetrics } from "../../../../src/data/endpoint.ts";
import { createEndpointStore } from "../../../../src/data/endpoint-store.ts";
import { freshness } from "../../../../src/data/freshness.ts";
import { parseMetricSpec } from "../../../../src/data/scrape/metric-spec.ts";
import {
  createHttpSource,
  type HttpSourceParameters,
  metricsDataSourcePlugin,
} from "../../../../src/data/scrape/metrics-source.ts";
import { createModelsExtractor, parseModels, servedModels } from "../../../../src/data/scrape/models-extractor.ts";

const parameters: HttpSourceParameters = {
  scheme: "http",
  path: "/metrics",
  insecureSkipVerify: true,
  caCertPath: "",
  clientCertPath: "",
  clientKeyPath: "",
  interval: "",
};

function oneEndpoint() {
  const store = createEndpointStore();
  store.upsert("t", { namespace: "default", name: "a", address: "fd00::1", port: 8000, labels: new Map() });
  const [endpoint] = store.snapshot();
  if (endpoint === undefined) throw new Error("no endpoint");
  return { store, endpoint };
}

describe("an HTTP data source", () => {
  it("asks the endpoint's port, or the one of its parameters", () => {
    const { endpoint } = oneEndpoint();
    const target = createHttpSource("metrics-data-source", "text/plain", parameters).target(endpoint);
    expect(target).toEqual({ address: "fd00::1", port: 8000, path: "/metrics", accept: "text/plain", tls: undefined });
    const other = createHttpSource("metrics-data-source", "text/plain", { ...parameters, port: 9400 });
    expect(other.target(endpoint).port).toBe(9400);
  });

  it("verifies certificates only with insecureSkipVerify false", () => {
    const { endpoint } = oneEndpoint();
    const tls = (insecureSkipVerify: boolean) =>
      createHttpSource("metrics-data-source", "text/plain", {
        ...parameters,
        scheme: "https",
        insecureSkipVerify,
      }).target(endpoint).tls;
    expect(tls(true)?.verifies).toBe(false);
    expect(tls(false)?.verifies).toBe(true);
  });

  it("cannot be made with a certificate file that is not there", () => {
    const https = { ...parameters, scheme: "https" as const, caCertPath: "/nonexistent/ca.pem" };
    expect(() => createHttpSource("metrics-data-source", "text/plain", https)).toThrow("ENOENT");
  });

  it("names the faults of its parameters", () => {
    expect(metricsDataSourcePlugin.validate?.({ ...parameters, interval: "soon", clientCertPath: "x" })).toEqual([
      expect.stringContaining("interval"),
      "clientCertPath and clientKeyPath belong together",
    ]);
    expect(metricsDataSourcePlugin.validate?.(parameters)).toEqual([]);
  });
});

describe("a metric specification", () => {
  it.each([
    ["vllm:num_requests_waiting", { name: "vllm:num_requests_waiting", labels: [] }],
    [" a { } ", { name: "a", labels: [] }],
    ["a{b=c}", { name: "a", labels: [["b", "c"]] }],
    [
      'a{b="c d", e=f}',
      {
        name: "a",
        labels: [
          ["b", "c d"],
          ["e", "f"],
        ],
      },
    ],
    ['a{b=""}', { name: "a", labels: [["b", ""]] }],
    ["", undefined],
    ["1a", undefined],
    ["a b", undefined],
    ["a{b}", undefined],
    ["a{b=}", undefined],
    ["a{b=c", undefined],
    ["a{b=c,}", undefined],
    ["a{1=c}", undefined],
  ])("%p is %p", (text, spec) => {
    expect(parseMetricSpec(text)).toEqual(spec);
  });
});

describe("a model list", () => {
  it.each(["", "[]", "{}", '{"data":{}}', "null", '{"data":[', "3"])("is not %p", (text) => {
    expect(parseModels(Buffer.from(text))).toBeUndefined();
  });

  it("passes over entries without an id", () => {
    expect(
      parseModels(Buffer.from('{"data":[{"id":"a","parent":null},{"id":5},null,{"id":"b","parent":"a"}]}')),
    ).toEqual([
      { id: "a", parent: undefined },
      { id: "b", parent: "a" },
    ]);
  });

  it("keeps the snapshot while the bytes stay the same, and the last list when a page is broken", () => {
    const { store, endpoint } = oneEndpoint();
    const reader = createModelsExtractor().open();
    const page = Buffer.from('{"data":[{"id":"a"}]}');
    reader.read(endpoint, page, 0, store);
    const before = store.snapshot();
    reader.read(endpoint, Buffer.from(page), 0, store);
    expect(reader.read(endpoint, Buffer.from("<html>"), 0, store).kind).toBe("failed");
    expect(store.snapshot()).toBe(before);
    expect(before[0] === undefined ? undefined : servedModels(before[0])).toEqual([{ id: "a", parent: undefined }]);
  });
});

describe("freshness", () => {
  const at = (updatedAtMs: number) => ({ ...noMetrics, updatedAtMs });

  it.each([
    ["never scraped", noMetrics, 0],
    ["just scraped", at(10_000), 1],
    ["scraped in what the clock calls the future", at(10_500), 1],
    ["at the threshold", at(9800), 1],
    ["at twice the threshold", at(9600), 0.5],
    ["at thrice the threshold", at(9400), 0.25],
  ])("of metrics %s", (_case, metrics, expected) => {
    expect(freshness(metrics, 10_000, 200)).toBeCloseTo(expected);
  });

  it("falls without a jump", () => {
    for (let age = 0; age < 2000; age++) {
      const step = freshness(at(0), age, 200) - freshness(at(0), age + 1, 200);
      expect(step).toBeGreaterThanOrEqual(0);
      expect(step).toBeLessThan(0.004);
    }
  });

  it("has nothing between fresh and unknown without a threshold", () => {
    expect([freshness(at(5), 5, 0), freshness(at(5), 6, 0)]).toEqual([1, 0]);
  });
});
