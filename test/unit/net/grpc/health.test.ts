import { type Client, credentials, type ServiceError } from "@grpc/grpc-js";
import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import { type HealthCheckResponse, HealthClient, type HealthListResponse } from "../../../../src/gen/health.ts";
import { createHealthServer, type HealthServer, type ServingStatus } from "../../../../src/net/grpc/health.ts";

const SERVING = 1;
const NOT_SERVING = 2;
const SERVICE_UNKNOWN = 3;

describe("the health service", () => {
  const statuses = new Map<string, ServingStatus>();
  const faults: unknown[] = [];
  let server: HealthServer;
  let client: InstanceType<typeof HealthClient>;

  beforeEach(async () => {
    statuses.clear();
    statuses.set("", "SERVING").set("readiness", "NOT_SERVING");
    faults.length = 0;
    server = await createHealthServer({
      host: "127.0.0.1",
      port: 0,
      status(service) {
        if (service === "broken") throw new Error("on purpose");
        return statuses.get(service) ?? "SERVICE_UNKNOWN";
      },
      services: () => [...statuses.keys()],
      onError: (error) => faults.push(error),
    });
    client = new HealthClient(`127.0.0.1:${server.port}`, credentials.createInsecure());
  });

  afterEach(async () => {
    (client as Client).close();
    await server.close();
  });

  function check(service: string): Promise<HealthCheckResponse | number> {
    return new Promise((resolve) => {
      client.check({ service }, (error: ServiceError | null, response) =>
        resolve(error === null ? response : error.code),
      );
    });
  }

  it("answers Check with the status of the service, or NOT_FOUND", async () => {
    expect(await check("")).toEqual({ status: SERVING });
    expect(await check("readiness")).toEqual({ status: NOT_SERVING });
    expect(await check("other")).toBe(5);
  });

  it("answers a status that throws with INTERNAL and reports it", async () => {
    expect(await check("broken")).toBe(13);
    expect(faults).toEqual([expect.objectContaining({ message: "on purpose" })]);
    expect(await check("")).toEqual({ status: SERVING });
  });

  it("lists every service", async () => {
    const listed = await new Promise<HealthListResponse>((resolve, reject) => {
      client.list({}, (error, response) => (error === null ? resolve(response) : reject(error)));
    });
    expect(listed.statuses).toEqual({ "": { status: SERVING }, readiness: { status: NOT_SERVING } });
  });

  it("tells a watcher each change once, an unknown service that appears included", async () => {
    const watch = client.watch({ service: "late" });
    const seen = watch[Symbol.asyncIterator]();
    const next = async (): Promise<number> => ((await seen.next()).value as HealthCheckResponse).status;
    expect(await next()).toBe(SERVICE_UNKNOWN);
    server.notify();
    statuses.set("late", "NOT_SERVING");
    server.notify();
    server.notify();
    expect(await next()).toBe(NOT_SERVING);
    statuses.set("late", "SERVING");
    server.notify();
    expect(await next()).toBe(SERVING);
    watch.on("error", () => {});
    watch.cancel();
  });

  it("forgets a watcher that has left", async () => {
    const watch = client.watch({ service: "" });
    watch.on("error", () => {});
    await new Promise((resolve) => watch.once("data", resolve));
    watch.cancel();
    await new Promise((resolve) => watch.once("close", resolve));
    statuses.set("", "NOT_SERVING");
    server.notify();
    expect(await check("")).toEqual({ status: NOT_SERVING });
    expect(faults).toEqual([]);
  });
});
