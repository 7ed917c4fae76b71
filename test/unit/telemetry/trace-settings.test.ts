import { describe, expect, it } from "@jest/globals";
import { traceSettingsFrom } from "../../../src/telemetry/trace-settings.ts";

const named = { "service.name": "signalbox-epp" };
const defaults = {
  exporter: "otlp",
  endpoint: undefined,
  rootRatio: 0.1,
  followsParent: true,
  resource: named,
  warnings: [],
};

describe("OpenTelemetry's environment", () => {
  it.each([
    {},
    { OTEL_TRACES_EXPORTER: "none", OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4317" },
    { OTEL_TRACES_EXPORTER: "otlp", OTEL_SDK_DISABLED: "TRUE" },
    { OTEL_TRACES_EXPORTER: " " },
    { OTEL_SERVICE_NAME: "x", OTEL_TRACES_SAMPLER_ARG: "1" },
  ])("asks for no spans with %j", (environment) => {
    expect(traceSettingsFrom(environment)).toBeUndefined();
  });

  it.each([
    [{ OTEL_TRACES_EXPORTER: "otlp" }, {}],
    [{ OTEL_TRACES_EXPORTER: "console" }, { exporter: "console" }],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4317" }, { endpoint: "http://c:4317" }],
    [
      { OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4317", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "https://t:1" },
      { endpoint: "https://t:1" },
    ],
    [{ OTEL_TRACES_SAMPLER: "always_on" }, { rootRatio: 1, followsParent: false }],
    [{ OTEL_TRACES_SAMPLER: "always_off" }, { rootRatio: 0, followsParent: false }],
    [{ OTEL_TRACES_SAMPLER: "parentbased_always_on" }, { rootRatio: 1 }],
    [{ OTEL_TRACES_SAMPLER: "parentbased_always_off" }, { rootRatio: 0 }],
    [{ OTEL_TRACES_SAMPLER: "parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG: "0.5" }, { rootRatio: 0.5 }],
    [
      { OTEL_TRACES_SAMPLER: "traceidratio", OTEL_TRACES_SAMPLER_ARG: "1" },
      { rootRatio: 1, followsParent: false },
    ],
    [{ OTEL_TRACES_SAMPLER_ARG: "0" }, { rootRatio: 0 }],
    [{ OTEL_TRACES_SAMPLER_ARG: "1e-3" }, { rootRatio: 0.001 }],
    [{ OTEL_SERVICE_NAME: "epp" }, { resource: { "service.name": "epp" } }],
    [
      { OTEL_RESOURCE_ATTRIBUTES: "service.name=a,k8s.pod.name=p%2C1", OTEL_SERVICE_NAME: "b" },
      { resource: { "service.name": "b", "k8s.pod.name": "p,1" } },
    ],
  ])("%j means %j", (environment, expected) => {
    expect(traceSettingsFrom({ OTEL_TRACES_EXPORTER: "otlp", ...environment })).toEqual({ ...defaults, ...expected });
  });

  it.each([
    { OTEL_TRACES_EXPORTER: "zipkin" },
    { OTEL_TRACES_SAMPLER: "jaeger_remote" },
    { OTEL_TRACES_SAMPLER_ARG: "1.5" },
    { OTEL_TRACES_SAMPLER_ARG: "-1" },
    { OTEL_TRACES_SAMPLER_ARG: "half" },
    { OTEL_EXPORTER_OTLP_PROTOCOL: "http/protobuf" },
    { OTEL_RESOURCE_ATTRIBUTES: "novalue" },
    { OTEL_RESOURCE_ATTRIBUTES: "a=%zz" },
  ])("warns of %j and goes on with the default", (environment) => {
    const settings = traceSettingsFrom({ OTEL_TRACES_EXPORTER: "otlp", ...environment });
    expect(settings?.warnings).toHaveLength(1);
    expect({ ...settings, warnings: [] }).toEqual(defaults);
  });
});
