import { describe, expect, it } from "@jest/globals";
import { hasQueue, syntheticProfile } from "../../../../src/prefill-router/policy/policy-class.ts";
import { parsePolicyConfig, type RouterPolicyConfig } from "../../../../src/prefill-router/policy/policy-config.ts";
import { scoringOf } from "../../../../src/prefill-router/policy/worker-selection.ts";

const profile = `
default_policy_family: standard
uncached_isl_buckets:
  - { min_tokens: 0, bucket: short }
  - { min_tokens: 2048, bucket: long }
policy_classes:
  - { name: standard-short, policy_family: standard, cache_bucket: short, quantum: 4096, prefill_busy_threshold_frac: 1.5 }
  - name: standard-long
    policy_family: standard
    cache_bucket: long
    queue_policy: wspt
    quantum: 1024
    prefill_busy_threshold: 8000
    request_queue_limit_per_worker: 4
    raw_isl_token_queue_limit_per_worker: 100000
    cached_token_queue_limit_per_worker: 5000
  - { name: batch-short, policy_family: batch, cache_bucket: short, quantum: 10 }
  - { name: batch-long, policy_family: batch, cache_bucket: long, quantum: 10, prefill_busy_threshold: null }
  - { name: urgent, quantum: 9000 }
`;

function parsed(text: string): RouterPolicyConfig {
  const outcome = parsePolicyConfig(text);
  if (outcome.kind === "faults") throw new Error(outcome.faults.join("\n"));
  return outcome.config;
}

function faultsOf(text: string): readonly string[] {
  const outcome = parsePolicyConfig(text);
  return outcome.kind === "faults" ? outcome.faults : [];
}

describe("a router policy file", () => {
  it.each<[string | undefined, number, string]>([
    [undefined, 0, "standard-short"],
    [undefined, 2047, "standard-short"],
    [undefined, 2048, "standard-long"],
    ["batch", 10, "batch-short"],
    ["batch", 9999, "batch-long"],
    ["urgent", 9999, "urgent"],
    ["no-such-family", 9999, "standard-long"],
    // A class of a family is not to be had by its own name.
    ["batch-long", 5, "standard-short"],
  ])("puts policy class %s with %i uncached tokens into %s", (requested, tokens, expected) => {
    const root = parsed(profile).profileOf("any");
    expect(root?.classes[root.classIndex(requested, tokens)]?.name).toBe(expected);
  });

  it("reads every field of a class", () => {
    const classes = parsed(profile).profileOf(undefined)?.classes ?? [];
    expect(classes[1]).toEqual({
      name: "standard-long",
      queuePolicy: "wspt",
      quantum: 1024,
      busyTokens: 8000,
      busyFraction: undefined,
      requestLimit: 4,
      rawTokenLimit: 100000,
      cachedTokenLimit: 5000,
    });
    expect(classes.map(hasQueue)).toEqual([true, true, false, false, false]);
    expect(classes[0]?.queuePolicy).toBe("fcfs");
  });

  it("gives a model its own profile, and others the root's", () => {
    const config = parsed(`${profile}
models:
  special:
    default_policy_family: f
    uncached_isl_buckets: [{ min_tokens: 0, bucket: all }]
    policy_classes: [{ name: one, policy_family: f, cache_bucket: all, quantum: 1 }]
`);
    expect(config.profileOf("special")?.classes.map((each) => each.name)).toEqual(["one"]);
    expect(config.profileOf("other")?.classes).toHaveLength(5);
    expect(config.hasProfiles).toBe(true);
  });

  it("reads router settings by Dynamo's names, null included", () => {
    const config = parsed(
      `router: { router_ttl_secs: 30, use_kv_events: false, router_predicted_ttl_secs: null, shared_cache_type: hicache }`,
    );
    expect(Object.fromEntries(config.router)).toEqual({
      router_ttl_secs: 30,
      use_kv_events: false,
      router_predicted_ttl_secs: null,
      shared_cache_type: "hicache",
    });
    expect(config.hasProfiles).toBe(false);
    expect(config.profileOf("m")).toBeUndefined();
  });

  const selection = `
worker_selection:
  aggregated: tuned
  decode: default
  instances:
    - { name: tuned, type: dynamo-default-cost-fn, parameters: { overlap_score_credit: 0.5, router_temperature: 0.1 } }
    - { name: plain, type: dynamo-default-cost-fn }
    - { name: foreign, type: dynamo-two-tier-cost-fn, parameters: { cache_affinity_threshold: 0.5 } }
`;

  it.each<["aggregated" | "prefill" | "decode", (string | undefined)[], object]>([
    ["aggregated", [], { kind: "instance", parameters: { overlapScoreCredit: 0.5, temperature: 0.1 } }],
    ["prefill", [], { kind: "own" }],
    ["decode", [], { kind: "own" }],
    ["decode", [undefined, " tuned "], { kind: "instance", parameters: { overlapScoreCredit: 0.5 } }],
    ["aggregated", ["default", "tuned"], { kind: "own" }],
    ["aggregated", ["", "plain"], { kind: "instance", parameters: { overlapScoreCredit: undefined } }],
    ["prefill", ["foreign"], { kind: "unknown", message: expect.stringContaining("compiled into Dynamo") }],
    ["prefill", ["nobody"], { kind: "unknown", message: expect.stringContaining("default, tuned, plain, foreign") }],
  ])("scores the %s role with overrides %j as configured", (role, overrides, expected) => {
    expect(scoringOf(parsed(selection).workerSelection, role, ...overrides)).toMatchObject(expected);
  });

  it.each<[string, string, string]>([
    ["", "the document", "expected a mapping"],
    ["[1]", "the document", "expected a mapping"],
    ["a: [", "the document", ""],
    ["a: 1\na: 2", "the document", "unique"],
    ["{}", "the document", "expected router settings"],
    ["nonsense: 1", "nonsense", "unknown key; expected one of router"],
    ["request_classifier: { type: thunderagent }", "request_classifier", "compiled into Dynamo"],
    ["router: 5", "router", "expected a mapping"],
    ["router: { router_queue_threshold: 1 }", "router.router_queue_threshold", "unknown key"],
    ["router: { router_ttl_secs: -1 }", "router.router_ttl_secs", "at least 0"],
    ["router: { use_kv_events: 'yes' }", "router.use_kv_events", "true or false"],
    ["router: { router_event_threads: 0 }", "router.router_event_threads", "at least 1"],
    ["router: { router_ttl_secs: null }", "router.router_ttl_secs", "finite number"],
    ["default_policy_family: x", "policy_classes", "at least one class"],
    ["models: { m: { default_policy_family: f } }", 'models["m"].uncached_isl_buckets', "at least one bucket"],
    ["models: { m: 3 }", 'models["m"]', "expected a mapping"],
    ["worker_selection: {}", "worker_selection", "expected instances"],
    ["worker_selection: { prefill: p }", "worker_selection.prefill", "name of an instance"],
    [
      "worker_selection: { instances: [{ name: default, type: dynamo-default-cost-fn }] }",
      "worker_selection.instances[0].name",
      "built-in",
    ],
    [
      "worker_selection: { decode: a, instances: [{ name: a, type: dynamo-two-tier-cost-fn }] }",
      "worker_selection.decode",
      "not of type dynamo-default-cost-fn",
    ],
    ["worker_selection: { instances: [] }", "worker_selection", "expected instances"],
    ["models: {}", "the document", "expected router settings"],
    ["router: { host_cache_hit_weight: 2 }", "router.host_cache_hit_weight", "from 0 to 1"],
    [
      "worker_selection: { instances: [{ name: a, type: dynamo-default-cost-fn, parameters: { overlap_score_credit: -1 } }] }",
      "worker_selection.instances[0].parameters.overlap_score_credit",
      "at least 0",
    ],
  ])("refuses %j and says where and what was expected", (text, path, message) => {
    const fault = faultsOf(text).find((each) => each.startsWith(`${path}: `) && each.includes(message));
    expect(fault ?? faultsOf(text)).toEqual(expect.any(String));
  });

  it.each<[string, string, string]>([
    ["quantum: 4096", "quantum: 0", "policy_classes[0].quantum: expected an integer of at least 1, got 0"],
    ["quantum: 4096, ", "", "policy_classes[0].quantum: missing; expected an integer of at least 1"],
    [
      "queue_policy: wspt",
      "queue_policy: lcfs",
      'policy_classes[1].queue_policy: expected one of fcfs, wspt, got "lcfs"',
    ],
    [
      "prefill_busy_threshold_frac: 1.5",
      "prefill_busy_threshold_frac: .inf",
      "policy_classes[0].prefill_busy_threshold_frac: expected a finite number of at least 0, got Infinity",
    ],
    [
      "prefill_busy_threshold: 8000",
      "prefill_busy_threshold: 1.5",
      "policy_classes[1].prefill_busy_threshold: expected an integer of at least 0, got 1.5",
    ],
    ["name: urgent", "name: batch", "policy_classes: class batch has the name of a family"],
    [
      "name: urgent",
      "name: 'a b'",
      'policy_classes[4].name: expected a name of letters, digits, "_", "." and "-", got "a b"',
    ],
    ["name: urgent", "name: batch-long", 'policy_classes[4].name: duplicate class "batch-long"'],
    [
      "name: urgent",
      "name: urgent, policy_family: batch",
      "policy_classes[4].cache_bucket: expected both policy_family and cache_bucket, or neither for a class that is asked for by name",
    ],
    [
      "cache_bucket: long, quantum: 10",
      "cache_bucket: short, quantum: 10",
      "policy_classes: two classes for family batch and bucket short",
    ],
    [
      "cache_bucket: long, quantum: 10",
      "cache_bucket: huge, quantum: 10",
      "policy_classes[3].cache_bucket: unknown bucket; expected one of short, long",
    ],
    [
      "default_policy_family: standard",
      "default_policy_family: other",
      "default_policy_family: expected one of the classes' families: standard, batch",
    ],
    ["min_tokens: 0", "min_tokens: 1", "uncached_isl_buckets[0].min_tokens: the first bucket must start at 0"],
    [
      "min_tokens: 2048",
      "min_tokens: 0",
      "uncached_isl_buckets[1].min_tokens: must be above 0, that of the bucket before",
    ],
    ["bucket: long }", "bucket: short }", 'uncached_isl_buckets[1].bucket: duplicate bucket "short"'],
  ])("refuses the profile with %j as %j", (from, to, fault) => {
    expect(faultsOf(profile.replace(from, to))).toContain(fault);
  });

  it("names a missing class of the matrix", () => {
    const text = profile.replace(/ {2}- \{ name: batch-long.*\n/, "");
    expect(faultsOf(text)).toEqual(["policy_classes: no class for family batch and bucket long"]);
  });

  it("reports all faults at once", () => {
    const text = profile.replace("quantum: 4096", "quantum: x").replace("min_tokens: 0", "min_tokens: -1");
    expect(faultsOf(`${text}\nextra: 1`)).toHaveLength(3);
  });

  it("refuses aliases that expand without end", () => {
    const bomb = [
      "a: &a [x,x,x,x,x,x,x,x,x,x]",
      ..."bcdefgh".split("").map((key, index) => {
        const before = "abcdefg"[index];
        return `${key}: &${key} [${Array.from({ length: 10 }, () => `*${before}`).join(",")}]`;
      }),
    ].join("\n");
    expect(faultsOf(bomb)[0]).toMatch(/^the document: /);
  });
});

describe("the profile without a policy file", () => {
  it("queues only with a threshold", () => {
    expect(syntheticProfile(undefined, "fcfs").classes.map(hasQueue)).toEqual([false]);
    expect(syntheticProfile(0, "wspt").classes).toMatchObject([
      { busyFraction: 0, queuePolicy: "wspt", name: "default" },
    ]);
  });
});
