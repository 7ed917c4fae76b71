/**
 * deploy/kubernetes and deploy/gateways/istio on a cluster with Istio over a stock Envoy, which takes the destination from the metadata: whom requests reach, over TLS and
 * plain text, while pods come and go and the picker dies.
 */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../../stack.ts";
import { type Cluster, type ClusterObject, startCluster } from "../cluster.ts";
import { deployedObjects, withArgs } from "./deployed.ts";
import { ask, type GatewayAnswer, longPrompt } from "./gateway-client.ts";
import { envoyImage, signalboxImage } from "./images.ts";
import { type Istio, startIstio } from "./istio.ts";

/** Over TLS, FailOpen, as deploy/ has it; and in plain text, FailClose. */
const secured = "secured";
const plain = "plain";
const hostOf = (namespace: string): string => `${namespace}.example.com`;
const picker = "signalbox-epp";
const modelServers = { apiVersion: "apps/v1", kind: "Deployment", name: "model-server" } as const;
const waitMs = 120_000;

let cluster: Cluster;
let istio: Istio;
let gateway: string;

beforeAll(async () => {
  cluster = await startCluster({
    images: {
      "signalbox:": signalboxImage("epp"),
      "model-server": signalboxImage("worker"),
      "gateway-proxy": envoyImage(),
    },
    definitions: ["gateway-api", "inference-extension", "inference-objectives", "llm-d-objectives", "istio"],
  });
  istio = await startIstio(cluster);
  await cluster.apply(
    { apiVersion: "v1", kind: "Namespace", metadata: { name: secured } },
    { apiVersion: "v1", kind: "Namespace", metadata: { name: plain } },
    ...(await deployedObjects("gateways/istio", secured)).map(adapted),
  );
  for (const namespace of [secured, plain]) {
    const objects = await deployedObjects("kubernetes", namespace);
    await cluster.apply(...objects.map(adapted), workersOf(namespace));
  }
  await Promise.all(
    [secured, plain].flatMap((namespace) => [
      cluster.podsReady(namespace, "app=model-server", 3),
      cluster.podsReady(namespace, `app.kubernetes.io/name=${picker}`, 1),
    ]),
  );
  const [proxy] = await cluster.podsReady(secured, "gateway.networking.k8s.io/gateway-name=inference-gateway", 1);
  gateway = proxy?.address ?? "";
  for (const namespace of [secured, plain]) {
    await eventually(
      `${namespace} is served`,
      async () => (await ask(gateway, hostOf(namespace), "hello").catch(() => undefined))?.status === 200,
      waitMs,
    );
  }
}, 600_000);

afterAll(async () => {
  await istio?.close();
  await cluster?.close();
}, 60_000);

/** Each namespace has a host name of its own at the one gateway, and the second speaks plain text and fails closed. */
function adapted(object: ClusterObject): ClusterObject {
  const { namespace } = object.metadata;
  const spec = object["spec"] as Readonly<Record<string, object>>;
  if (object.kind === "Gateway") {
    const listeners = spec["listeners"] as readonly object[];
    const allowedRoutes = { namespaces: { from: "All" } };
    return { ...object, spec: { ...spec, listeners: listeners.map((listener) => ({ ...listener, allowedRoutes })) } };
  }
  if (object.kind === "HTTPRoute") {
    const parentRefs = [{ name: "inference-gateway", namespace: secured }];
    return { ...object, spec: { ...spec, parentRefs, hostnames: [hostOf(namespace ?? "")] } };
  }
  if (namespace === plain && object.kind === "InferencePool") {
    return {
      ...object,
      spec: { ...spec, endpointPickerRef: { ...spec["endpointPickerRef"], failureMode: "FailClose" } },
    };
  }
  if (object.kind !== "Deployment") return object;
  // A picker that is told to end serves on for a while: half a minute is for a cluster's load balancers, not for a test.
  const quick = withArgs(object, "--drain-timeout=2s", "--drain-grace=5s");
  return namespace === plain ? withArgs(quick, "--secure-serving=false") : quick;
}

function workersOf(namespace: string): ClusterObject {
  const labels = { app: "model-server" };
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name: modelServers.name, namespace },
    spec: {
      replicas: 3,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          containers: [
            {
              name: "worker",
              image: "example/model-server",
              args: ["--port=8000", "--name=$(POD_NAME)"],
              env: [{ name: "POD_NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } }],
              ports: [{ containerPort: 8000 }],
              readinessProbe: { httpGet: { path: "/health", port: 8000 } },
            },
          ],
        },
      },
    },
  };
}

async function scale(namespace: string, kind: typeof modelServers | typeof pickerDeployment, replicas: number) {
  await cluster.patch({ ...kind, namespace }, { spec: { replicas } });
}

const pickerDeployment = { apiVersion: "apps/v1", kind: "Deployment", name: picker } as const;

async function askAll(namespace: string, prompts: readonly string[]): Promise<readonly GatewayAnswer[]> {
  return await Promise.all(prompts.map((prompt) => ask(gateway, hostOf(namespace), prompt)));
}

/** By prompt, the worker that answered it last. */
async function workersByPrompt(namespace: string, prompts: readonly string[]): Promise<readonly string[]> {
  const answers = await askAll(namespace, prompts);
  expect(answers.map(({ status }) => status)).toEqual(prompts.map(() => 200));
  return answers.map(({ worker }) => worker);
}

/** Whether prompts return to the worker that has them in its cache, which balancing without a picker does not bring about. */
async function follows(namespace: string, name: string): Promise<boolean> {
  const prompts = Array.from({ length: 8 }, (_, index) => longPrompt(`${name}-${index}`));
  const first = await workersByPrompt(namespace, prompts);
  for (let round = 0; round < 3; round++) {
    const again = await workersByPrompt(namespace, prompts);
    if (again.join() !== first.join()) return false;
  }
  return true;
}

describe.each([secured, plain])("Istio with the picker %s", (namespace) => {
  it("sends a prompt where the picker says, over all workers", async () => {
    expect(await follows(namespace, `${namespace}-placed`)).toBe(true);
    const used = new Set<string>();
    let round = 0;
    await eventually(
      "all three workers are used",
      async () => {
        round++;
        const prompts = Array.from({ length: 12 }, (_, index) => longPrompt(`${namespace}-spread-${round}-${index}`));
        for (const worker of await workersByPrompt(namespace, prompts)) used.add(worker);
        return used.size === 3;
      },
      waitMs,
    );
  });

  it("carries a streamed answer whole", async () => {
    const { status, body } = await ask(gateway, hostOf(namespace), "stream", { stream: true, maxTokens: 60 });
    const lines = body.split("\n").filter((line) => line.startsWith("data: "));
    expect(status).toBe(200);
    expect(lines.length).toBeGreaterThanOrEqual(60);
    expect(lines.at(-1)).toBe("data: [DONE]");
  });
});

describe("Istio with the picker", () => {
  it("reaches a pod that is added, and never one that is gone", async () => {
    await scale(secured, modelServers, 4);
    const grown = await cluster.podsReady(secured, "app=model-server", 4);
    await eventually(
      "all four are used",
      async () => {
        const prompts = Array.from({ length: 16 }, (_, index) => longPrompt(`grown-${performance.now()}-${index}`));
        const answers = await askAll(secured, prompts);
        return new Set(answers.map(({ worker }) => worker)).size === grown.length;
      },
      waitMs,
    );
    await scale(secured, modelServers, 2);
    const left = (await cluster.podsReady(secured, "app=model-server", 2)).map(({ name }) => name);
    const prompts = Array.from({ length: 30 }, (_, index) => longPrompt(`shrunk-${index}`));
    const used = new Set(await workersByPrompt(secured, prompts));
    expect(left).toEqual(expect.arrayContaining([...used]));
    await scale(secured, modelServers, 3);
    await cluster.podsReady(secured, "app=model-server", 3);
  });

  it("picks again after the picker has died", async () => {
    const [pod] = await cluster.podsReady(secured, `app.kubernetes.io/name=${picker}`, 1);
    const pid = cluster.kubelet.pidOf(secured, pod?.name ?? "", "epp");
    expect(pid).toBeGreaterThan(0);
    process.kill(pid ?? 0, "SIGKILL");
    let round = 0;
    await eventually("prompts are placed", () => follows(secured, `restart-${round++}`).catch(() => false), waitMs);
    expect(cluster.kubelet.pidOf(secured, pod?.name ?? "", "epp")).not.toBe(pid);
  });

  it("lets requests through to any worker without a picker where the pool fails open", async () => {
    await scale(secured, pickerDeployment, 0);
    await cluster.podsReady(secured, `app.kubernetes.io/name=${picker}`, 0);
    await eventually(
      "all workers are used, and every request is answered",
      async () => {
        const answers = await askAll(
          secured,
          Array.from({ length: 12 }, () => longPrompt("open")),
        ).catch(() => []);
        const used = new Set(answers.map(({ worker }) => worker));
        return used.size === 3 && answers.every(({ status }) => status === 200);
      },
      waitMs,
    );
    await scale(secured, pickerDeployment, 1);
    await cluster.podsReady(secured, `app.kubernetes.io/name=${picker}`, 1);
    let round = 0;
    await eventually("prompts are placed again", () => follows(secured, `back-${round++}`).catch(() => false), waitMs);
  });

  it("refuses requests without a picker where the pool fails closed", async () => {
    await scale(plain, pickerDeployment, 0);
    await cluster.podsReady(plain, `app.kubernetes.io/name=${picker}`, 0);
    await eventually(
      "requests are refused",
      async () => (await ask(gateway, hostOf(plain), "closed")).status >= 500,
      waitMs,
    );
    for (let sent = 0; sent < 10; sent++) {
      const { status, worker } = await ask(gateway, hostOf(plain), `closed ${sent}`);
      expect({ isRefused: status >= 500, worker }).toEqual({ isRefused: true, worker: "" });
    }
    await scale(plain, pickerDeployment, 1);
    await eventually(
      "requests are answered again",
      async () => (await ask(gateway, hostOf(plain), "open again")).status === 200,
      waitMs,
    );
  });
});
