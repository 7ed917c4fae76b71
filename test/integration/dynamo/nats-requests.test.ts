/** Requests to workers over a real NATS server: taken and answered, not served, too large, the server away and back. */
import { afterEach, describe, expect, it } from "@jest/globals";
import { connect, type NatsConnection } from "@nats-io/transport-node";
import type { InstanceRecord } from "../../../src/dynamo/records.ts";
import type { CallEnd, RequestPlane } from "../../../src/dynamo/request-plane/contracts.ts";
import { createRequestPlane } from "../../../src/dynamo/request-plane/request-plane.ts";
import { requestPlaneSettings } from "../../../src/dynamo/request-plane/settings.ts";
import { startNats } from "../../nats.ts";
import { startFakeWorker, takePayload } from "../../unit/dynamo/request-plane/fake-worker.ts";

const subject = "ns_backend.generate-1a";
const instance: InstanceRecord = {
  type: "Endpoint",
  namespace: "ns",
  component: "backend",
  endpoint: "generate",
  instanceId: 26n,
  transport: { kind: "nats", subject },
  codec: "json",
};
const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function nats(args?: readonly string[]): ReturnType<typeof startNats> {
  const server = await startNats(args);
  closers.push(() => server.kill());
  return server;
}

async function plane(url: string): Promise<RequestPlane> {
  const settings = await requestPlaneSettings({ NATS_SERVER: url, DYN_NATS_REQUEST_TIMEOUT_SECS: "2" });
  const created = await createRequestPlane({ ...settings, host: "127.0.0.1" });
  closers.push(() => created.close());
  return created;
}

/** Serves the subject as Dynamo's workers do, a NATS service that acknowledges with nothing and dials back; answers each request with its body. */
async function serve(url: string): Promise<NatsConnection> {
  const dialler = await startFakeWorker();
  const connection = await connect({ servers: url });
  closers.push(
    () => connection.close(),
    () => dialler.close(),
  );
  connection.subscribe(subject, {
    callback: (_error, message) => {
      message.respond("");
      const { control, body, home } = takePayload(Buffer.from(message.data));
      void dialler.dial({ path: "", headers: {}, control, body, home }).then((line) => {
        line.header({ error: null });
        line.item(
          Buffer.from(
            JSON.stringify({ data: `${message.headers?.get("request-id")} ${body.toString()}`, complete_final: false }),
          ),
        );
        line.item(Buffer.from('{"complete_final":true}'));
        line.header("sentinel");
      });
    },
  });
  connection.subscribe("$SRV.INFO.ns_backend", {
    callback: (_error, message) => void message.respond(JSON.stringify({ endpoints: [{ name: "generate", subject }] })),
  });
  await connection.flush();
  return connection;
}

function call(
  to: RequestPlane,
  body: Uint8Array,
): Promise<{ readonly items: readonly string[]; readonly end: CallEnd }> {
  return new Promise((resolve) => {
    const items: string[] = [];
    const sink = {
      item: (data: Buffer) => void items.push(data.toString()),
      ended: (end: CallEnd) => resolve({ items, end }),
    };
    to.call(instance, body, { codec: "json", id: "one" }, sink);
  });
}

describe("requests over NATS", () => {
  it("are taken by whoever serves the subject, and answered over TCP", async () => {
    const { url } = await nats();
    await serve(url);
    const answer = await call(await plane(url), Buffer.from("hello"));
    expect(answer).toEqual({ items: ['"one hello"'], end: { kind: "complete" } });
  });

  it("fail at once where nobody serves the subject, and reach who does so later", async () => {
    const { url } = await nats();
    const requests = await plane(url);
    const startedMs = performance.now();
    expect((await call(requests, Buffer.from("{}"))).end).toMatchObject({ kind: "failed", reason: "unreachable" });
    expect(performance.now() - startedMs).toBeLessThan(1_900);
    expect(await requests.isServed(subject, 200)).toBe(false);
    const worker = await serve(url);
    expect(await requests.isServed(subject, 20_000)).toBe(true);
    expect(await requests.isServed(`${subject}b`, 200)).toBe(false);
    expect((await call(requests, Buffer.from("{}"))).items).toEqual(['"one {}"']);
    await worker.close();
    expect(await requests.isServed(subject, 200)).toBe(false);
  });

  it("are refused where they are larger than the server takes", async () => {
    const { url } = await nats();
    const requests = await plane(url);
    const { end } = await call(requests, Buffer.alloc(2 * 1024 * 1024));
    expect(end).toMatchObject({
      kind: "failed",
      reason: "rejected",
      message: expect.stringContaining("1048576 bytes"),
    });
  });

  it("fail where whoever serves the subject takes nothing", async () => {
    const { url } = await nats();
    const deaf = await connect({ servers: url });
    closers.push(() => deaf.close());
    deaf.subscribe(subject, { callback: () => undefined });
    await deaf.flush();
    const { end } = await call(await plane(url), Buffer.from("{}"));
    expect(end).toMatchObject({ kind: "failed", reason: "unreachable", message: expect.stringContaining("timeout") });
  });

  it("fail while the server is away, and go on when it is back", async () => {
    const server = await nats();
    const requests = await plane(server.url);
    await server.kill();
    expect((await call(requests, Buffer.from("{}"))).end).toMatchObject({ kind: "failed", reason: "unreachable" });
    expect(await requests.isServed(subject, 200)).toBe(false);
    await server.restart();
    await serve(server.url);
    expect((await call(requests, Buffer.from("{}"))).items).toEqual(['"one {}"']);
  });

  it("end when the plane is closed, connected or not", async () => {
    const { url } = await nats();
    const requests = await plane(url);
    const pending = call(requests, Buffer.from("{}"));
    await requests.close();
    expect((await pending).end).toMatchObject({ kind: "failed" });
    expect((await call(requests, Buffer.from("{}"))).end).toMatchObject({ kind: "failed", reason: "closed" });
  });
});
