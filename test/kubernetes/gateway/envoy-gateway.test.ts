/**
 * deploy/gateways/envoy-gateway in Envoy Gateway over a stock Envoy, which takes the destination from the header alone: it is given no metadata. Its
 * policies bring requests to the picker over TLS and from there to the destination. Read from files, Envoy Gateway knows neither host names of a
 * cluster nor pods behind Services: addresses stand for both.
 */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import {
  type Child,
  type EppPorts,
  startEppChild,
  startWorkersChild,
  type WorkerAddress,
} from "../../../src/app/child.ts";
import { defaultModel } from "../../stack.ts";
import type { ClusterObject } from "../cluster.ts";
import { build } from "../deploy/kustomize.ts";
import { runProgram } from "../kubelet/run-program.ts";
import { type EnvoyGateway, envoyVersion, startEnvoyGateway } from "./envoy-gateway.ts";

/** Envoy Gateway takes no loopback addresses for backends; these are local all the same. */
const range = "10.78.0.0/16";
const workerAddresses = ["10.78.1.1", "10.78.1.2", "10.78.1.3"] as const;
const pickerAddress = "10.78.0.1";
const port = 18_888;

const pickerConfiguration = `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{ type: header-based-testing-filter }, { type: random-picker }]
schedulingProfiles:
  - name: default
    plugins: [{ pluginRef: header-based-testing-filter }, { pluginRef: random-picker }]
`;

let workers: readonly Child<readonly WorkerAddress[]>[] = [];
let picker: Child<EppPorts> | undefined;
let gateway: EnvoyGateway | undefined;

beforeAll(async () => {
  await runProgram("ip", "route", "add", "local", range, "dev", "lo");
  workers = await Promise.all(
    workerAddresses.map((address) =>
      startWorkersChild(1, [`--host=${address}`, "--port=8000", `--name=${address}`], { timeoutMs: 60_000 }),
    ),
  );
  picker = await startEppChild(
    [
      `--bind-address=${pickerAddress}`,
      "--grpc-port=9002",
      `--endpoints=${workerAddresses.map((address) => `${address}:8000`).join(",")}`,
      `--config-text=${pickerConfiguration}`,
    ],
    { timeoutMs: 60_000 },
  );
  gateway = await startEnvoyGateway(resources(), port);
}, 300_000);

afterAll(async () => {
  await gateway?.close();
  await picker?.close();
  await Promise.all(workers.map((worker) => worker.close()));
  await runProgram("ip", "route", "delete", "local", range, "dev", "lo");
}, 60_000);

const group = "gateway.envoyproxy.io";
const namespace = "default";
const inNamespace = (name: string) => ({ name, namespace });

/** What a cluster has besides what deploy/ brings. */
const surroundings: readonly ClusterObject[] = [
  {
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "GatewayClass",
    metadata: { name: "envoy-gateway" },
    spec: {
      controllerName: `${group}/gatewayclass-controller`,
      parametersRef: { group, kind: "EnvoyProxy", ...inNamespace("host") },
    },
  },
  {
    apiVersion: `${group}/v1alpha1`,
    kind: "EnvoyProxy",
    metadata: inNamespace("host"),
    spec: { provider: { type: "Host", host: { envoyVersion } } },
  },
  {
    apiVersion: `${group}/v1alpha1`,
    kind: "Backend",
    metadata: inNamespace("model-servers"),
    spec: { endpoints: workerAddresses.map((address) => ({ ip: { address, port: 8000 } })) },
  },
];

/** Of deploy, what Envoy Gateway is told. */
const told = new Set([
  "Gateway",
  "HTTPRoute",
  "Backend",
  "EnvoyExtensionPolicy",
  "BackendTrafficPolicy",
  "ClientTrafficPolicy",
]);

function resources(): readonly ClusterObject[] {
  const deployed: readonly ClusterObject[] = build(
    { base: "kubernetes", components: ["gateways/envoy-gateway"] },
    namespace,
  ).filter(({ kind }) => told.has(kind));
  expect(new Set(deployed.map(({ kind }) => kind))).toEqual(told);
  return [...surroundings, ...deployed.map(adapted)];
}

/** Only addresses, the port, and what would let metadata through are changed. */
function adapted(object: ClusterObject): ClusterObject {
  const spec = object["spec"] as Readonly<Record<string, readonly object[]>>;
  switch (object.kind) {
    case "Gateway":
      return { ...object, spec: { ...spec, listeners: spec["listeners"]?.map((listener) => ({ ...listener, port })) } };
    case "HTTPRoute":
      return {
        ...object,
        spec: {
          ...spec,
          rules: spec["rules"]?.map((rule) => ({
            ...rule,
            backendRefs: [{ group, kind: "Backend", name: "model-servers" }],
          })),
        },
      };
    case "Backend":
      return { ...object, spec: { ...spec, endpoints: [{ ip: { address: pickerAddress, port: 9002 } }] } };
    case "EnvoyExtensionPolicy":
      return {
        ...object,
        spec: { ...spec, extProc: spec["extProc"]?.map((one) => ({ ...one, metadata: undefined })) },
      };
    default:
      return object;
  }
}

async function ask(selection: string, fields: object = {}): Promise<Response> {
  return await fetch(`http://127.0.0.1:${port}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "test-epp-endpoint-selection": selection, connection: "close" },
    body: JSON.stringify({ model: defaultModel, prompt: "where to?", max_tokens: 3, ...fields }),
    signal: AbortSignal.timeout(30_000),
  });
}

describe("Envoy Gateway with the picker", () => {
  it.each(workerAddresses)("sends requests that the picker gives to %s there and nowhere else", async (address) => {
    for (let sent = 0; sent < 10; sent++) {
      const answer = await ask(address);
      await answer.text();
      expect({ status: answer.status, worker: answer.headers.get("x-signalbox-worker") }).toEqual({
        status: 200,
        worker: address,
      });
    }
  });

  it("carries a streamed answer whole", async () => {
    const answer = await ask(workerAddresses[1], { stream: true, max_tokens: 60 });
    const lines = (await answer.text()).split("\n").filter((line) => line.startsWith("data: "));
    expect(answer.headers.get("x-signalbox-worker")).toBe(workerAddresses[1]);
    expect(lines.length).toBeGreaterThanOrEqual(60);
    expect(lines.at(-1)).toBe("data: [DONE]");
  });

  it("hands the picker's refusal to the client", async () => {
    const answer = await ask("10.78.9.9");
    expect(answer.status).toBe(429);
    expect(await answer.json()).toMatchObject({ error: { type: expect.any(String), message: expect.any(String) } });
  });

  it("carries a prompt larger than what Envoy buffers by default", async () => {
    const answer = await ask(workerAddresses[2], { prompt: "long ".repeat(20_000) });
    await answer.text();
    expect({ status: answer.status, worker: answer.headers.get("x-signalbox-worker") }).toEqual({
      status: 200,
      worker: workerAddresses[2],
    });
  });

  it("refuses requests while there is no picker: it cannot fail open", async () => {
    await picker?.close();
    const answer = await ask(workerAddresses[0]);
    expect({ status: answer.status, worker: answer.headers.get("x-signalbox-worker") }).toEqual({
      status: 500,
      worker: null,
    });
  });
});
