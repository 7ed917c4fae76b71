/** `--health-checking`: the ext-proc port answers gRPC health checks too. */
import { credentials } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { HealthCheckResponse_ServingStatus, HealthClient } from "../../src/gen/health.ts";
import { eventually } from "../stack.ts";

describe.each(["http2", "grpc-js"])("health checks on the ext-proc port over %s", (transport) => {
  const pickers = new Map<boolean, Child<EppPorts>>();
  const started: Child<EppPorts>[] = [];
  beforeAll(async () => {
    for (const enabled of [true, false]) {
      const args = ["--endpoints=127.0.0.1:1", "--secure-serving=false", `--transport=${transport}`];
      pickers.set(enabled, await startEppChild([...args, "--drain-timeout=0s", `--health-checking=${enabled}`]));
    }
  }, 30_000);
  afterAll(async () => {
    for (const picker of [...pickers.values(), ...started]) await picker.close(0);
  });

  function check(
    picker: Child<EppPorts> | undefined,
    service = "envoy.service.ext_proc.v3.ExternalProcessor",
  ): Promise<number | string> {
    const client = new HealthClient(`127.0.0.1:${picker?.ready.grpcPort}`, credentials.createInsecure());
    return new Promise((resolve) => {
      client.check({ service }, (error, answer) => {
        client.close();
        resolve(error === null ? answer.status : error.details);
      });
    });
  }

  it("answers SERVING when asked for", async () => {
    expect(await check(pickers.get(true))).toBe(HealthCheckResponse_ServingStatus.SERVING);
  });

  it("answers for other names as the health port does, while it drains as well", async () => {
    const draining = await startEppChild([
      "--endpoints=127.0.0.1:1",
      "--secure-serving=false",
      `--transport=${transport}`,
      "--drain-timeout=60s",
      "--health-checking",
    ]);
    started.push(draining);
    const ask = (service?: string) => check(draining, service);
    const { SERVING, NOT_SERVING } = HealthCheckResponse_ServingStatus;
    expect(await ask("readiness")).toBe(SERVING);
    draining.signal("SIGTERM");
    await eventually("it says that it drains", async () => (await ask("readiness")) === NOT_SERVING);
    expect(await ask("liveness")).toBe(SERVING);
    expect(await ask()).toBe(SERVING);
    expect(await ask("inference-extension/nobody")).toBe(HealthCheckResponse_ServingStatus.SERVICE_UNKNOWN);
  });

  it("knows no such method otherwise", async () => {
    expect(await check(pickers.get(false))).toMatch(/unknown|unimplemented|not implement/i);
  });
});
