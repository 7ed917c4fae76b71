/** The tests' own node does to pods what a kubelet does, as far as tests with gateways rely on it. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../../stack.ts";
import { type ControlPlane, startControlPlane } from "../control-plane.ts";
import { type Kubelet, startKubelet } from "./kubelet.ts";
import { nodeAddress } from "./pod-network.ts";

/** Answers with its environment, arguments and files, and is ready while /state/ready does not say otherwise. */
const program = `
const { createServer } = require("node:http");
const { existsSync, readFileSync, writeFileSync } = require("node:fs");
const say = (path) => { try { return readFileSync(path, "utf8"); } catch (error) { return error.code; } };
const write = (path) => { try { writeFileSync(path, "x"); return "written"; } catch (error) { return error.code; } };
createServer((request, response) => {
  if (request.url === "/ready") { response.statusCode = existsSync("/state/unready") ? 503 : 200; return response.end(); }
  if (request.url === "/unready") { writeFileSync("/state/unready", ""); return response.end(); }
  if (request.url === "/die") process.exit(1);
  response.end(JSON.stringify({
    env: process.env, args: process.argv.slice(1), config: say("/config/text"), root: write("/x"), state: write("/state/x"),
    account: say("/var/run/secrets/kubernetes.io/serviceaccount/namespace"), pid: process.pid,
  }));
}).listen(8000);
process.on("SIGTERM", () => process.exit(0));
`;

interface Answer {
  readonly env: Readonly<Record<string, string>>;
  readonly args: readonly string[];
  readonly config: string;
  readonly root: string;
  readonly state: string;
  readonly account: string;
  readonly pid: number;
}

interface PodObject {
  readonly metadata: { readonly deletionTimestamp?: string };
  readonly status: {
    readonly podIP?: string;
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
    readonly containerStatuses?: readonly { readonly restartCount: number }[];
  };
}

let plane: ControlPlane;
let kubelet: Kubelet;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "signalbox-kubelet-"));
  plane = await startControlPlane({ address: nodeAddress });
  kubelet = await startKubelet({
    api: plane.api,
    folder,
    caFile: await readFile(plane.certificates.ca),
    apiServer: { host: nodeAddress, port: plane.port },
    images: {
      "example/answers": {
        command: ["/runtime/node", "-e", program, "--"],
        mounts: { "/runtime/node": process.execPath },
      },
    },
  });
  await create("/api/v1/namespaces/default/serviceaccounts", { metadata: { name: "default" } });
  await create("/api/v1/namespaces/default/configmaps", { metadata: { name: "config" }, data: { text: "one" } });
});

afterAll(async () => {
  await kubelet?.close();
  await plane?.close();
  await rm(folder, { recursive: true, force: true });
});

async function create(path: string, object: object): Promise<void> {
  await plane.api.request({ method: "POST", path, body: JSON.stringify(object) });
}

async function pod(name: string): Promise<PodObject> {
  return JSON.parse(await plane.api.request({ path: `/api/v1/namespaces/default/pods/${name}` })) as PodObject;
}

function isReady({ status: { conditions = [] } }: PodObject): boolean {
  return conditions.some(({ type, status }) => type === "Ready" && status === "True");
}

async function startPod(name: string, container: object = {}): Promise<string> {
  await create("/api/v1/namespaces/default/pods", {
    metadata: { name },
    spec: {
      containers: [
        {
          name: "main",
          image: "example/answers:v1",
          args: ["--name=$(POD_NAME)"],
          env: [
            { name: "POD_NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
            { name: "POD_IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } },
          ],
          readinessProbe: { httpGet: { path: "/ready", port: 8000 }, failureThreshold: 1 },
          volumeMounts: [
            { name: "config", mountPath: "/config" },
            { name: "state", mountPath: "/state" },
          ],
          ...container,
        },
      ],
      volumes: [
        { name: "config", configMap: { name: "config" } },
        { name: "state", emptyDir: {} },
      ],
    },
  });
  return await eventually(
    `${name} is ready:\n${kubelet.lines.join("\n")}`,
    async () => {
      const { status } = await pod(name);
      return isReady(await pod(name)) && status.podIP;
    },
    60_000,
  );
}

async function ask(address: string): Promise<Answer> {
  return (await (await fetch(`http://${address}:8000/`, { headers: { connection: "close" } })).json()) as Answer;
}

describe("the tests' node", () => {
  it("runs a pod at an address of its own with its environment, arguments, volumes and account", async () => {
    const address = await startPod("plain");
    const answer = await ask(address);
    expect(address).toMatch(/^10\.77\./);
    expect(answer).toMatchObject({
      env: { POD_NAME: "plain", POD_IP: address, KUBERNETES_SERVICE_HOST: nodeAddress },
      args: ["--name=plain"],
      config: "one",
      root: "written",
      state: "written",
      account: "default",
    });
  });

  it("keeps the root folder of a container read-only where it asks for that", async () => {
    const answer = await ask(await startPod("locked", { securityContext: { readOnlyRootFilesystem: true } }));
    expect(answer).toMatchObject({ root: "EROFS", state: "written" });
  });

  it("takes readiness away from a pod that fails its probe", async () => {
    const address = await startPod("wavering");
    await fetch(`http://${address}:8000/unready`, { headers: { connection: "close" } });
    await eventually("it is not ready", async () => !isReady(await pod("wavering")), 30_000);
  });

  it("begins a container again when it has ended", async () => {
    const address = await startPod("mortal");
    const { pid } = await ask(address);
    await fetch(`http://${address}:8000/die`, { headers: { connection: "close" } }).catch(() => undefined);
    await eventually(
      "it is ready again",
      async () => {
        const now = await pod("mortal");
        return isReady(now) && now.status.containerStatuses?.[0]?.restartCount === 1;
      },
      30_000,
    );
    expect((await ask(address)).pid).not.toBe(pid);
  });

  it("brings a change of a config map to the files of a pod", async () => {
    const address = await startPod("reading");
    await plane.api.request({
      method: "PATCH",
      path: "/api/v1/namespaces/default/configmaps/config",
      contentType: "application/merge-patch+json",
      body: JSON.stringify({ data: { text: "two" } }),
    });
    await eventually("the pod reads it", async () => (await ask(address)).config === "two", 30_000);
  });

  it("ends a pod that is deleted, and says so", async () => {
    const address = await startPod("leaving");
    await plane.api.request({ method: "DELETE", path: "/api/v1/namespaces/default/pods/leaving" });
    await eventually(
      "the pod is gone",
      () =>
        pod("leaving").then(
          () => false,
          () => true,
        ),
      60_000,
    );
    await expect(ask(address)).rejects.toThrow();
  });
});
