/** `--health-checking`: the ext-proc port answers gRPC health checks too. */
import { credentials } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { HealthCheckResponse_ServingStatus, HealthClient } from "../../src/gen/health.ts";

describe.each(["http2", "grpc-js"])("health checks on the ext-proc port over %s", (transport) => {
  const pickers = new Map<boolean, Child<EppPorts>>();
  beforeAll(async () => {
    for (const enabled of [true, false]) {
      const args = ["--endpoints=127.0.0.1:1", "--secure-serving=false", `--transport=${transport}`];
      pickers.set(enabled, await startEppChild([...args, "--drain-timeout=0s", `--health-checking=${enabled}`]));
    }
  }, 30_000);
  afterAll(async () => {
    for (const picker of pickers.values()) await picker.close();
  });

  function check(enabled: boolean): Promise<number | string> {
    const client = new HealthClient(`127.0.0.1:${pickers.get(enabled)?.ready.grpcPort}`, credentials.createInsecure());
    return new Promise((resolve) => {
      client.check({ service: "envoy.service.ext_proc.v3.ExternalProcessor" }, (error, answer) => {
        client.close();
        resolve(error === null ? answer.status : error.details);
      });
    });
  }

  it("answers SERVING when asked for", async () => {
    expect(await check(true)).toBe(HealthCheckResponse_ServingStatus.SERVING);
  });

  it("knows no such method otherwise", async () => {
    expect(await check(false)).toMatch(/unknown|unimplemented|not implement/i);
  });
});
