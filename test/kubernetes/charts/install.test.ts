/** The charts on a real API server: what they render is valid there, and releases come, change, go back and go without leaving anything. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../../stack.ts";
import { type ControlPlane, startControlPlane } from "../control-plane.ts";
import { type Definition, readDefinitions } from "../definitions.ts";
import { toolBinary } from "../tools.ts";
import { type ChartCase, cases } from "./cases.ts";
import { otherDefinitions } from "./definitions.ts";
import { chartFolder, createHelm, type Helm, type Manifest, manifestsOf, release, runProgram } from "./helm.ts";
import { schemaFile, schemaLocation, writeSchemas } from "./schemas.ts";

let plane: ControlPlane;
let helm: Helm;
let folder: string;
let defined: readonly Described[];
let count = 0;
/** What can be listed; asked for once. */
let paths: Promise<readonly string[]> | undefined;

beforeAll(async () => {
  plane = await startControlPlane();
  helm = await createHelm(plane.kubeconfig);
  folder = await mkdtemp(join(tmpdir(), "signalbox-schemas-"));
  const published = readDefinitions(
    "gateway-api",
    "inference-extension",
    "inference-objectives",
    "llm-d-objectives",
    "inference-pool-v1alpha2",
    "istio",
    "envoy-gateway",
  ).filter(({ spec }) => !unused.has(spec.group) || rendered.has(spec.names.plural));
  defined = [...published, ...otherDefinitions] as readonly Described[];
  // One after the other: some are so large that several at once take a busy server's whole time-out.
  for (const definition of defined) await define(definition);
  await Promise.all(defined.map(isListed));
}, 300_000);
afterAll(async () => {
  await helm?.close();
  await plane?.close();
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
});

/** Of these groups only what the charts render: the rest is large. */
const unused: ReadonlySet<string> = new Set([
  "gateway.envoyproxy.io",
  "extensions.istio.io",
  "networking.istio.io",
  "security.istio.io",
  "telemetry.istio.io",
]);
const rendered: ReadonlySet<string> = new Set([
  "backends",
  "backendtrafficpolicies",
  "envoyextensionpolicies",
  "destinationrules",
]);

type Described = Definition & { readonly spec: { readonly names: { readonly kind: string } } };

function servedOf({ versions }: Definition["spec"]): string {
  return versions.find(({ served }) => served)?.name ?? "";
}

async function define(definition: Definition): Promise<void> {
  const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
  await plane.api.request({ method: "POST", path, body: JSON.stringify(definition), timeoutMs: 60_000 });
}

async function isListed({ spec }: Definition): Promise<void> {
  const path = `/apis/${spec.group}/${servedOf(spec)}/${spec.names.plural}`;
  await eventually(
    `${path} can be listed`,
    () =>
      plane.api.request({ path }).then(
        () => true,
        () => false,
      ),
    60_000,
  );
}

async function done(args: readonly string[], values?: object): Promise<string> {
  const { code, stdout, stderr } = await helm.run(args, values);
  if (code !== 0) throw new Error(`helm ${args.join(" ")}: ${stderr}`);
  return stdout;
}

function nextNamespace(): string {
  return `charts-${++count}`;
}

async function install({ chart, values }: ChartCase, namespace: string): Promise<string> {
  return await done(["install", release, chartFolder(chart), "--namespace", namespace, "--create-namespace"], values);
}

/** Every path of an API that holds namespaced or cluster-wide objects. */
async function collections(): Promise<readonly string[]> {
  interface Resources {
    readonly resources: readonly { readonly name: string; readonly verbs: readonly string[] }[];
  }
  const groups = JSON.parse(await plane.api.request({ path: "/apis" })) as {
    readonly groups: readonly { readonly preferredVersion: { readonly groupVersion: string } }[];
  };
  const bases = ["/api/v1", ...groups.groups.map(({ preferredVersion }) => `/apis/${preferredVersion.groupVersion}`)];
  const found: string[] = [];
  for (const base of bases) {
    const { resources } = JSON.parse(await plane.api.request({ path: base })) as Resources;
    for (const { name, verbs } of resources) {
      if (!name.includes("/") && verbs.includes("list") && verbs.includes("create")) found.push(`${base}/${name}`);
    }
  }
  return found;
}

/** Objects with the release's label anywhere in the cluster, whose namespace or name says the given namespace. */
async function objectsOf(namespace: string): Promise<readonly string[]> {
  paths ??= collections();
  const selector = encodeURIComponent(`app.kubernetes.io/instance=${release}`);
  const lists = await Promise.all(
    (await paths).map(
      async (path) =>
        JSON.parse(await plane.api.request({ path: `${path}?labelSelector=${selector}` })) as {
          readonly kind: string;
          readonly items: readonly Manifest[];
        },
    ),
  );
  return lists
    .flatMap(({ kind, items }) =>
      items
        .filter(({ metadata }) => metadata.namespace === namespace || metadata.name.startsWith(`${namespace}-`))
        .map(({ metadata }) => `${kind.replace(/List$/, "")}/${metadata.name}`),
    )
    .sort();
}

async function read<Answer>(path: string): Promise<Answer> {
  return JSON.parse(await plane.api.request({ path })) as Answer;
}

interface Workload {
  readonly metadata: { readonly uid: string };
  readonly spec: {
    readonly replicas: number;
    readonly template: { readonly spec: { readonly containers: readonly { readonly args: readonly string[] }[] } };
  };
}

function deployment(namespace: string): Promise<Workload> {
  return read(`/apis/apps/v1/namespaces/${namespace}/deployments/${release}-epp`);
}

describe("against the schemas of the live server", () => {
  let location: string;
  beforeAll(async () => {
    const schemas = join(folder, "schemas");
    // The server describes a new kind a moment after it serves it.
    await eventually(
      "the server describes every kind",
      async () => {
        const files = await writeSchemas(plane.api, schemas);
        return defined.every(({ spec }) =>
          files.has(schemaFile({ ...spec, kind: spec.names.kind, version: servedOf(spec) })),
        );
      },
      60_000,
    );
    location = schemaLocation(schemas);
  }, 120_000);

  async function conform(text: string) {
    const file = join(folder, "rendered.yaml");
    await writeFile(file, text);
    return await runProgram(toolBinary("kubeconform"), ["-strict", "-summary", "-schema-location", location, file]);
  }

  it.each(cases)("every object of $name is valid", async (one) => {
    const text = await helm.template(one);
    const { code, stdout } = await conform(text);
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringContaining("Invalid: 0, Errors: 0, Skipped: 0") });
    expect(stdout).toContain(`Valid: ${manifestsOf(text).length}`);
  });

  it("a key that no kind has is found, so that the schemas check something", async () => {
    const text = await helm.template(cases[0] as ChartCase);
    const wrong = text.replace("  strategy:", "  strategies:");
    expect(wrong).not.toBe(text);
    expect(await conform(wrong)).toMatchObject({ code: 1, stdout: expect.stringContaining("strategies") });
  });
});

describe("a release", () => {
  it.each(cases)("of $name is taken by the server as it is rendered, and leaves nothing", async (one) => {
    const namespace = nextNamespace();
    const notes = await install(one, namespace);
    expect(notes).toContain(namespace);
    const manifest = manifestsOf(await done(["get", "manifest", release, "--namespace", namespace]));
    expect(await objectsOf(namespace)).toEqual(manifest.map(({ kind, metadata }) => `${kind}/${metadata.name}`).sort());
    await done(["uninstall", release, "--namespace", namespace]);
    expect(await objectsOf(namespace)).toEqual([]);
  });

  it("is upgraded, rolled back and uninstalled", async () => {
    const namespace = nextNamespace();
    const first = cases.find(({ name }) => name === "defaults") as ChartCase;
    const second = cases.find(({ name }) => name === "active-active") as ChartCase;
    await install(first, namespace);
    const before = await deployment(namespace);
    const objects = await objectsOf(namespace);
    const where = ["--namespace", namespace];

    await done(["upgrade", release, chartFolder(second.chart), ...where], second.values);
    const upgraded = await deployment(namespace);
    expect(upgraded.metadata.uid).toBe(before.metadata.uid);
    expect(upgraded.spec.template.spec.containers[0]?.args).toContain(`--peer-service=${release}-epp-peers`);
    expect(await objectsOf(namespace)).toEqual(
      expect.arrayContaining([`Service/${release}-epp-peers`, `ScaledObject/${release}-model-servers`]),
    );

    await done(["rollback", release, "1", ...where]);
    const back = await deployment(namespace);
    expect(back.metadata.uid).toBe(before.metadata.uid);
    expect(back.spec.template.spec).toEqual(before.spec.template.spec);
    expect(await objectsOf(namespace)).toEqual(objects);
    const history = JSON.parse(await done(["history", release, "--output", "json", ...where])) as readonly unknown[];
    expect(history).toHaveLength(3);

    await done(["uninstall", release, ...where]);
    expect(await objectsOf(namespace)).toEqual([]);
  });

  it("that is refused leaves the one before as it was", async () => {
    const namespace = nextNamespace();
    const one = cases[0] as ChartCase;
    await install(one, namespace);
    const { code, stderr } = await helm.run(["upgrade", release, chartFolder(one.chart), "--namespace", namespace], {
      ...one.values,
      provider: { name: "traefik" },
    });
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringContaining("value must be one of 'none', 'istio'"),
    });
    expect(JSON.parse(await done(["history", release, "--namespace", namespace, "--output", "json"]))).toHaveLength(1);
    await done(["uninstall", release, "--namespace", namespace]);
  });

  it("twice in one namespace, both with metrics, are two", async () => {
    const namespace = nextNamespace();
    const values = {
      router: { modelServers: { matchLabels: { app: "qwen" } }, monitoring: { prometheus: { enabled: true } } },
    };
    for (const name of ["one", "two"]) {
      await done(["install", name, chartFolder("signalbox"), "--namespace", namespace, "--create-namespace"], values);
    }
    for (const name of ["one", "two"]) await done(["uninstall", name, "--namespace", namespace]);
  });

  it("comes from a package as from the folder", async () => {
    const namespace = nextNamespace();
    const one = cases[0] as ChartCase;
    await done(["package", chartFolder(one.chart), "--destination", folder]);
    const { version } = JSON.parse(await readFile(new URL("../../../package.json", import.meta.url), "utf8")) as {
      readonly version: string;
    };
    const archive = join(folder, `${one.chart}-${version}.tgz`);
    await done(["install", release, archive, "--namespace", namespace, "--create-namespace"], one.values);
    expect((await deployment(namespace)).spec.replicas).toBe(1);
    await done(["uninstall", release, "--namespace", namespace]);
  });
});
