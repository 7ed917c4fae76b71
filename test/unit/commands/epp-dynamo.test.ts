/** The environment of Dynamo's endpoint picker, as settings and as a configuration that loads. */
import { describe, expect, it } from "@jest/globals";
import { createPluginRegistry } from "../../../src/app/plugins.ts";
import { adaptToDynamo } from "../../../src/commands/epp-dynamo.ts";
import { type EppSettings, eppFlags } from "../../../src/commands/epp-flags.ts";
import { faultsOfEppFlags } from "../../../src/commands/epp-validation.ts";
import { parseFlags } from "../../../src/config/flags.ts";
import { loadConfig } from "../../../src/config/load.ts";

type Environment = Readonly<Record<string, string>>;

function adapt(environment: Environment, argv: readonly string[] = []) {
  const { values, given } = parseFlags(eppFlags, argv, environment);
  return { ...adaptToDynamo(values, given, environment), given };
}

async function configurationOf(environment: Environment, argv: readonly string[] = []) {
  const { values } = adapt(environment, argv);
  const config = await loadConfig(values["config-text"], {
    registry: createPluginRegistry(),
    folder: "/",
    source: "the environment",
  });
  return {
    plugins: config.plugins.map(({ type }) => type),
    handler: config.profileHandler,
    discovery: config.discovery,
    profiles: config.profiles.map(({ name, plugins }) => [name, ...plugins.map(({ pluginRef }) => pluginRef)]),
    parametersOf: (type: string) => config.plugins.find((plugin) => plugin.type === type)?.parameters,
  };
}

const standalone: Environment = {
  DYN_EPP_MODE: "standalone",
  DYN_EPP_INFERENCE_POOL_NAME: "pool",
  POD_NAMESPACE: "serving",
  DYN_MODEL_NAME: "tiny",
  DYN_EPP_TOKENIZER_SERVICE_URL: "http://render:8000",
  DYN_EPP_TOKENIZER_PROTOCOL: "vllm-render",
  DYN_KV_CACHE_BLOCK_SIZE: "16",
};

describe("a picker in a Dynamo namespace", () => {
  it.each([
    ["DYN_NAMESPACE", "ns"],
    ["DYN_NAMESPACE_PREFIX", "ns"],
    ["DYN_DISCOVERY_BACKEND", "file"],
    ["DYN_EPP_MODE", "dynamo"],
  ])("%s alone makes it one", async (name, value) => {
    const { handler, discovery, profiles } = await configurationOf({ [name]: value });
    expect([handler, discovery]).toEqual(["dynamo-prefill-router", "dynamo-discovery"]);
    expect(profiles).toEqual([["decode", "max-score-picker"]]);
    const { values, faults } = adapt({ [name]: value });
    expect([...faults, ...faultsOfEppFlags(values)]).toEqual([]);
  });

  it.each([
    [{ DYN_NAMESPACE: "" }, []],
    [{ DYN_ROUTER_TEMPERATURE: "1" }, []],
    [{ DYN_NAMESPACE: "ns" }, ["--endpoints=10.0.0.1:8000"]],
    [{ DYN_NAMESPACE: "ns" }, ["--config-file=x.yaml"]],
  ] as readonly (readonly [Environment, readonly string[]])[])("%j with %j is none", (environment, argv) => {
    expect(adapt(environment, argv).values["config-text"]).toBe("");
  });

  it("takes the frontends beside the workers unless it is told where they are", async () => {
    const beside = await configurationOf({ DYN_NAMESPACE: "ns" });
    expect(beside.parametersOf("dynamo-discovery")).toEqual({ frontendPort: 8000 });
    const told = await configurationOf({ DYN_NAMESPACE: "ns" }, ["--dynamo-frontend=127.0.0.1:9000"]);
    expect(told.parametersOf("dynamo-discovery")).toEqual({});
    const inKubernetes = await configurationOf({ DYN_DISCOVERY_BACKEND: "kubernetes" });
    expect(inKubernetes.parametersOf("dynamo-discovery")).toEqual({});
  });

  it("keeps decode workers to the component that is named", async () => {
    const { profiles, parametersOf } = await configurationOf({ DYN_NAMESPACE: "ns", DYN_COMPONENT_NAME: "backend" });
    expect(profiles).toEqual([["decode", "label-selector-filter", "max-score-picker"]]);
    expect(parametersOf("label-selector-filter")).toEqual({
      matchLabels: { "nvidia.com/dynamo-runtime-component": "backend" },
    });
  });

  it("refuses a mode that there is not", () => {
    expect(adapt({ DYN_EPP_MODE: "Dynamo" }).faults).toEqual([
      'DYN_EPP_MODE: "Dynamo" is not "dynamo" or "standalone"',
    ]);
    expect(adapt({ DYN_EPP_MODE: "x" }, ["--endpoints=10.0.0.1:8000"]).faults).toHaveLength(1);
  });
});

describe("variables of Dynamo's picker", () => {
  const cases: readonly (readonly [Environment, readonly string[], keyof EppSettings, unknown])[] = [
    [{ DYN_SECURE_SERVING: "false" }, [], "secure-serving", false],
    [{ DYN_SECURE_SERVING: "0" }, ["--secure-serving"], "secure-serving", true],
    [{ DYN_SECURE_SERVING: "maybe" }, [], "secure-serving", true],
    [{ DYN_EPP_METRICS_PORT: "9191" }, [], "metrics-port", 9191],
    [{ DYN_EPP_METRICS_PORT: "0" }, [], "metrics-port", -1],
    [{ DYN_EPP_METRICS_PORT: "0" }, ["--metrics-port=1"], "metrics-port", 1],
    [{ DYN_EPP_METRICS_PORT: "70000" }, [], "metrics-port", 9090],
    [{ DYN_EPP_GRACEFUL_SHUTDOWN_PROPAGATION_SECS: "7" }, [], "drain-timeout", 7_000],
    [{ DYN_EPP_GRACEFUL_SHUTDOWN_PROPAGATION_SECS: "7" }, ["--drain-timeout=1s"], "drain-timeout", 1_000],
    [{ DYN_NAMESPACE: "ns" }, [], "drain-timeout", 5_000],
    [{}, [], "drain-timeout", 30_000],
    [{ DYN_NAMESPACE: "ns", POD_NAMESPACE: "serving" }, [], "pool-namespace", "serving"],
    [{ DYN_NAMESPACE: "ns", POD_NAMESPACE: "serving" }, ["--pool-namespace=other"], "pool-namespace", "other"],
    [{ DYN_NAMESPACE: "ns", RUST_LOG: "h2=warn,debug" }, [], "v", 4],
    [{ DYN_NAMESPACE: "ns", RUST_LOG: "debug" }, ["-v", "1"], "v", 1],
    [{ RUST_LOG: "debug" }, [], "v", 2],
  ];
  it.each(cases)("%j with %j", (environment, argv, name, expected) => {
    const { values, faults } = adapt(environment, argv);
    expect(faults).toEqual([]);
    expect(values[name]).toEqual(expected);
  });

  it.each([
    [
      { DYN_NAMESPACE: "ns", DYN_EPP_METRIC_PORT: "1" },
      /^DYN_EPP_METRIC_PORT is unknown .*did you mean DYN_EPP_METRICS_PORT/,
    ],
    [
      { DYN_NAMESPACE: "ns", DYN_EPP_KV_EVENT_PORT: "1" },
      /^DYN_EPP_KV_EVENT_PORT has no effect without DYN_EPP_MODE=standalone/,
    ],
    [{ DYN_NAMESPACE: "ns", DYN_MODEL_NAME: "tiny" }, /^DYN_MODEL_NAME has no effect/],
    [{ DYN_SECURE_SERVING: "maybe" }, /^DYN_SECURE_SERVING=maybe: true or false expected; ignored/],
    [
      { ...standalone, DYN_EPP_SELECTION_HTTP_PORT: "8092" },
      /^DYN_EPP_SELECTION_HTTP_PORT has no effect without DYN_EPP_PEER_SERVICE/,
    ],
  ] as readonly (readonly [Environment, RegExp])[])("%j is warned of", (environment, expected) => {
    const { warnings } = adapt(environment);
    expect(warnings).toEqual([expect.stringMatching(expected)]);
  });

  it("are quiet about the variables that Kubernetes sets for a Service called dyn-epp", () => {
    const { warnings } = adapt({
      DYN_NAMESPACE: "ns",
      DYN_EPP_SERVICE_HOST: "10.0.0.1",
      DYN_EPP_SERVICE_PORT_GRPC: "9002",
      DYN_EPP_PORT: "tcp://10.0.0.1:9002",
      DYN_EPP_PORT_9002_TCP_ADDR: "10.0.0.1",
    });
    expect(warnings).toEqual([]);
  });
});

describe("a picker of raw engines (standalone)", () => {
  it("is the router over the endpoints that are given, without a discovery of Dynamo's workers", async () => {
    const argv = ["--endpoints=10.0.0.1:8000"];
    const { plugins, handler, discovery, parametersOf } = await configurationOf(standalone, argv);
    expect(handler).toBe("dynamo-prefill-router");
    expect(plugins).not.toContain("dynamo-discovery");
    expect(plugins).not.toContain("approx-prefix-cache-producer");
    expect(parametersOf("dynamo-prefill-router")).toMatchObject({
      workers: "endpoints",
      maxInflightRequests: 1024,
      engines: { modelName: "tiny", blockSizeTokens: 16, kvEventPort: 5557 },
    });
    expect(discovery).toBeUndefined();
    const { values, faults } = adapt(standalone, argv);
    expect([...faults, ...faultsOfEppFlags(values)]).toEqual([]);
    expect(values["pool-name"]).toEqual(["pool"]);
  });

  it("has a pool of prefill servers where one is named, and answers what is not planned with decode servers", async () => {
    const environment = { ...standalone, DYN_EPP_PREFILL_INFERENCE_POOL_NAME: "prefill" };
    const { profiles, parametersOf } = await configurationOf(environment);
    expect(parametersOf("dynamo-prefill-router")).toMatchObject({
      engines: { prefillSelector: "llm-d.ai/role=prefill" },
    });
    expect(profiles).toEqual([["decode", "decode-filter", "max-score-picker"]]);
    const { values, faults, warnings } = adapt(environment);
    expect([...faults, ...warnings, ...faultsOfEppFlags(values)]).toEqual([]);
    expect([values["pool-name"], values["prefill-pool-name"]]).toEqual([["pool"], "prefill"]);
    expect(adapt(environment, ["--prefill-pool-name=other"]).values["prefill-pool-name"]).toBe("other");
  });

  it("says nothing of variables that have an effect", () => {
    const { warnings } = adapt(
      {
        ...standalone,
        DYN_EPP_TOTAL_KV_BLOCKS: "1000",
        DYN_EPP_MAX_NUM_BATCHED_TOKENS: "8192",
        DYN_EPP_MAX_INFLIGHT_REQUESTS: "7",
      },
      ["--endpoints=10.0.0.1:8000"],
    );
    expect(warnings).toEqual([]);
  });

  it("names every variable that is missing, and finds the pods of the pool", () => {
    expect(adapt({ DYN_EPP_MODE: "standalone" }).faults).toEqual(
      expect.arrayContaining(["DYN_EPP_INFERENCE_POOL_NAME: is not set", "DYN_KV_CACHE_BLOCK_SIZE: is not set"]),
    );
    const { values, faults } = adapt(standalone);
    expect([...faults, ...faultsOfEppFlags(values)]).toEqual([]);
    expect(values["pool-name"]).toEqual(["pool"]);
  });
});
