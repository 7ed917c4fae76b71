/**
 * The manifests of deploy/, alone and with every component: whether a real API server takes each object to the last key, whether pods are allowed
 * where the strictest standard is enforced, and whether what they say to the picker and of each other is so.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { parse } from "yaml";
import { startWorkersChild } from "../../../src/app/child.ts";
import { packageRoot } from "../../../src/app/envoy.ts";
import { createPluginRegistry } from "../../../src/app/plugins.ts";
import { adaptToDynamo } from "../../../src/commands/epp-dynamo.ts";
import { type EppSettings, eppFlags } from "../../../src/commands/epp-flags.ts";
import { faultsOfEppFlags } from "../../../src/commands/epp-validation.ts";
import { parseFlags } from "../../../src/config/flags.ts";
import { loadConfig } from "../../../src/config/load.ts";
import { eventually } from "../../stack.ts";
import { otherDefinitions } from "../charts/definitions.ts";
import { type ControlPlane, startControlPlane } from "../control-plane.ts";
import { installDefinitions } from "../definitions.ts";
import { build, type Container, find, type Manifest, type Overlay, templateOf } from "./kustomize.ts";

const deploy = join(packageRoot, "deploy");
const gateways = readdirSync(join(deploy, "gateways"));
const overlays: readonly (Overlay & { readonly name: string })[] = [
  { name: "the base", base: "kubernetes" },
  { name: "leader election", base: "kubernetes", components: ["overlays/leader-election"] },
  { name: "active-active", base: "kubernetes", components: ["overlays/active-active"] },
  { name: "the example", base: "overlays/example" },
  { name: "Dynamo", base: "overlays/dynamo" },
  { name: "Dynamo, several pickers", base: "overlays/dynamo", components: ["overlays/dynamo-replicas"] },
  { name: "a certificate", base: "kubernetes", components: ["overlays/certificate"] },
  { name: "monitoring", base: "kubernetes", components: ["prometheus", "overlays/active-active"] },
  ...gateways.map((gateway) => ({ name: gateway, base: "kubernetes", components: [`gateways/${gateway}`] })),
];
const namespace = "signalbox-deploy";
const clusterWide = new Set(["ClusterRole", "ClusterRoleBinding", "GatewayClass"]);

let plane: ControlPlane;

beforeAll(async () => {
  plane = await startControlPlane();
  for (const definition of otherDefinitions) {
    const body = JSON.stringify(definition);
    await plane.api.request({ method: "POST", path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body });
  }
  await installDefinitions(
    plane.api,
    ...(["gateway-api", "inference-extension", "inference-objectives"] as const),
    ...(["llm-d-objectives", "istio", "envoy-gateway"] as const),
  );
  const labels = { "pod-security.kubernetes.io/enforce": "restricted" };
  const body = JSON.stringify({ metadata: { name: namespace, labels } });
  await plane.api.request({ method: "POST", path: "/api/v1/namespaces", body });
}, 180_000);
afterAll(async () => {
  await plane?.close();
});

/** Its path, with the name that the server has for the kind; kinds are in its lists a moment after their objects are. */
async function collectionOf({ apiVersion, kind, metadata }: Manifest): Promise<string> {
  const group = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  const { name } = await eventually(
    `the server knows ${kind} of ${apiVersion}`,
    async () => {
      const { resources } = JSON.parse(await plane.api.request({ path: group })) as {
        readonly resources: readonly { readonly name: string; readonly kind: string }[];
      };
      return resources.find((resource) => resource.kind === kind && !resource.name.includes("/"));
    },
    30_000,
  );
  return `${group}/${clusterWide.has(kind) ? "" : `namespaces/${metadata.namespace}/`}${name}`;
}

/** Server-side apply without effect: defaults, schemas, admission, and no key that the kind does not have. */
async function dryRun(manifest: Manifest): Promise<void> {
  await plane.api.request({
    method: "PATCH",
    path: `${await collectionOf(manifest)}/${manifest.metadata.name}?dryRun=All&fieldManager=test&fieldValidation=Strict`,
    contentType: "application/apply-patch+yaml",
    body: JSON.stringify(manifest),
  });
}

/** As `signalbox epp` reads its command line and environment. */
function settingsOf({ args, env = [] }: Container): {
  readonly settings: EppSettings;
  readonly faults: readonly string[];
} {
  const environment = Object.fromEntries(env.map(({ name, value }) => [name, value ?? "from the pod"]));
  const parsed = parseFlags(eppFlags, args, environment);
  const adapted = adaptToDynamo(parsed.values, parsed.given, environment);
  const early = [...parsed.faults, ...parsed.positional, ...adapted.faults];
  return { settings: adapted.values, faults: early.length > 0 ? early : faultsOfEppFlags(adapted.values) };
}

function pickerOf(manifests: readonly Manifest[]) {
  const template = templateOf(find(manifests, "Deployment", "signalbox-epp"));
  const [container] = template.spec.containers;
  if (container === undefined) throw new Error("the picker's pod has no container");
  return { template, container, ...settingsOf(container) };
}

describe.each(overlays)("$name", (overlay) => {
  const manifests = build(overlay, namespace);
  const { template, container, settings, faults } = pickerOf(manifests);

  it("is taken by a real API server, every key of every object", async () => {
    expect(manifests.length).toBeGreaterThan(8);
    for (const manifest of manifests) {
      const { kind, metadata } = manifest;
      expect([kind, metadata.name, metadata.namespace]).toEqual([
        kind,
        metadata.name,
        clusterWide.has(kind) ? undefined : namespace,
      ]);
      await dryRun(manifest);
    }
  });

  it("makes pods that the restricted standard allows", async () => {
    for (const deployment of manifests.filter(({ kind }) => kind === "Deployment")) {
      const { metadata, spec } = templateOf(deployment);
      const pod = { apiVersion: "v1", kind: "Pod", metadata: { ...metadata, name: "pod", namespace }, spec };
      await dryRun(pod);
    }
  });

  it("gives the picker a command line that it accepts, and more time to end than its whole drain", () => {
    expect(faults).toEqual([]);
    const drainMs = settings["drain-timeout"] + settings["drain-grace"];
    expect(template.spec.terminationGracePeriodSeconds * 1000).toBeGreaterThan(drainMs);
  });

  it("probes liveness and readiness where the picker answers them", () => {
    const probe = (service: string) => ({ grpc: { port: settings["grpc-health-port"], service } });
    expect(container.livenessProbe).toMatchObject(probe("liveness"));
    expect(container.readinessProbe).toMatchObject(probe("readiness"));
    const ports = Object.fromEntries(container.ports.map(({ name, containerPort }) => [name, containerPort]));
    expect(ports).toMatchObject({
      "grpc-ext-proc": settings["grpc-port"],
      "grpc-health": settings["grpc-health-port"],
      "http-metrics": settings["metrics-port"],
    });
  });

  it("leads from route to pool to picker", () => {
    const pool = find(manifests, "InferencePool", settings["pool-name"].join())["spec"] as {
      readonly endpointPickerRef: { readonly name: string; readonly port: { readonly number: number } };
    };
    const service = find(manifests, "Service", pool.endpointPickerRef.name)["spec"] as {
      readonly selector: Readonly<Record<string, string>>;
      readonly ports: readonly { readonly port: number; readonly targetPort: string }[];
    };
    expect(template.metadata.labels).toMatchObject(service.selector);
    expect(service.ports).toContainEqual(
      expect.objectContaining({ port: pool.endpointPickerRef.port.number, targetPort: "grpc-ext-proc" }),
    );
    const route = find(manifests, "HTTPRoute", "signalbox")["spec"] as {
      readonly rules: readonly { readonly backendRefs: readonly { readonly kind?: string; readonly name: string }[] }[];
    };
    for (const { kind = "Service", name } of route.rules.flatMap(({ backendRefs }) => backendRefs)) {
      expect(find(manifests, kind, name)).toBeDefined();
    }
  });

  it("binds to an account what its replicas need, and no more", () => {
    const bindings = manifests.filter(({ kind }) => kind.endsWith("RoleBinding"));
    const bound = bindings.map(({ kind, metadata, ["roleRef"]: role }) => [kind, metadata.name, role]);
    for (const [kind, name, role] of bound) {
      const target = role as { readonly kind: string; readonly name: string };
      expect([kind, name]).toEqual([`${target.kind}Binding`, target.name]);
      expect(find(manifests, target.kind, target.name)).toBeDefined();
    }
    for (const { metadata, ["subjects"]: subjects } of bindings) {
      const name = metadata.name === "signalbox-epp-metrics-reader" ? metadata.name : "signalbox-epp";
      expect(subjects).toEqual([expect.objectContaining({ kind: "ServiceAccount", name })]);
      expect(find(manifests, "ServiceAccount", name)).toBeDefined();
    }
    const needs = {
      "signalbox-epp-leader-election": settings["ha-enable-leader-election"],
      "signalbox-epp-dynamo": container.env?.some(({ name }) => name === "DYN_DISCOVERY_BACKEND") === true,
      "signalbox-epp-dynamo-replicas": container.env?.some(({ name }) => name === "DYN_ROUTER_REPLICA_SYNC") === true,
      "signalbox-epp-peers": container.args.some((arg) => arg.startsWith("--peer-service")),
    };
    for (const [role, isNeeded] of Object.entries(needs)) {
      expect([role, bindings.some(({ metadata }) => metadata.name === role)]).toEqual([role, isNeeded]);
    }
  });
});

describe("what is applied besides", () => {
  it("is taken as well: the class of Envoy Gateway", async () => {
    const file = join(deploy, "gateways/envoy-gateway/gatewayclass.yaml");
    await dryRun(parse(readFileSync(file, "utf8")) as Manifest);
  });

  it("would be refused with a key that the kind does not have", async () => {
    const file = join(deploy, "gateways/envoy-gateway/gatewayclass.yaml");
    const gatewayClass = parse(readFileSync(file, "utf8")) as Manifest;
    await expect(dryRun({ ...gatewayClass, spec: { controllerName: "a.b/c", colour: "red" } })).rejects.toThrow(
      "colour",
    );
  });
});

describe("deploy/kubernetes", () => {
  const manifests = build({ base: "kubernetes" }, namespace);

  it("names every file that lies in it", () => {
    const { resources: named } = parse(readFileSync(join(deploy, "kubernetes/kustomization.yaml"), "utf8")) as {
      readonly resources: readonly string[];
    };
    const files = readdirSync(join(deploy, "kubernetes")).filter((file) => file !== "kustomization.yaml");
    expect([...named].sort()).toEqual(files.sort());
  });

  it("holds a configuration that the picker loads", async () => {
    const { settings } = pickerOf(manifests);
    const data = find(manifests, "ConfigMap", "signalbox-epp")["data"] as Readonly<Record<string, string>>;
    const text = data[settings["config-file"].replace("/config/", "")] ?? "";
    const loaded = await loadConfig(text, { registry: createPluginRegistry(), folder: "/", source: "ConfigMap" });
    expect(loaded.profiles.map(({ name }) => name)).toEqual(["default"]);
  });

  it("selects in the example the pods that its pool selects", () => {
    const example = build({ base: "overlays/example" }, namespace);
    const { selector } = find(example, "InferencePool", "signalbox")["spec"] as {
      readonly selector: { readonly matchLabels: Readonly<Record<string, string>> };
    };
    const { metadata, spec } = templateOf(find(example, "Deployment", "model-server"));
    expect(metadata.labels).toMatchObject(selector.matchLabels);
    expect(spec.containers[0]?.image).toBe(pickerOf(example).container.image);
  });

  it("starts in the example model servers with arguments that they take", async () => {
    const { spec } = templateOf(find(build({ base: "overlays/example" }, namespace), "Deployment", "model-server"));
    const [command, ...args] = spec.containers[0]?.args ?? [];
    expect(command).toBe("worker");
    expect(args).toEqual(expect.arrayContaining(["--host=0.0.0.0", "--port=8000"]));
    const own = args.filter((arg) => !/^--(host|port)=/.test(arg));
    const worker = await startWorkersChild(1, own, { timeoutMs: 60_000 });
    try {
      const models = await fetch(`${worker.ready[0]?.url}/v1/models`);
      expect(await models.text()).toContain("signalbox-sim");
    } finally {
      await worker.close();
    }
  });

  it("stands before Dynamo workers by Dynamo's variables alone", () => {
    const { settings } = pickerOf(build({ base: "overlays/dynamo" }, namespace));
    expect(settings["config-file"]).toBe("");
    expect(settings["config-text"]).toContain("dynamo-discovery");
  });
});
