import { credentials } from "@grpc/grpc-js";
import { afterEach, describe, expect, it } from "@jest/globals";
import { type Health, healthStatusOf, startHealth } from "../../../src/app/health.ts";
import { HealthClient, HealthCheckResponse_ServingStatus as serving } from "../../../src/gen/health.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";

const pools = ["a", "b"];
const open: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

async function health(ready: ReadonlySet<string | undefined>) {
  const server: Health = await startHealth({
    host: "127.0.0.1",
    port: 0,
    log: silentLogger,
    status: healthStatusOf({ isReady: (pool) => ready.has(pool), pools }),
    pools,
  });
  open.push(() => server.close());
  const client = new HealthClient(`127.0.0.1:${server.port}`, credentials.createInsecure());
  open.push(() => client.close());
  return {
    check: (service: string): Promise<number | undefined> =>
      new Promise((resolve) => {
        client.check({ service }, (error, answer) => resolve(error === null ? answer.status : undefined));
      }),
    list: (): Promise<readonly string[]> =>
      new Promise((resolve, reject) => {
        client.list({}, (error, answer) => (error === null ? resolve(Object.keys(answer.statuses)) : reject(error)));
      }),
  };
}

describe("the health port", () => {
  it("answers for the process by every usual name, and for each pool by its own", async () => {
    const { check } = await health(new Set([undefined, "a"]));
    for (const name of ["", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor", "any"]) {
      expect(await check(name)).toBe(serving.SERVING);
    }
    expect(await check("inference-extension/a")).toBe(serving.SERVING);
    expect(await check("inference-extension/b")).toBe(serving.NOT_SERVING);
    expect(await check("inference-extension/c")).toBeUndefined();
  });

  it("is live whatever is ready", async () => {
    const { check } = await health(new Set());
    expect(await check("liveness")).toBe(serving.SERVING);
    expect(await check("readiness")).toBe(serving.NOT_SERVING);
  });

  it("lists the pools beside the joint names", async () => {
    const { list } = await health(new Set());
    expect(await list()).toEqual(
      expect.arrayContaining(["", "inference-extension", "inference-extension/a", "inference-extension/b"]),
    );
  });
});
