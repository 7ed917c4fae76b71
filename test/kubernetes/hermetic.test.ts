/**
 * The reference picker's hermetic cases in its three modes, asked of the process over a real API server: a pool that a gateway refers to, a pool
 * beside a proxy of its own, and a label selector in a cluster without any custom resource. Engines are what serves metrics at the pods' addresses.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe } from "@jest/globals";
import { parseAllDocuments } from "yaml";
import { startEppChild } from "../../src/app/child.ts";
import { startFakeEnginesAt } from "../conformance/fake-engines.ts";
import { hermeticCases } from "../conformance/hermetic-cases.ts";
import { hermeticConfig, hermeticManifests, hermeticPool } from "../conformance/hermetic-objects.ts";
import { createPicker, type Picker } from "../conformance/picker.ts";
import { type ControlPlane, freePort, startControlPlane } from "./control-plane.ts";
import { installDefinitions } from "./definitions.ts";
import { createPoolNamespace, poolSpec } from "./pool-namespace.ts";
import { podAddress } from "./stored-pods.ts";

const labels = { app: "vllm" };
let count = 0;

/** In a namespace of its own; `pool`: its spec where there is one. */
async function startIn(
  plane: ControlPlane,
  engines: number,
  mode: { readonly pool?: (port: number) => object; readonly args: (port: number) => readonly string[] },
): Promise<Picker> {
  const place = await createPoolNamespace(plane, `hermetic-${++count}`);
  const port = await freePort();
  const hosts = Array.from({ length: engines }, (_, index) => podAddress(count * 10 + index));
  const fakes = await startFakeEnginesAt(hosts.map((host) => ({ host, port })));
  const folder = await mkdtemp(join(tmpdir(), "signalbox-hermetic-"));
  const close = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    if (mode.pool !== undefined) {
      await place.putPool(hermeticPool, mode.pool(port));
      await createObjects(plane, place.namespace);
    }
    for (const [index, host] of hosts.entries()) await place.createPod(`pod-${index}`, { labels, ips: [host] });
    const configFile = join(folder, "config.yaml");
    await writeFile(configFile, hermeticConfig());
    const child = await startEppChild(
      [
        ...mode.args(port),
        `--pool-namespace=${place.namespace}`,
        `--config-file=${configFile}`,
        "--metrics-endpoint-auth=false",
        "--secure-serving=false",
        "--refresh-metrics-interval=10ms",
        "--drain-timeout=0s",
        "--drain-grace=1s",
      ],
      { environment: { KUBECONFIG: plane.kubeconfig }, timeoutMs: 60_000 },
    );
    const picker = createPicker(child, fakes, { tls: false, close });
    await picker.observe(hosts.map(() => ({ queue: 0, kv: 0 })));
    return picker;
  } catch (error) {
    await fakes.close();
    await close();
    throw error;
  }
}

/** Objectives and rewrites, of both groups as the manifests have them. */
async function createObjects({ api }: ControlPlane, namespace: string): Promise<void> {
  const plurals: Readonly<Record<string, string>> = {
    InferenceObjective: "inferenceobjectives",
    InferenceModelRewrite: "inferencemodelrewrites",
  };
  for (const document of parseAllDocuments(hermeticManifests)) {
    const object = document.toJS() as {
      readonly apiVersion: string;
      readonly kind: string;
      readonly metadata: { readonly name: string };
    };
    await api.request({
      method: "POST",
      path: `/apis/${object.apiVersion}/namespaces/${namespace}/${plurals[object.kind]}`,
      body: JSON.stringify({ ...object, metadata: { name: object.metadata.name } }),
    });
  }
}

describe("in a cluster with the custom resources", () => {
  let plane: ControlPlane;
  beforeAll(async () => {
    plane = await startControlPlane();
    await installDefinitions(plane.api, "inference-extension", "llm-d-objectives", "inference-objectives");
  }, 180_000);
  afterAll(async () => {
    await plane?.close();
  });

  describe("of a pool that a gateway refers to", () => {
    hermeticCases({
      hasObjects: true,
      poolName: hermeticPool,
      start: (engines) =>
        startIn(plane, engines, {
          pool: (port) => poolSpec(labels, port),
          args: () => [`--pool-name=${hermeticPool}`],
        }),
    });
  });

  describe("of a pool beside a proxy of its own, which names no picker", () => {
    hermeticCases({
      hasObjects: true,
      poolName: hermeticPool,
      start: (engines) =>
        startIn(plane, engines, {
          pool: (port) => ({ selector: { matchLabels: labels }, targetPorts: [{ number: port }] }),
          args: () => [`--pool-name=${hermeticPool}`],
        }),
    });
  });
});

describe("in a cluster without them", () => {
  let plane: ControlPlane;
  beforeAll(async () => {
    plane = await startControlPlane();
  }, 180_000);
  afterAll(async () => {
    await plane?.close();
  });

  describe("of a label selector, where every priority is 0", () => {
    hermeticCases({
      hasObjects: false,
      poolName: "",
      start: (engines) =>
        startIn(plane, engines, {
          args: (port) => ["--endpoint-selector=app=vllm", `--endpoint-target-ports=${port}`],
        }),
    });
  });
});
