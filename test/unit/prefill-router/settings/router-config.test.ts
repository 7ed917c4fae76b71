import { describe, expect, it } from "@jest/globals";
import { Ajv } from "ajv";
import {
  applyOverride,
  busyThresholdsOf,
  createSettingsOf,
  defaultRouterConfig,
  parseOverride,
  routerConfigFromEnvironment,
  stageSettings,
  withSettings,
} from "../../../../src/prefill-router/config.ts";
import {
  readFleetSettings,
  readSettingsWithoutDiscovery,
} from "../../../../src/prefill-router/fleet/fleet-settings.ts";
import { routerSettingsFromPolicy, settingSchemas } from "../../../../src/prefill-router/settings/parameters.ts";
import { settings } from "../../../../src/prefill-router/settings/setting-table.ts";

describe("the router's configuration", () => {
  it("has Dynamo's defaults", () => {
    const { config, warnings, faults } = routerConfigFromEnvironment({});
    expect({ warnings, faults }).toEqual({ warnings: [], faults: [] });
    expect(config).toEqual(defaultRouterConfig);
    expect(config).toMatchObject({
      overlapScoreCredit: 1,
      hostCacheHitWeight: 0.75,
      diskCacheHitWeight: 0.25,
      routerTtlSecs: 120,
      routerQueueThreshold: undefined,
      conditionalDisaggEffIslThreshold: 2048,
      conditionalDisaggEffIslRatioThreshold: 0.7,
      activeRequestExpirySecs: 300,
    });
    expect(stageSettings(config).sharedCacheMultiplier).toBe(0);
    expect(stageSettings({ ...config, sharedCacheType: "hicache" }).sharedCacheMultiplier).toBe(0.5);
  });

  it.each([
    [{ DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT: "1.5e0" }, { overlapScoreCredit: 1.5 }],
    [{ DYN_ROUTER_TEMPERATURE: ".5" }, { routerTemperature: 0.5 }],
    [{ DYN_USE_KV_EVENTS: "off" }, { useKvEvents: false }],
    [{ DYN_ROUTER_USE_KV_EVENTS: " YES ", DYN_USE_KV_EVENTS: "0" }, { useKvEvents: true }],
    [{ DYN_ROUTER_USE_KV_EVENTS: "maybe", DYN_USE_KV_EVENTS: "0" }, { useKvEvents: false }],
    [{ DYN_ROUTER_QUEUE_THRESHOLD: "0" }, { routerQueueThreshold: 0 }],
    [{ DYN_ROUTER_QUEUE_THRESHOLD: "inf" }, { routerQueueThreshold: Number.POSITIVE_INFINITY }],
    [{ DYN_ROUTER_QUEUE_POLICY: "wspt" }, { routerQueuePolicy: "wspt" }],
    [{ DYN_ROUTER_QUEUE_POLICY: "" }, { routerQueuePolicy: "fcfs" }],
    [{ DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT: "2" }, { prefillLoadScale: 2, overlapScoreCredit: 1 }],
    [{ DYN_OVERLAP_SCORE_WEIGHT: "0" }, { prefillLoadScale: 0, overlapScoreCredit: 0 }],
    [{ DYN_ROUTER_EVENT_THREADS: "+2" }, { routerEventThreads: 2 }],
    [{ DYN_ROUTER_EVENT_THREADS: "2.5" }, { routerEventThreads: 4 }],
    [
      { DYN_ROUTER_CONDITIONAL_DISAGG_CONFIG: '{"eff_isl_threshold": 5, "decode_busy_threshold": null}' },
      { conditionalDisaggEffIslThreshold: 5, conditionalDisaggDecodeBusyThreshold: undefined },
    ],
    [{ DYN_ROUTER_CONDITIONAL_DISAGG_POLICY: "wild" }, { conditionalDisaggPolicy: "isl_bounding" }],
    [{ DYN_ROUTER_LOAD_AWARE: "1" }, { overlapScoreCredit: 0, useKvEvents: false, routerAssumeKvReuse: false }],
    [
      { DYN_SHARED_CACHE_TYPE: "hicache", DYN_MOONCAKE_KV_EVENTS_ENDPOINT: "tcp://mooncake:5557" },
      { sharedCacheType: "hicache", mooncakeKvEventsEndpoint: "tcp://mooncake:5557", sharedCacheMultiplier: undefined },
    ],
    [{ DYN_MOONCAKE_KV_EVENTS_ENDPOINT: "" }, { mooncakeKvEventsEndpoint: undefined }],
    [{ DYN_ACTIVE_DECODE_BLOCKS_THRESHOLD: "0.9" }, { activeDecodeBlocksThreshold: 0.9 }],
  ])("reads %j", (environment, expected) => {
    const { config, faults } = routerConfigFromEnvironment(environment);
    expect(faults).toEqual([]);
    expect(config).toMatchObject(expected);
  });

  it.each([
    [{ DYN_ROUTER_TEMPERATURE: "hot" }, ["DYN_ROUTER_TEMPERATURE=hot: a number expected; ignored"]],
    [{ DYN_ROUTER_REPLICA_SYNC: "perhaps" }, ["DYN_ROUTER_REPLICA_SYNC=perhaps: true or false expected; ignored"]],
    [
      { DYN_OVERLAP_SCORE_WEIGHT: "1" },
      ["DYN_OVERLAP_SCORE_WEIGHT is deprecated; DYN_ROUTER_PREFILL_LOAD_SCALE is its successor"],
    ],
  ])("warns of %j", (environment, warnings) => {
    expect(routerConfigFromEnvironment(environment)).toMatchObject({ warnings, faults: [] });
  });

  it.each<[Readonly<Record<string, string>>, readonly string[]]>([
    [{ DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT: "-1" }, ["DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT must be at least 0, not -1"]],
    [{ DYN_ROUTER_TEMPERATURE: "nan" }, ["DYN_ROUTER_TEMPERATURE must be finite and at least 0, not NaN"]],
    [
      { DYN_ROUTER_HOST_CACHE_HIT_WEIGHT: "1.1" },
      ["DYN_ROUTER_HOST_CACHE_HIT_WEIGHT must be between 0 and 1, not 1.1"],
    ],
    [{ DYN_ROUTER_EVENT_THREADS: "0" }, ["DYN_ROUTER_EVENT_THREADS must be at least 1, not 0"]],
    [{ DYN_ROUTER_QUEUE_POLICY: "sjf" }, ["DYN_ROUTER_QUEUE_POLICY=sjf: fcfs, lcfs, wspt expected"]],
    [{ DYN_SHARED_CACHE_TYPE: "rdma" }, ["DYN_SHARED_CACHE_TYPE=rdma: none, hicache expected"]],
    [
      { DYN_ROUTER_PREFILL_LOAD_MODEL: "aic", DYN_ROUTER_TRACK_PREFILL_TOKENS: "0" },
      ["routerPrefillLoadModel ais requires routerTrackPrefillTokens"],
    ],
    [{ DYN_ROUTER_PREFILL_LOAD_MODEL: "aix" }, ["DYN_ROUTER_PREFILL_LOAD_MODEL=aix: none, ais expected"]],
    [
      { DYN_ROUTER_TRACKING_KEY_ID: "k" },
      ["routerTrackingKeyFile and routerTrackingKeyId require routerTrackingHash keyed-xxh3-v1"],
    ],
    [
      {
        DYN_ROUTER_TRACK_OUTPUT_BLOCKS: "1",
        DYN_ROUTER_TRACK_ACTIVE_BLOCKS: "0",
        DYN_ROUTER_PREFILL_LOAD_MODEL: "aic",
      },
      ["routerTrackOutputBlocks requires routerTrackActiveBlocks"],
    ],
    [{ DYN_USE_REMOTE_INDEXER: "1", DYN_SERVE_INDEXER: "1" }, ["useRemoteIndexer and serveIndexer exclude each other"]],
    [
      { DYN_SERVE_INDEXER: "1", DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT: "0" },
      ["serveIndexer requires overlapScoreCredit above 0: without it no index is kept"],
    ],
    [
      { DYN_USE_REMOTE_INDEXER: "1", DYN_ROUTER_USE_KV_EVENTS: "0", DYN_ROUTER_PREDICTED_TTL_SECS: "1" },
      ["routerPredictedTtlSecs requires useKvEvents"],
    ],
    [{ DYN_ROUTER_PREDICTED_TTL_SECS: "1", DYN_USE_KV_EVENTS: "no" }, ["routerPredictedTtlSecs requires useKvEvents"]],
    [
      { DYN_ENABLE_SESSION_PREFIX_INDEX: "1", DYN_USE_KV_EVENTS: "no" },
      ["enableSessionPrefixIndex requires useKvEvents"],
    ],
    [
      { DYN_ROUTER_CONDITIONAL_DISAGG: "1", DYN_ROUTER_CONDITIONAL_DISAGG_POLICY: "isl_or_load" },
      ["conditionalDisaggPolicy isl_or_load requires conditionalDisaggPrefillBusyThreshold or routerQueueThreshold"],
    ],
    [{ DYN_ROUTER_CONDITIONAL_DISAGG_CONFIG: "[]" }, ["DYN_ROUTER_CONDITIONAL_DISAGG_CONFIG must be a JSON object"]],
    [
      { DYN_ROUTER_CONDITIONAL_DISAGG_CONFIG: '{"eff_isl_ratio_threshold": 2}' },
      ["DYN_ROUTER_CONDITIONAL_DISAGG_CONFIG: eff_isl_ratio_threshold must be between 0 and 1, not 2"],
    ],
  ])("refuses %j", (environment, faults) => {
    expect(routerConfigFromEnvironment(environment).faults).toEqual(faults);
  });

  it("puts parameters before the environment and names every fault in them", () => {
    const environment = { DYN_ROUTER_TEMPERATURE: "1", DYN_ROUTER_TTL_SECS: "5" };
    expect(routerConfigFromEnvironment(environment, { routerTemperature: 0 }).config).toMatchObject({
      routerTemperature: 0,
      routerTtlSecs: 5,
    });
    const { faults } = routerConfigFromEnvironment({}, { routerTtlSecs: -1, useKvEvents: "yes", colour: 1 });
    expect(faults).toEqual([
      "routerTtlSecs must be at least 0, not -1",
      "useKvEvents must be true or false",
      "colour is unknown",
    ]);
    expect(routerConfigFromEnvironment({}, { overlapScoreWeight: 0 })).toMatchObject({
      config: { prefillLoadScale: 0, overlapScoreCredit: 0 },
      warnings: ["overlapScoreWeight is deprecated; prefillLoadScale is its successor"],
    });
  });

  it.each(["DYN_USE_REMOTE_INDEXER", "DYN_SERVE_INDEXER"])(
    "lets blocks expire by time with %s, and only where Dynamo tells of the workers",
    (variable) => {
      const lru = { DYN_ROUTER_USE_KV_EVENTS: "0", DYN_ROUTER_APPROXIMATE_CACHE_POLICY: "lru" };
      expect(readFleetSettings({ ...lru, [variable]: "1" }, {})).toMatchObject({
        warnings: ["routerApproximateCachePolicy lru is for an index of one router alone; ttl is used instead"],
        faults: [],
      });
      expect(readFleetSettings(lru, {}).warnings).toEqual([]);
      expect(readSettingsWithoutDiscovery({ [variable]: "1" }, {}).faults).toEqual([
        expect.stringContaining("is supported for workers that Dynamo registers only"),
      ]);
    },
  );

  it("lets the policy file say its part last", () => {
    const environment = { DYN_ROUTER_PREDICTED_TTL_SECS: "3", DYN_ROUTER_TRACK_PREFILL_TOKENS: "false" };
    const { config } = routerConfigFromEnvironment(environment);
    const router = routerSettingsFromPolicy("router", {
      router_predicted_ttl_secs: null,
      router_prefill_load_model: "aic",
    });
    expect(withSettings(config, router)).toMatchObject({
      config: { routerPredictedTtlSecs: undefined, routerPrefillLoadModel: "ais" },
      faults: ["routerPrefillLoadModel ais requires routerTrackPrefillTokens"],
    });
    const unknown = routerSettingsFromPolicy("router", {
      overlap_score_credit: 1,
      router_ttl_secs: null,
      host_cache_hit_weight: 2,
    });
    expect(unknown.faults).toEqual([
      "router.overlap_score_credit is unknown",
      "router.router_ttl_secs must be a number",
      "router.host_cache_hit_weight must be between 0 and 1, not 2",
    ]);
  });

  it("has a schema for each setting that takes its default and nothing out of range", () => {
    const schemas = settingSchemas();
    const ajv = new Ajv({ strict: true });
    ajv.addKeyword("x-plugin");
    for (const [name, setting] of settings) {
      const validate = ajv.compile(schemas[name] ?? false);
      if (setting.defaultValue !== undefined) expect(validate(setting.defaultValue)).toBe(true);
      expect(validate(setting.kind.kind === "number" || setting.kind.kind === "integer" ? -1 : 7)).toBe(false);
      expect(setting.description).toMatch(/\.$/);
    }
    expect(Object.keys(schemas)).toHaveLength(settings.length + 1);
  });

  it("names each variable and each field once", () => {
    const variables = settings.flatMap(([, setting]) => setting.environment);
    expect(new Set(variables).size).toBe(variables.length);
    expect(new Set(settings.map(([, setting]) => setting.field)).size).toBe(settings.length);
  });

  it("hands its busy thresholds on", () => {
    const { config } = routerConfigFromEnvironment(
      {},
      { activePrefillTokensThreshold: 5, activePrefillTokensThresholdFrac: 2 },
    );
    expect(busyThresholdsOf(config)).toEqual({
      activeDecodeBlocks: undefined,
      activePrefillTokens: 5,
      activePrefillTokensFraction: 2,
    });
  });
});

describe("a request's override", () => {
  it("changes what it names", () => {
    const base = stageSettings(defaultRouterConfig);
    const override = {
      overlapScoreCredit: 0.5,
      routerTemperature: 2,
      assumeKvReuse: false,
      trackPrefillTokens: undefined,
    };
    expect(applyOverride(base, override)).toEqual({
      ...base,
      overlapScoreCredit: 0.5,
      temperature: 2,
      assumeKvReuse: false,
    });
    expect(applyOverride(base, { prefillLoadScale: Number.NaN, sharedCacheMultiplier: 2 })).toEqual(base);
  });

  it.each([
    [{ overlap_score_credit: 2, unknown: 1 }, { overlapScoreCredit: 2 }],
    [
      { overlap_score_weight: 0, overlap_score_credit: 2 },
      { overlapScoreCredit: 0, prefillLoadScale: 0 },
    ],
    [{ overlap_score_weight: 3, prefill_load_scale: 1 }, { prefillLoadScale: 3 }],
    [{ assume_kv_reuse: false, track_prefill_tokens: null }, { assumeKvReuse: false }],
  ])("is read from %j", (value, override) => {
    expect(parseOverride(value)).toEqual({ kind: "override", override: expect.objectContaining(override) as unknown });
  });

  it.each([[[]], ["x"], [{ router_temperature: -1 }], [{ shared_cache_multiplier: 1.1 }], [{ assume_kv_reuse: 1 }]])(
    "is refused as %j",
    (value) => {
      expect(parseOverride(value)).toMatchObject({
        kind: "invalid",
        message: expect.stringContaining("router_config_override") as unknown,
      });
    },
  );
});

describe("the settings of a leg", () => {
  it("follow load alone after a remote prefill, whatever the request says", () => {
    const settingsOf = createSettingsOf(defaultRouterConfig);
    const follows = { overlapScoreCredit: 0, assumeKvReuse: false, trackPrefillTokens: false, trackActiveBlocks: true };
    expect(settingsOf("decode", undefined)).toMatchObject(follows);
    expect(
      settingsOf("decode", { overlapScoreCredit: 2, trackPrefillTokens: true, routerTemperature: 1 }),
    ).toMatchObject({
      ...follows,
      temperature: 1,
    });
    expect(settingsOf("decode", undefined)).toBe(settingsOf("decode", undefined));
  });

  it("keep the decode leg's credit where whole requests may go there", () => {
    const { config } = routerConfigFromEnvironment({ DYN_ROUTER_CONDITIONAL_DISAGG: "true" });
    expect(createSettingsOf(config)("decode", undefined)).toMatchObject({
      overlapScoreCredit: 1,
      assumeKvReuse: false,
    });
  });

  it("count no blocks on prefill workers", () => {
    const settingsOf = createSettingsOf(defaultRouterConfig);
    expect(settingsOf("prefill", undefined)).toMatchObject({ trackActiveBlocks: false, trackPrefillTokens: true });
    expect(settingsOf("aggregated", { trackPrefillTokens: false })).toMatchObject({
      trackActiveBlocks: true,
      trackPrefillTokens: false,
    });
  });
});
