/** The running picker in a cluster: several pools in one process, pools that come late or go, and a label selector in place of a pool. */
import { credentials } from "@grpc/grpc-js";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { HealthClient, HealthCheckResponse_ServingStatus as serving } from "../../src/gen/health.ts";
import { connectExtProc, requestBody, requestHeaders } from "../conformance/ext-proc-client.ts";
import { eventually } from "../stack.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { installDefinitions } from "./definitions.ts";
import { createPoolNamespace, type PoolNamespace, poolSpec } from "./pool-namespace.ts";

let plane: ControlPlane;
let count = 0;
const open: { close(): Promise<void> | void }[] = [];

beforeAll(async () => {
  plane = await startControlPlane();
  await installDefinitions(plane.api, "inference-extension");
}, 120_000);
afterAll(async () => {
  await plane?.close();
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
}, 30_000);

const place = (): Promise<PoolNamespace> => createPoolNamespace(plane, `pools-${++count}`);

interface Ports extends EppPorts {
  readonly pools?: readonly { readonly name: string; readonly grpcPort: number }[];
}

interface Picker {
  readonly child: Child<Ports>;
  readonly ports: Ports;
  /** What a request to this port is sent with; the status where it is refused. */
  readonly headers: (grpcPort: number) => Promise<Readonly<Record<string, string>> | number>;
  /** Where a request to this port is sent; the status where it is refused. */
  readonly destination: (grpcPort: number) => Promise<string | number>;
  /** Of a health service; undefined where there is none of the name. */
  readonly health: (service: string) => Promise<"SERVING" | "NOT_SERVING" | undefined>;
  readonly debug: <Answer>(path: string) => Promise<Answer>;
  readonly page: () => Promise<string>;
}

/** As the kubelet would give it, with the account of this folder. */
const inCluster = (folder: string): Readonly<Record<string, string>> => ({
  KUBECONFIG: "",
  KUBERNETES_SERVICE_HOST: "127.0.0.1",
  KUBERNETES_SERVICE_PORT: String(plane.port),
  SIGNALBOX_SERVICE_ACCOUNT_FOLDER: folder,
});

/** With an account that may look at pods and pools. */
async function picker(its: PoolNamespace, ...args: readonly string[]): Promise<Picker> {
  return await pickerIn(its, {}, args);
}

async function pickerIn(
  its: PoolNamespace,
  environment: Readonly<Record<string, string>>,
  args: readonly string[],
): Promise<Picker> {
  const child: Child<Ports> = await startEppChild(
    [
      `--pool-namespace=${its.namespace}`,
      "--secure-serving=false",
      "--drain-timeout=0s",
      "--pool-events=false",
      "--metrics-endpoint-auth=false",
      ...args,
    ],
    { environment: { ...inCluster(await its.account()), ...environment } },
  );
  open.push(child);
  const ports = child.ready;
  const client = new HealthClient(`127.0.0.1:${ports.healthPort}`, credentials.createInsecure());
  open.push(client);
  const admin = `http://127.0.0.1:${ports.metricsPort}`;
  const headers: Picker["headers"] = async (grpcPort) => {
    const extProc = connectExtProc(grpcPort, false);
    try {
      const [reply] = await extProc.exchange(
        [
          requestHeaders({ ":method": "POST", ":path": "/v1/completions" }),
          requestBody(JSON.stringify({ model: "m", prompt: "p" })),
        ],
        1,
      );
      if (reply?.kind === "immediate") return reply.status;
      return reply?.kind === "requestHeaders" ? reply.set : {};
    } finally {
      extProc.close();
    }
  };
  return {
    child,
    ports,
    headers,
    async destination(grpcPort) {
      const sent = await headers(grpcPort);
      return typeof sent === "number" ? sent : (sent["x-gateway-destination-endpoint"] ?? "");
    },
    health: (service) =>
      new Promise((resolve) => {
        client.check({ service }, (error, answer) => {
          if (error !== null) resolve(undefined);
          else resolve(answer.status === serving.SERVING ? "SERVING" : "NOT_SERVING");
        });
      }),
    debug: async <Answer>(path: string) => (await (await fetch(`${admin}/debug/${path}`)).json()) as Answer,
    page: async () => await (await fetch(`${admin}/metrics`)).text(),
  };
}

const becomes = (what: string, is: () => Promise<boolean>): Promise<boolean> => eventually(what, is, 30_000);

describe("a picker of two pools", () => {
  it("serves each on its own port and by its own health name; one that goes takes nothing of the other", async () => {
    const its = await place();
    await its.createPod("a-0", { labels: { app: "a" }, ips: ["127.80.0.1"] });
    await its.createPod("b-0", { labels: { app: "b" }, ips: ["127.80.0.2"] });
    await its.putPool("a", poolSpec({ app: "a" }, 8000));
    await its.putPool("b", poolSpec({ app: "b" }, 9000));
    const { ports, destination, health, debug, page } = await picker(its, "--pool-name=a", "--pool-name=b");
    await becomes("it is ready", async () => (await health("readiness")) === "SERVING");
    const [a, b] = ports.pools ?? [];
    expect([a?.name, b?.name, a?.grpcPort]).toEqual(["a", "b", ports.grpcPort]);
    expect(await destination(a?.grpcPort ?? 0)).toBe("127.80.0.1:8000");
    expect(await destination(b?.grpcPort ?? 0)).toBe("127.80.0.2:9000");
    expect(await health("inference-extension/a")).toBe("SERVING");
    expect(await health("inference-extension/b")).toBe("SERVING");
    expect(await health("inference-extension/c")).toBeUndefined();

    const metrics = await page();
    expect(metrics).toContain('inference_pool_ready_pods{pool="a",name="a"} ');
    expect(metrics).toMatch(/^inference_objective_request_total\{pool="b",model_name="m",.*\} 1$/m);
    expect(metrics.match(/^# TYPE inference_pool_ready_pods /gm)).toHaveLength(1);
    expect(await debug("endpoints")).toMatchObject({
      a: [{ address: "127.80.0.1:8000", discovery: { isStale: false, ageMs: 0 } }],
      b: [{ address: "127.80.0.2:9000" }],
    });
    expect(await debug("endpoints?pool=b")).toMatchObject([{ address: "127.80.0.2:9000" }]);

    await its.deletePool("b");
    await becomes("b is not served", async () => (await health("inference-extension/b")) === "NOT_SERVING");
    expect(await destination(b?.grpcPort ?? 0)).toBe(503);
    expect(await destination(a?.grpcPort ?? 0)).toBe("127.80.0.1:8000");
    expect(await health("readiness")).toBe("SERVING");
    expect(await debug("pools")).toMatchObject([
      { name: "a", readiness: { kind: "ready" }, endpoints: 1, kubernetes: { kind: "listed", pods: 1 } },
      { name: "b", readiness: { kind: "unserved", reason: "there is no such InferencePool" }, endpoints: 0 },
    ]);
    await its.putPool("b", poolSpec({ app: "b" }, 9001));
    await becomes("b is served again", async () => (await destination(b?.grpcPort ?? 0)) === "127.80.0.2:9001");
    expect(await health("inference-extension/b")).toBe("SERVING");
  });
});

describe("a picker of one pool", () => {
  it("lives without it, says once that it is missing, and serves it when it comes", async () => {
    const its = await place();
    await its.createPod("p-0", { labels: { app: "a" }, ips: ["127.80.0.1"] });
    const { child, ports, destination, health } = await picker(its, "--pool-name=late");
    await becomes("the pool is missed", () =>
      Promise.resolve(child.lines.some((line) => line.includes("there is no such InferencePool"))),
    );
    expect(await health("liveness")).toBe("SERVING");
    expect(await health("readiness")).toBe("NOT_SERVING");
    expect(await destination(ports.grpcPort)).toBe(503);
    await its.putPool("late", poolSpec({ app: "a" }, 8000));
    await becomes("it is ready", async () => (await health("readiness")) === "SERVING");
    expect(await destination(ports.grpcPort)).toBe("127.80.0.1:8000");
    expect(child.lines.filter((line) => line.includes("there is no such InferencePool"))).toHaveLength(1);
  });

  it("is not ready before the API server has spoken, and is soon after", async () => {
    const its = await place();
    await its.createPod("p-0", { labels: { app: "a" }, ips: ["127.80.0.1"] });
    await its.putPool("p", poolSpec({ app: "a" }, 8000));
    const folder = await its.account();
    await plane.stopApiServer();
    let metricsPort = 0;
    try {
      const child = await startEppChild(
        [`--pool-namespace=${its.namespace}`, "--pool-name=p", "--secure-serving=false", "--drain-timeout=0s"],
        { environment: inCluster(folder) },
      );
      open.push(child);
      ({ metricsPort } = child.ready);
      expect((await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).status).toBe(503);
    } finally {
      await plane.startApiServer();
    }
    await becomes("it is ready", async () => (await fetch(`http://127.0.0.1:${metricsPort}/readyz`)).ok);
  }, 120_000);

  it("ends at once with one line where there is no way to an API server", async () => {
    const failed = startEppChild(["--pool-name=p"], {
      environment: { KUBECONFIG: "", KUBERNETES_SERVICE_HOST: "", HOME: "/nonexistent" },
    });
    await expect(failed).rejects.toThrow(
      /^signalbox epp: endpoints come from Kubernetes, and there is no way to it: /m,
    );
  });
});

describe("a picker of raw engines with a pool that computes prompts", () => {
  it("leads to the first pool and names a server of the other, while there is one", async () => {
    const its = await place();
    await its.createPod("decode-0", { labels: { app: "decode" }, ips: ["127.80.7.1"] });
    await its.createPod("prefill-0", { labels: { app: "prefill", "llm-d.ai/role": "both" }, ips: ["127.80.7.2"] });
    await its.putPool("decode", poolSpec({ app: "decode" }, 8000));
    const { ports, headers, health, debug } = await pickerIn(
      its,
      {
        DYN_EPP_MODE: "standalone",
        DYN_EPP_INFERENCE_POOL_NAME: "decode",
        DYN_EPP_PREFILL_INFERENCE_POOL_NAME: "prefill",
        POD_NAMESPACE: its.namespace,
        DYN_MODEL_NAME: "m",
        // Nobody listens there: requests go by load alone.
        DYN_EPP_TOKENIZER_SERVICE_URL: "http://127.0.0.1:9",
        DYN_EPP_TOKENIZER_PROTOCOL: "vllm-render",
        DYN_KV_CACHE_BLOCK_SIZE: "16",
        DYN_ROUTER_USE_KV_EVENTS: "false",
      },
      [],
    );
    const isReady = async (): Promise<boolean> => (await health("readiness")) === "SERVING";
    await becomes("it is ready without a pool that there is not", isReady);
    const legs = async (): Promise<readonly unknown[]> => {
      const sent = await headers(ports.grpcPort);
      if (typeof sent === "number") return [sent];
      return [sent["x-gateway-destination-endpoint"], sent["x-prefiller-host-port"]];
    };
    const alone = ["127.80.7.1:8000", undefined];
    const both = ["127.80.7.1:8000", "127.80.7.2:9000"];
    const areLegs = (expected: readonly unknown[]) => async (): Promise<boolean> =>
      JSON.stringify(await legs()) === JSON.stringify(expected);
    expect(await legs()).toEqual(alone);
    await its.putPool("prefill", poolSpec({ app: "prefill" }, 9000));
    await becomes("a prefill server is named", areLegs(both));
    const seen = await debug<readonly { readonly name: string; readonly labels: object }[]>("endpoints");
    expect(seen.map(({ name, labels }) => [name, labels])).toEqual([
      [`${its.namespace}/decode-0-rank-0`, { app: "decode" }],
      [`${its.namespace}/prefill-0-rank-0`, { app: "prefill", "llm-d.ai/role": "prefill" }],
    ]);
    for (let i = 0; i < 6; i++) expect(await legs()).toEqual(both);
    await its.setStatus("prefill-0", { ips: ["127.80.7.2"], ready: false });
    await becomes("none is named", areLegs(alone));
    await its.setStatus("prefill-0", { ips: ["127.80.7.2"] });
    await becomes("it is named again", areLegs(both));
    await its.deletePool("prefill");
    await becomes("none is named without the pool", areLegs(alone));
    expect(await isReady()).toBe(true);
  });
});

describe("a picker with a label selector", () => {
  it("has the pods that it selects, with each port an endpoint, and knows no pools", async () => {
    const its = await place();
    for (const [name, tier, ip] of [
      ["p-0", "gold", "127.80.0.1"],
      ["p-1", "silver", "127.80.0.2"],
      ["p-2", "tin", "127.80.0.3"],
    ] as const) {
      await its.createPod(name, { labels: { app: "a", tier }, ips: [ip] });
    }
    const { health, debug } = await picker(
      its,
      "--endpoint-selector=app=a,tier in (gold, silver)",
      "--endpoint-target-ports=8000,8001",
    );
    await becomes("it is ready", async () => (await health("readiness")) === "SERVING");
    const endpoints = await debug<readonly { readonly name: string; readonly address: string }[]>("endpoints");
    expect(endpoints.map(({ name, address }) => `${name}=${address}`)).toEqual([
      `${its.namespace}/p-0-rank-0=127.80.0.1:8000`,
      `${its.namespace}/p-0-rank-1=127.80.0.1:8001`,
      `${its.namespace}/p-1-rank-0=127.80.0.2:8000`,
      `${its.namespace}/p-1-rank-1=127.80.0.2:8001`,
    ]);
  });
});
