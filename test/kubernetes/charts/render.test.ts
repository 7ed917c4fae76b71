/** What the charts render: as stored, as the picker and the proxies read it, and what they refuse to render. No cluster is asked. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { parse, parseAllDocuments } from "yaml";
import { findEnvoy } from "../../../src/app/envoy.ts";
import { createPluginRegistry } from "../../../src/app/plugins.ts";
import { adaptToDynamo } from "../../../src/commands/epp-dynamo.ts";
import { type EppSettings, eppFlags } from "../../../src/commands/epp-flags.ts";
import { faultsOfEppFlags } from "../../../src/commands/epp-validation.ts";
import type { CompleteConfig } from "../../../src/config/complete-config.ts";
import { parseFlags } from "../../../src/config/flags.ts";
import { loadConfig } from "../../../src/config/load.ts";
import { createFamilies } from "../../../src/telemetry/catalogue.ts";
import { type ChartCase, cases, refusals } from "./cases.ts";
import {
  type Container,
  chartFolder,
  createHelm,
  dataOf,
  find,
  type Helm,
  type Manifest,
  manifestsOf,
  namespace,
  pickerContainer,
  pickerOf,
  podSpecOf,
  release,
  runProgram,
} from "./helm.ts";

const fixtures = new URL("../../fixtures/charts/", import.meta.url);
let helm: Helm;

beforeAll(async () => {
  helm = await createHelm();
});
afterAll(async () => {
  await helm?.close();
});

function caseNamed(name: string): ChartCase {
  const found = cases.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no case ${name}`);
  return found;
}

const texts = new Map<ChartCase, Promise<string>>();

/** Each case is rendered once for all tests. */
function textOf(one: ChartCase): Promise<string> {
  const text = texts.get(one) ?? helm.template(one);
  texts.set(one, text);
  return text;
}

async function rendered(one: ChartCase | string): Promise<readonly Manifest[]> {
  return manifestsOf(await textOf(typeof one === "string" ? caseNamed(one) : one));
}

/** Of values that no case has. */
async function renderedOf(chart: ChartCase["chart"], values: object): Promise<readonly Manifest[]> {
  return await rendered({ name: "", chart, values });
}

/** As `signalbox epp` would read its command line and environment. */
function settingsOf({ args, env = [] }: Container): {
  readonly settings: EppSettings;
  readonly faults: readonly string[];
} {
  const environment = Object.fromEntries(env.map(({ name, value }) => [name, value ?? "from the pod"]));
  const parsed = parseFlags(eppFlags, args, environment);
  const adapted = adaptToDynamo(parsed.values, parsed.given, environment);
  const early = [...parsed.faults, ...parsed.positional, ...adapted.faults];
  return {
    settings: adapted.values,
    faults: early.length > 0 ? early : faultsOfEppFlags(adapted.values),
  };
}

async function loaded(text: string): Promise<CompleteConfig> {
  return await loadConfig(text, { registry: createPluginRegistry(), folder: "/", source: "ConfigMap" });
}

function rulesOf(manifests: readonly Manifest[], kind: "Role" | "ClusterRole", name: string): unknown {
  return find(manifests, kind, name)["rules"];
}

describe.each(cases)('the chart $chart with values "$name"', (one) => {
  it("passes helm lint --strict", async () => {
    const { code, stdout } = await helm.run(["lint", "--strict", chartFolder(one.chart)], one.values);
    expect({ code, stdout }).toMatchObject({ code: 0 });
  });

  it("renders what is stored (scripts/renew-chart-fixtures.ts)", async () => {
    expect(await textOf(one)).toBe(await readFile(new URL(`${one.name}.yaml`, fixtures), "utf8"));
  });

  it("renders a command line that the picker accepts", async () => {
    const { settings, faults } = settingsOf(pickerContainer(await rendered(one)));
    expect(faults).toEqual([]);
    expect(settings["zap-encoder"]).toBe("json");
  });

  it("renders configurations that the picker loads", async () => {
    const manifests = await rendered(one);
    const configs = manifests.filter(
      ({ kind, metadata }) => kind === "ConfigMap" && metadata.name === `${release}-epp`,
    );
    const { settings } = settingsOf(pickerContainer(manifests));
    const file = settings["config-file"].replace("/config/", "");
    expect(configs.length).toBe(file === "" ? 0 : 1);
    for (const config of configs) {
      expect(Object.keys(dataOf(config))).toContain(file);
      for (const text of Object.values(dataOf(config))) await loaded(text);
    }
  });

  it("gives the picker more time to end than its whole drain", async () => {
    const manifests = await rendered(one);
    const { settings } = settingsOf(pickerContainer(manifests));
    const drainMs = settings["drain-timeout"] + settings["drain-grace"];
    expect(podSpecOf(pickerOf(manifests)).terminationGracePeriodSeconds * 1000).toBeGreaterThan(drainMs);
  });

  it("mounts nothing that is not there and names no volume twice", async () => {
    for (const workload of (await rendered(one)).filter(
      ({ kind }) => kind === "Deployment" || kind === "StatefulSet",
    )) {
      const spec = podSpecOf(workload) as unknown as {
        readonly volumes: readonly { readonly name: string }[];
        readonly containers: readonly { readonly volumeMounts: readonly { readonly name: string }[] }[];
        readonly initContainers?: readonly { readonly volumeMounts: readonly { readonly name: string }[] }[];
      };
      const volumes = spec.volumes.map(({ name }) => name);
      expect(new Set(volumes).size).toBe(volumes.length);
      const mounts = [...spec.containers, ...(spec.initContainers ?? [])].flatMap(({ volumeMounts }) => volumeMounts);
      expect(volumes).toEqual(expect.arrayContaining(mounts.map(({ name }) => name)));
    }
  });

  it("renders each object once, in the release's namespace", async () => {
    const manifests = await rendered(one);
    const ids = manifests.map(({ kind, metadata }) => `${kind}/${metadata.name}`);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { kind, metadata } of manifests) {
      expect([kind, metadata.namespace]).toEqual([kind, kind.startsWith("ClusterRole") ? undefined : namespace]);
    }
  });
});

it.each(["signalbox", "signalbox-standalone", "signalbox-lib"])("%s has the package's version", async (chart) => {
  const { version } = JSON.parse(await readFile(new URL("../../../package.json", import.meta.url), "utf8")) as {
    readonly version: string;
  };
  const described = parse(await readFile(join(chartFolder(chart), "Chart.yaml"), "utf8")) as {
    readonly version: string;
    readonly appVersion?: string;
    readonly dependencies?: readonly { readonly version: string }[];
  };
  const versions = [
    described.version,
    described.appVersion,
    ...(described.dependencies ?? []).map((one) => one.version),
  ];
  expect(new Set(versions.filter((one) => one !== undefined))).toEqual(new Set([version]));
});

describe("what is refused", () => {
  it.each(refusals)("$what", async ({ chart = "signalbox", values, says }) => {
    const { code, stderr } = await helm.run(["template", release, chartFolder(chart)], values);
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining(says) });
  });
});

describe("the rights that are granted", () => {
  let manifests: readonly Manifest[];
  /** Of deploy/kubernetes/rbac.yaml. */
  let plain: readonly Manifest[];
  beforeAll(async () => {
    const file = new URL("../../../deploy/kubernetes/rbac.yaml", import.meta.url);
    plain = parseAllDocuments(await readFile(file, "utf8")).map((document) => document.toJS() as Manifest);
    manifests = await rendered("active-active");
  });
  const plainRules = (...names: readonly string[]): readonly unknown[] =>
    names.flatMap((name) => rulesOf(plain, "Role", `signalbox-epp${name}`));

  it.each([
    ["defaults", ["", "-events"]],
    ["leader", ["", "-events", "-leader-election"]],
    ["active-active", ["", "-events", "-peers"]],
    ["leader-warm", ["", "-events", "-leader-election", "-peers"]],
    ["dynamo", ["", "-events", "-dynamo"]],
  ] as const)("are those of the plain manifests: %s", async (name, roles) => {
    expect(rulesOf(await rendered(name), "Role", `${release}-epp`)).toEqual(plainRules(...roles));
  });

  it.each([
    ["there are several", "dynamo-active-active"],
    ["one serves its index", "dynamo-index"],
  ] as const)("write the replicas' own records before Dynamo workers, where %s", async (_, name) => {
    const rules = rulesOf(await rendered(name), "Role", `${release}-epp`) as readonly {
      readonly resources: readonly string[];
      readonly verbs: readonly string[];
    }[];
    expect(rules.filter(({ verbs }) => verbs.includes("delete"))).toEqual([
      expect.objectContaining({
        resources: ["dynamoworkermetadatas"],
        verbs: ["get", "list", "watch", "create", "patch", "delete"],
      }),
    ]);
  });

  it("are pods alone, and Events, without a pool", async () => {
    expect(rulesOf(await rendered("without-pool"), "Role", `${release}-epp`)).toEqual([
      { apiGroups: [""], resources: ["pods"], verbs: ["get", "list", "watch"] },
      ...plainRules("-events"),
    ]);
  });

  it("are of the whole cluster for reviews only, and for the scraper's own account", () => {
    for (const role of ["metrics-auth", "metrics-reader"]) {
      const rules = rulesOf(manifests, "ClusterRole", `${namespace}-${release}-epp-${role}`);
      expect(rules).toEqual(rulesOf(plain, "ClusterRole", `signalbox-epp-${role}`));
    }
    const reader = find(manifests, "ClusterRoleBinding", `${namespace}-${release}-epp-metrics-reader`);
    expect(reader["subjects"]).toEqual([{ kind: "ServiceAccount", name: `${release}-epp-metrics-reader`, namespace }]);
  });

  it("are none of the cluster's where nobody asks who reads metrics", async () => {
    const kinds = (await rendered("defaults")).map(({ kind }) => kind);
    expect(kinds.filter((kind) => kind.startsWith("Cluster"))).toEqual([]);
  });
});

describe("what values mean", () => {
  it("a flag of the user wins over the chart's, whole numbers stay whole", async () => {
    const epp = { flags: { tracing: true, "max-buffered-bytes": 2_147_483_648, "tls-cipher-suites": ["a", "b"] } };
    const router = { modelServers: { matchLabels: { app: "qwen" } }, epp };
    const { args } = pickerContainer(await renderedOf("signalbox", { router }));
    expect(args).toEqual(
      expect.arrayContaining(["--tracing=true", "--max-buffered-bytes=2147483648", "--tls-cipher-suites=a,b"]),
    );
    expect(args.filter((arg) => arg.startsWith("--tracing"))).toHaveLength(1);
  });

  it.each([
    [{ epp: { replicas: 2 } }, { "ha-enable-leader-election": true, "peer-service": "" }],
    [
      { epp: { replicas: 2, ha: { mode: "active-active" } } },
      { "ha-enable-leader-election": false, "peer-service": `${release}-epp-peers` },
    ],
    [
      { epp: { replicas: 2, flags: { "ha-enable-leader-election": false } } },
      { "ha-enable-leader-election": false, "peer-service": `${release}-epp-peers` },
    ],
    [
      { epp: { replicas: 2, ha: { warmFollowers: true } } },
      { "ha-enable-leader-election": true, "peer-service": `${release}-epp-peers` },
    ],
    [{ epp: {} }, { "ha-enable-leader-election": false, "peer-service": "" }],
  ] as const)("replicas of %j", async (more, expected) => {
    const router = { modelServers: { matchLabels: { app: "qwen" } }, ...more };
    expect(settingsOf(pickerContainer(await renderedOf("signalbox", { router }))).settings).toMatchObject(expected);
  });

  it("old values mean what the new ones say", async () => {
    const { values } = caseNamed("old-values");
    const router = {
      epp: {
        replicas: 2,
        image: { registry: "registry.example.com", repository: "epp", tag: "v1.3.0" },
        flags: { v: 1 },
      },
      modelServers: { matchLabels: { app: "qwen" }, type: "sglang", targetPorts: [{ number: 8080 }] },
      inferencePool: { failureMode: "FailClose" },
      inferenceObjectives: [{ name: "high-priority", priority: 5 }],
      monitoring: { interval: "30s", prometheus: { enabled: false, auth: { enabled: false } } },
      tracing: { enabled: true },
    };
    const provider = { name: "istio", istio: { destinationRule: { host: "picker.example" } } };
    const httpRoute = { create: true, inferenceGatewayName: "old-gateway" };
    const ours = await renderedOf("signalbox", { router, provider, httpRoute });
    expect(await renderedOf("signalbox", values)).toEqual(ours);
  });

  it("old standalone values mean what the new ones say", async () => {
    const router = {
      modelServers: { matchLabels: { app: "qwen", tier: "gpu" }, type: "sglang", targetPorts: [{ number: 8000 }] },
      inferencePool: { create: false },
      proxy: { image: "docker.io/envoyproxy/envoy:distroless-v1.33.2" },
    };
    const { values } = caseNamed("standalone-old-values");
    expect(await renderedOf("signalbox-standalone", values)).toEqual(
      await renderedOf("signalbox-standalone", { router }),
    );
  });

  it("an engine's type is the extractor's default engine", async () => {
    for (const type of ["sglang", "triton-tensorrt-llm", "trtllm-serve", "triton"]) {
      const router = { modelServers: { matchLabels: { app: "qwen" }, type } };
      const config = find(await renderedOf("signalbox", { router }), "ConfigMap", `${release}-epp`);
      const { plugins } = await loaded(dataOf(config)["default-plugins.yaml"] ?? "");
      const extractor = plugins.find((plugin) => plugin.type === "core-metrics-extractor");
      expect(extractor?.parameters).toMatchObject({ defaultEngine: type });
    }
  });

  it("the default configuration is the picker's own", async () => {
    const config = find(await rendered("defaults"), "ConfigMap", `${release}-epp`);
    const { profiles } = await loaded(dataOf(config)["default-plugins.yaml"] ?? "");
    const own = await loadConfig(undefined, { registry: createPluginRegistry(), folder: "/", source: "default" });
    expect(profiles).toEqual(own.profiles);
  });

  it("every metric that scaling asks for is exported", async () => {
    const families = Object.values(createFamilies()).flatMap(({ spec }) => spec.exposures.map(({ name }) => name));
    const text = await readFile(new URL("active-active.yaml", fixtures), "utf8");
    const asked = [...text.matchAll(/\b(inference_pool_\w+)\{/g)].map(([, name]) => name);
    expect(asked.length).toBeGreaterThan(0);
    expect(families).toEqual(expect.arrayContaining(asked));
  });

  it.each(["signalbox", "signalbox-standalone"] as const)(
    "the dashboard of %s is the one of deploy/grafana",
    async (chart) => {
      const source = new URL("../../../deploy/grafana/signalbox.json", import.meta.url);
      const router = { modelServers: { matchLabels: { app: "qwen" } }, monitoring: { grafana: { enabled: true } } };
      const dashboard = find(await renderedOf(chart, { router }), "ConfigMap", `${release}-epp-dashboard`);
      expect(JSON.parse(dataOf(dashboard)["signalbox.json"] ?? "")).toEqual(JSON.parse(await readFile(source, "utf8")));
    },
  );
  it.each(["signalbox", "signalbox-standalone"] as const)("the alerts of %s are those of deploy", async (chart) => {
    const source = new URL("../../../deploy/prometheus/alerts.yaml", import.meta.url);
    const monitoring = { prometheus: { alerts: { enabled: true, labels: { release: "prometheus" } } } };
    const router = { modelServers: { matchLabels: { app: "qwen" } }, monitoring };
    const rule = find(await renderedOf(chart, { router }), "PrometheusRule", `${release}-epp`);
    expect(rule["spec"]).toEqual((parse(await readFile(source, "utf8")) as Manifest)["spec"]);
    expect(rule.metadata).toMatchObject({ labels: { release: "prometheus" } });
  });
});

describe("the proxy's file", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "signalbox-chart-envoy-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it.each(["standalone", "standalone-service", "standalone-closed"])("is accepted by Envoy: %s", async (name) => {
    const text = dataOf(find(await rendered(name), "ConfigMap", `${release}-proxy`))["envoy.yaml"] ?? "";
    const file = join(folder, `${name}.yaml`);
    await writeFile(file, text);
    const { code, stdout, stderr } = await runProgram(findEnvoy(process.env), ["--mode", "validate", "-c", file]);
    expect({ code, output: stdout + stderr }).toMatchObject({ code: 0 });
  });

  it("leads to the picker beside it, or to every picker by name", async () => {
    const addressOf = async (name: string): Promise<unknown> => {
      const text = dataOf(find(await rendered(name), "ConfigMap", `${release}-proxy`))["envoy.yaml"] ?? "";
      const { static_resources } = parse(text) as {
        readonly static_resources: {
          readonly clusters: readonly {
            readonly name: string;
            readonly load_assignment: { readonly endpoints: readonly { readonly lb_endpoints: readonly unknown[] }[] };
          }[];
        };
      };
      const cluster = static_resources.clusters.find((one) => one.name === "ext_proc");
      return cluster?.load_assignment.endpoints[0]?.lb_endpoints[0];
    };
    const endpoint = (address: string) => ({
      endpoint: { address: { socket_address: { address, port_value: 9002 } } },
    });
    expect(await addressOf("standalone")).toEqual(endpoint("127.0.0.1"));
    expect(await addressOf("standalone-service")).toEqual(
      endpoint(`${release}-epp-headless.${namespace}.svc.cluster.local`),
    );
  });

  it("of the user takes the chart's place", async () => {
    const router = {
      modelServers: { matchLabels: { app: "qwen" } },
      proxy: { configMap: { data: { "envoy.yaml": "mine: {{ untouched }}" } } },
    };
    const manifests = await renderedOf("signalbox-standalone", { router });
    expect(dataOf(find(manifests, "ConfigMap", `${release}-proxy`))["envoy.yaml"]?.trim()).toBe(
      "mine: {{ untouched }}",
    );
  });

  it("is in the picker's pod as a sidecar that ends after it", async () => {
    const { containers, initContainers } = podSpecOf(pickerOf(await rendered("standalone")));
    expect(containers.map(({ name }) => name)).toEqual(["epp"]);
    expect(initContainers).toEqual([expect.objectContaining({ name: "envoy-proxy", restartPolicy: "Always" })]);
  });
});
