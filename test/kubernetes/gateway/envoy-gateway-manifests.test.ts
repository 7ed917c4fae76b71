/**
 * deploy/gateways/envoy-gateway as it is in Envoy Gateway itself, over a stock Envoy: its policies bring requests to the picker over TLS and from there
 * to the destination. Read from files, Envoy Gateway knows neither host names of a cluster nor pods behind Services: addresses stand for both.
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

/** Of no other test of this namespace. */
const range = "10.79.0.0/16";
const workerAddresses = ["10.79.1.1", "10.79.1.2", "10.79.1.3"] as const;
const pickerAddress = "10.79.0.1";
const port = 18_889;
const group = "gateway.envoyproxy.io";

const pickerConfiguration = `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{ type: header-based-testing-filter }, { type: random-picker }]
schedulingProfiles:
  - name: default
    plugins: [{ pluginRef: header-based-testing-filter }, { pluginRef: random-picker }]
`;

/** What runs the proxy is the test's; what it is told is deploy's. */
const host: readonly ClusterObject[] = [
  {
    apiVersion: "gateway.networking.k8s.io/v1",
    kind: "GatewayClass",
    metadata: { name: "envoy-gateway" },
    spec: {
      controllerName: `${group}/gatewayclass-controller`,
      parametersRef: { group, kind: "EnvoyProxy", name: "host", namespace: "default" },
    },
  },
  {
    apiVersion: `${group}/v1alpha1`,
    kind: "EnvoyProxy",
    metadata: { name: "host", namespace: "default" },
    spec: { provider: { type: "Host", host: { envoyVersion } } },
  },
  {
    apiVersion: `${group}/v1alpha1`,
    kind: "Backend",
    metadata: { name: "model-servers", namespace: "default" },
    spec: { endpoints: workerAddresses.map((address) => ({ ip: { address, port: 8000 } })) },
  },
];

function adapted(object: ClusterObject): ClusterObject {
  const spec = object["spec"] as Readonly<Record<string, unknown>>;
  switch (object.kind) {
    case "Gateway":
      return { ...object, spec: { ...spec, listeners: [{ name: "http", protocol: "HTTP", port }] } };
    case "HTTPRoute":
      return {
        ...object,
        spec: { ...spec, rules: [{ backendRefs: [{ group, kind: "Backend", name: "model-servers" }] }] },
      };
    case "Backend":
      return { ...object, spec: { ...spec, endpoints: [{ ip: { address: pickerAddress, port: 9002 } }] } };
    default:
      return object;
  }
}

const told = new Set([
  "Gateway",
  "HTTPRoute",
  "Backend",
  "EnvoyExtensionPolicy",
  "BackendTrafficPolicy",
  "ClientTrafficPolicy",
]);

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
  const manifests = build({ base: "kubernetes", components: ["gateways/envoy-gateway"] }, "default")
    .filter(({ kind }) => told.has(kind))
    .map(adapted);
  expect(new Set(manifests.map(({ kind }) => kind))).toEqual(told);
  gateway = await startEnvoyGateway([...host, ...manifests], port);
}, 300_000);

afterAll(async () => {
  await gateway?.close();
  await picker?.close();
  await Promise.all(workers.map((worker) => worker.close()));
});

async function ask(selection: string, prompt: string): Promise<Response> {
  return await fetch(`http://127.0.0.1:${port}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "test-epp-endpoint-selection": selection, connection: "close" },
    body: JSON.stringify({ model: defaultModel, prompt, max_tokens: 3 }),
    signal: AbortSignal.timeout(60_000),
  });
}

describe("deploy/gateways/envoy-gateway in Envoy Gateway", () => {
  it.each(workerAddresses)("sends requests that the picker gives to %s there and nowhere else", async (address) => {
    for (let sent = 0; sent < 5; sent++) {
      const answer = await ask(address, "where to?");
      await answer.text();
      expect({ status: answer.status, worker: answer.headers.get("x-signalbox-worker") }).toEqual({
        status: 200,
        worker: address,
      });
    }
  });

  it("carries a prompt larger than what Envoy buffers by default", async () => {
    const answer = await ask(workerAddresses[2], "long ".repeat(20_000));
    await answer.text();
    expect({ status: answer.status, worker: answer.headers.get("x-signalbox-worker") }).toEqual({
      status: 200,
      worker: workerAddresses[2],
    });
  });

  it("refuses requests while there is no picker: it cannot fail open", async () => {
    await picker?.close();
    const answer = await ask(workerAddresses[0], "where to?");
    expect({ status: answer.status, worker: answer.headers.get("x-signalbox-worker") }).toEqual({
      status: 500,
      worker: null,
    });
  });
});
