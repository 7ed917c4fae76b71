/**
 * The charts on a cluster whose pods run. Standalone: Helm waits until it is ready, requests go through Envoy and picker to model servers, and neither
 * an upgrade nor a rollback costs one of them. Several replicas: they work under the rights that the chart grants.
 */
import { get } from "node:http";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../../stack.ts";
import { chartFolder, createHelm, type Helm } from "../charts/helm.ts";
import { type Cluster, type ReadyPod, startCluster } from "../cluster.ts";
import { ask } from "./gateway-client.ts";
import { envoyImage, signalboxImage } from "./images.ts";

const namespace = "models";
const release = "qwen";
const label = `app.kubernetes.io/instance=${release},app.kubernetes.io/component=epp`;
const port = 8081;

let cluster: Cluster;
let helm: Helm;

beforeAll(async () => {
  const envoy = envoyImage();
  cluster = await startCluster({
    images: {
      "signalbox:": signalboxImage("epp"),
      "model-server": signalboxImage("worker"),
      // The chart says which program, as the image of Envoy has it.
      "docker.io/envoyproxy/envoy:": { ...envoy, environment: { PATH: "/envoy:/usr/sbin:/sbin:/usr/bin:/bin" } },
    },
    definitions: ["inference-extension", "inference-objectives", "llm-d-objectives"],
  });
  helm = await createHelm(cluster.plane.kubeconfig);
  await cluster.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } }, modelServers);
  await cluster.podsReady(namespace, "app=qwen", 3);
}, 600_000);
afterAll(async () => {
  await helm?.close();
  await cluster?.close();
}, 60_000);

const modelServers = {
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name: "qwen", namespace },
  spec: {
    replicas: 3,
    selector: { matchLabels: { app: "qwen" } },
    template: {
      metadata: { labels: { app: "qwen" } },
      spec: {
        containers: [
          {
            name: "worker",
            image: "example/model-server",
            args: ["--host=0.0.0.0", "--port=8000", "--name=$(POD_NAME)", "--kv-events-port=5557"],
            env: [{ name: "POD_NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } }],
            ports: [{ containerPort: 8000 }, { containerPort: 5557 }],
            readinessProbe: { httpGet: { path: "/health", port: 8000 } },
          },
        ],
      },
    },
  },
} as const;

function values(flags: object = {}): object {
  return {
    router: {
      modelServers: { matchLabels: { app: "qwen" } },
      // A picker that is told to end serves on for a while: half a minute is for a cluster's load balancers, not for a test.
      epp: { flags: { "drain-timeout": "3s", "drain-grace": "10s", ...flags } },
    },
  };
}

async function done(args: readonly string[], given?: object): Promise<string> {
  const { code, stdout, stderr } = await helm.run([...args, "--namespace", namespace], given);
  if (code !== 0) throw new Error(`helm ${args.join(" ")}: ${stderr}\n${await cluster.story()}`);
  return stdout;
}

interface Slice {
  readonly endpoints?: readonly {
    readonly addresses: readonly string[];
    readonly conditions: { readonly ready?: boolean };
  }[];
}

/** Where the Service leads, as a node's proxy knows it. */
async function serviceAddresses(): Promise<readonly string[]> {
  const selector = encodeURIComponent(`kubernetes.io/service-name=${release}-epp`);
  const path = `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices?labelSelector=${selector}`;
  const slices = await cluster.list<Slice>(path);
  return slices
    .flatMap(({ endpoints }) => endpoints ?? [])
    .filter(({ conditions }) => conditions.ready !== false)
    .flatMap(({ addresses }) => addresses);
}

interface Load {
  /** Ends it; what was answered, by status or by the error. */
  stop(): Promise<ReadonlyMap<string, number>>;
  readonly sent: () => number;
}

/** Requests one after the other on four connections' worth, each to where the Service leads just then. */
function startLoad(): Load {
  const outcomes = new Map<string, number>();
  let isRunning = true;
  let sent = 0;
  const client = async (name: number): Promise<void> => {
    for (let turn = 0; isRunning; turn++) {
      const addresses = await serviceAddresses();
      const address = addresses[turn % Math.max(1, addresses.length)] ?? "";
      const outcome = await ask(address, "llm", `prompt ${name} ${turn}`, { port, stream: turn % 2 === 0 }).then(
        ({ status }) => String(status),
        (error: unknown) => String(error),
      );
      sent++;
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
  };
  const clients = [0, 1, 2, 3].map(client);
  return {
    sent: () => sent,
    async stop() {
      isRunning = false;
      await Promise.all(clients);
      return outcomes;
    },
  };
}

async function onlyPod(): Promise<ReadyPod> {
  const [pod] = await cluster.podsReady(namespace, label, 1);
  if (pod === undefined) throw new Error("no picker");
  return pod;
}

describe("a release of the standalone chart", () => {
  it("is ready when Helm says so, and routes to every model server", async () => {
    await done(["install", release, chartFolder("signalbox-standalone"), "--wait", "--timeout", "240s"], values());
    const { address } = await onlyPod();
    const workers = new Set<string>();
    await eventually(
      "every model server answers",
      async () => {
        const { status, worker } = await ask(address, "llm", `hello ${workers.size} ${Math.random()}`, { port });
        expect(status).toBe(200);
        workers.add(worker);
        return workers.size === 3;
      },
      120_000,
    );
  });

  it.each([
    [
      "an upgrade",
      () =>
        done(
          ["upgrade", release, chartFolder("signalbox-standalone"), "--wait", "--timeout", "240s"],
          values({ v: 3 }),
        ),
    ],
    ["a rollback", () => done(["rollback", release, "1", "--wait", "--timeout", "240s"])],
  ] as const)("loses no request to %s", async (_, change) => {
    const before = await onlyPod();
    const load = startLoad();
    await eventually("requests flow", () => Promise.resolve(load.sent() > 20), 60_000);
    await change();
    const after = await onlyPod();
    expect(after.uid).not.toBe(before.uid);
    const sent = load.sent();
    await eventually("requests flow on", () => Promise.resolve(load.sent() > sent + 20), 60_000);
    expect([...(await load.stop()).keys()]).toEqual(["200"]);
  });

  it("leaves nothing but the model servers", async () => {
    await done(["uninstall", release, "--wait", "--timeout", "240s"]);
    expect(await cluster.podsReady(namespace, label, 0)).toEqual([]);
    expect(await cluster.podsReady(namespace, "app=qwen", 3)).toHaveLength(3);
  });
});

describe("several replicas, with the rights that the chart grants", () => {
  const several = (epp: object): object => ({
    router: {
      modelServers: { matchLabels: { app: "qwen" } },
      epp: { replicas: 2, flags: { "drain-timeout": "1s", "drain-grace": "1s" }, ...epp },
      monitoring: { prometheus: { auth: { enabled: false } } },
    },
  });

  interface Pod {
    readonly metadata: { readonly name: string };
    readonly status: {
      readonly podIP?: string;
      readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    };
  }

  async function podsOf(name: string): Promise<readonly Pod[]> {
    const selector = encodeURIComponent(`app.kubernetes.io/instance=${name}`);
    return await cluster.list<Pod>(`/api/v1/namespaces/${namespace}/pods?labelSelector=${selector}`);
  }

  function isReady({ status: { conditions = [] } }: Pod): boolean {
    return conditions.some(({ type, status }) => type === "Ready" && status === "True");
  }

  /** Over a connection of its own: the pod goes, and one that is kept would hold the process. */
  function textOf(url: string): Promise<string> {
    return new Promise((resolve, reject) => {
      get(url, { agent: false, timeout: 10_000 }, (answer) => {
        let text = "";
        answer.setEncoding("utf8").on("data", (chunk: string) => {
          text += chunk;
        });
        answer.once("end", () => resolve(text));
        answer.once("error", reject);
      }).once("error", reject);
    });
  }

  it("hear each other when all are active", async () => {
    const values = several({ ha: { mode: "active-active" }, podDisruptionBudget: { enabled: true } });
    await done(["install", "wide", chartFolder("signalbox"), "--wait", "--timeout", "240s"], values);
    const pods = await cluster.podsReady(namespace, "app.kubernetes.io/instance=wide", 2);
    for (const { address } of pods) {
      await eventually(
        "both directions have their one peer",
        async () => {
          const metrics = await textOf(`http://${address}:9090/metrics`);
          return [...metrics.matchAll(/^llm_d_epp_peers\{direction="\w+"\} 1$/gm)].length === 2;
        },
        60_000,
      );
    }
    await done(["uninstall", "wide", "--wait", "--timeout", "240s"]);
  });

  it("are Dynamo's pickers of raw engines by its variables: one that comes takes the index of the other", async () => {
    const name = "engines";
    const [engine] = await cluster.podsReady(namespace, "app=qwen", 3);
    const variables = {
      DYN_EPP_MODE: "standalone",
      DYN_EPP_INFERENCE_POOL_NAME: name,
      DYN_MODEL_NAME: "qwen",
      DYN_KV_CACHE_BLOCK_SIZE: "16",
      DYN_EPP_TOKENIZER_SERVICE_URL: `http://${engine?.address}:8000`,
      DYN_EPP_TOKENIZER_PROTOCOL: "vllm-render",
      DYN_EPP_PEER_SERVICE: `${name}-epp-peers`,
      DYN_EPP_SELECTION_HTTP_PORT: "9093",
      POD_NAMESPACE: namespace,
    };
    await done(
      ["install", name, chartFolder("signalbox"), "--wait", "--timeout", "240s"],
      several({ ha: { mode: "active-active" }, env: variables }),
    );
    interface SetState {
      readonly index: { readonly heldBlocks: number };
      readonly replicas: { readonly peers: readonly string[]; readonly failure: string | null };
      readonly sharedIndex: { readonly recovery: string; readonly takenOverBlocks: number };
    }
    const stateOf = async ({ address }: ReadyPod): Promise<SetState> => {
      const plugins = JSON.parse(await textOf(`http://${address}:9090/debug/plugins/state`)) as Readonly<
        Record<string, { readonly sets: readonly [SetState] }>
      >;
      return (plugins["dynamo-prefill-router"] as { readonly sets: readonly [SetState] }).sets[0];
    };
    const selector = `app.kubernetes.io/instance=${name}`;
    const pods = await cluster.podsReady(namespace, selector, 2);
    for (const pod of pods) {
      let turn = 0;
      await eventually(
        "it follows an engine and has its one peer",
        async () => {
          // A block of the engine is told to whoever listens by then.
          turn += 1;
          const { status } = await ask(engine?.address ?? "", "llm", `${pod.name} ${turn} `.padEnd(64, "."), {
            port: 8000,
          });
          expect(status).toBe(200);
          const { index, replicas } = await stateOf(pod);
          return index.heldBlocks > 0 && replicas.peers.length === 1 && replicas.failure === null;
        },
        60_000,
      );
    }
    await cluster.remove({ apiVersion: "v1", kind: "Pod", name: pods[0]?.name ?? "", namespace });
    const newcomer = await eventually(
      "another is ready in its place",
      async () => {
        const now = await cluster.podsReady(namespace, selector, 2).catch(() => []);
        return now.find(({ uid }) => !pods.some((before) => before.uid === uid));
      },
      120_000,
    );
    const { sharedIndex, index } = await stateOf(newcomer);
    expect(sharedIndex.recovery).toBe("recovered");
    expect(sharedIndex.takenOverBlocks).toBeGreaterThan(0);
    expect(index.heldBlocks).toBeGreaterThanOrEqual(sharedIndex.takenOverBlocks);
    await done(["uninstall", name, "--wait", "--timeout", "240s"]);
  });

  it("have one that leads, and another when it is gone", async () => {
    await done(["install", "led", chartFolder("signalbox")], several({ ha: { warmFollowers: true } }));
    const leaderBesides = (gone: string): Promise<string> =>
      eventually(
        "one of two is ready",
        async () => {
          const pods = await podsOf("led");
          const [leader, ...others] = pods.filter(isReady);
          return pods.length === 2 && others.length === 0 && leader?.metadata.name !== gone
            ? leader?.metadata.name
            : undefined;
        },
        120_000,
      );
    const leader = await leaderBesides("");
    await cluster.remove({ apiVersion: "v1", kind: "Pod", name: leader, namespace });
    expect(await leaderBesides(leader)).not.toBe(leader);
    await done(["uninstall", "led", "--wait", "--timeout", "240s"]);
  });
});
