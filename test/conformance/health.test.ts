/** Health as gateways, kubelets and load balancers ask for it: gRPC on the health port, HTTP on the metrics port. */
import { type ClientReadableStream, credentials, type ServiceError } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import {
  type HealthCheckResponse,
  HealthClient,
  type HealthListResponse,
  HealthCheckResponse_ServingStatus as serving,
} from "../../src/gen/health.ts";
import { eventually } from "../stack.ts";
import { type Picker, startPicker } from "./picker.ts";

const extProcName = "envoy.service.ext_proc.v3.ExternalProcessor";
const readinessNames = ["", "readiness", "inference-extension", extProcName, "any-name-that-a-probe-may-ask"];

function check(client: HealthClient, service: string): Promise<number> {
  return new Promise((resolve, reject) => {
    client.check({ service }, (error: ServiceError | null, response: HealthCheckResponse) => {
      if (error === null) resolve(response.status);
      else reject(error);
    });
  });
}

function list(client: HealthClient): Promise<HealthListResponse> {
  return new Promise((resolve, reject) => {
    client.list({}, (error, response) => (error === null ? resolve(response) : reject(error)));
  });
}

/** Of startPicker. */
const poolName = "vllm-qwen3-32b-pool";

function watch(
  client: HealthClient,
  service: string,
): { readonly seen: number[]; readonly call: ClientReadableStream<HealthCheckResponse> } {
  const seen: number[] = [];
  const call = client.watch({ service });
  call.on("data", ({ status }: HealthCheckResponse) => seen.push(status));
  call.on("error", () => {});
  return { seen, call };
}

describe.each([
  ["with endpoints", 1],
  ["with an empty pool", 0],
])("%s", (_what, engines) => {
  let picker: Picker;
  let client: HealthClient;
  beforeAll(async () => {
    picker = await startPicker({ transport: "http2", tls: true, engines, args: ["--drain-timeout=10s"] });
    client = new HealthClient(`127.0.0.1:${picker.child.ready.healthPort}`, credentials.createInsecure());
  }, 30_000);
  afterAll(async () => {
    client.close();
    picker.child.signal("SIGTERM");
    await picker.close();
  });
  const http = async (path: string): Promise<number> =>
    (await fetch(`http://127.0.0.1:${picker.child.ready.metricsPort}${path}`)).status;

  it.each(["liveness", ...readinessNames])("Check answers SERVING to %j, plaintext", async (service) => {
    expect(await check(client, service)).toBe(serving.SERVING);
  });

  it("List names what probes ask for", async () => {
    const { statuses } = await list(client);
    expect(Object.keys(statuses).sort()).toEqual(
      ["", extProcName, "inference-extension", `inference-extension/${poolName}`, "liveness", "readiness"].sort(),
    );
    for (const answer of Object.values(statuses)) expect(answer?.status).toBe(serving.SERVING);
  });

  it("/healthz and /readyz answer 200", async () => {
    expect([await http("/healthz"), await http("/readyz")]).toEqual([200, 200]);
  });

  it("while draining, readiness in every form turns, liveness stays, and watchers are told of what changed", async () => {
    const [liveness, readiness] = [watch(client, "liveness"), watch(client, "readiness")];
    await eventually("both watches", () => Promise.resolve(liveness.seen.length + readiness.seen.length === 2));
    picker.child.signal("SIGTERM");
    await eventually("NOT_SERVING", () => Promise.resolve(readiness.seen.length === 2));
    expect(readiness.seen).toEqual([serving.SERVING, serving.NOT_SERVING]);
    expect(liveness.seen).toEqual([serving.SERVING]);
    expect(await check(client, "liveness")).toBe(serving.SERVING);
    for (const service of readinessNames)
      expect([service, await check(client, service)]).toEqual([service, serving.NOT_SERVING]);
    const { statuses } = await list(client);
    expect(statuses["liveness"]?.status).toBe(serving.SERVING);
    expect(statuses[extProcName]?.status).toBe(serving.NOT_SERVING);
    expect([await http("/healthz"), await http("/readyz")]).toEqual([200, 503]);
    liveness.call.cancel();
    readiness.call.cancel();
  });
});

describe.each(["http2", "grpc-js"] as const)("--health-checking over %s", (transport) => {
  it("answers SERVING on the ext-proc port itself, also with an empty pool", async () => {
    const picker = await startPicker({ transport, tls: false, engines: 0, args: ["--health-checking"] });
    const client = new HealthClient(`127.0.0.1:${picker.child.ready.grpcPort}`, credentials.createInsecure());
    try {
      expect(await check(client, extProcName)).toBe(serving.SERVING);
    } finally {
      client.close();
      await picker.close();
    }
  });
});
