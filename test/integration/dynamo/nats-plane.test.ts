/** The event plane over a real NATS server: hearing, publishing, losing the server and finding it again, with and without TLS. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import { generate } from "selfsigned";
import { createEventPlane } from "../../../src/dynamo/event-plane/create-event-plane.ts";
import { encodeEnvelope } from "../../../src/dynamo/event-plane/envelope.ts";
import type { EventPlane } from "../../../src/dynamo/event-plane/event-plane.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { startNats } from "../../nats.ts";
import { until } from "../../unit/dynamo/until.ts";

const scope = { namespace: "ns", component: "backend", endpoint: "generate" };
const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function nats(args?: readonly string[]): ReturnType<typeof startNats> {
  const server = await startNats(args);
  closers.push(() => server.kill());
  return server;
}

function plane(url: string, extra: Record<string, string> = {}): EventPlane {
  const created = createEventPlane({ DYN_EVENT_PLANE: "nats", NATS_SERVER: url, ...extra }, silentLogger);
  closers.push(() => created.close());
  return created;
}

describe("the event plane over NATS", () => {
  it("hears every publisher of the scope and topic, in order, and no other", async () => {
    const { url } = await nats();
    const [speaker, listener] = [plane(url), plane(url)];
    const heard: string[] = [];
    await listener.subscribe(scope, "kv-events", (payload, id) => heard.push(`${id}:${payload.toString()}`));
    await speaker.subscribe(scope, "other", () => {});
    const publishers = [await speaker.publish(scope, "kv-events"), await speaker.publish(scope, "kv-events")];
    const foreign = await speaker.publish({ ...scope, endpoint: "other" }, "kv-events");
    for (let index = 0; index < 100; index++)
      for (const publisher of [...publishers, foreign]) publisher.publish(Buffer.from(`n${index}`));
    await until(() => heard.length >= 200);
    for (const { publisherId } of publishers) {
      const own = heard.filter((text) => text.startsWith(`${publisherId}:`));
      expect(own).toEqual(Array.from({ length: 100 }, (_, index) => `${publisherId}:n${index}`));
    }
    expect(heard).toHaveLength(200);
    expect(publishers[0]?.channel.transport).toEqual({
      kind: "nats",
      subjectPrefix: "namespace.ns.component.backend.endpoint.generate",
    });
  });

  it("says when the server is away, seeks it for ever, and tells its return", async () => {
    const server = await nats();
    const [speaker, listener] = [plane(server.url), plane(server.url)];
    const heard: string[] = [];
    let returns = 0;
    listener.onReturn(() => returns++);
    await listener.subscribe(scope, "t", (payload) => heard.push(payload.toString()));
    const publisher = await speaker.publish(scope, "t");
    await until(() => !speaker.isAway);
    publisher.publish(Buffer.from("before"));
    await until(() => heard.includes("before"));
    await server.kill();
    await until(() => listener.isAway && speaker.isAway);
    publisher.publish(Buffer.from("lost"));
    await server.restart();
    await until(() => !listener.isAway && !speaker.isAway, 8000);
    await until(() => {
      publisher.publish(Buffer.from("after"));
      return heard.includes("after");
    });
    expect(heard).not.toContain("lost");
    expect(returns).toBe(2);
    expect(speaker.counters.dropped["send-queue"]).toBeGreaterThan(0);
  }, 20_000);

  it("starts without a server, and hears once there is one", async () => {
    const server = await nats();
    await server.stop();
    const listener = plane(server.url);
    const heard: string[] = [];
    const subscribed = listener.subscribe(scope, "t", (payload) => heard.push(payload.toString()));
    expect(listener.isAway).toBe(true);
    await server.restart();
    await subscribed;
    const speaker = plane(server.url);
    const publisher = await speaker.publish(scope, "t");
    await until(() => {
      publisher.publish(Buffer.from("hello"));
      return heard.length > 0;
    });
  }, 20_000);

  it("drops and counts what is no envelope, or of another topic", async () => {
    const { url } = await nats();
    const listener = plane(url);
    const heard: string[] = [];
    await listener.subscribe(scope, "t", (payload) => heard.push(payload.toString()));
    const { connect } = await import("@nats-io/transport-node");
    const raw = await connect({ servers: url });
    closers.push(() => raw.close());
    const subject = "namespace.ns.component.backend.endpoint.generate.t";
    raw.publish(subject, Buffer.from("noise"));
    raw.publish(subject, encodeEnvelope(1n, 1n, 1, "tt", Buffer.from("other")));
    raw.publish(subject, encodeEnvelope(1n, 2n, 1, "t", Buffer.from("good")));
    await until(() => heard.length > 0);
    expect(listener.counters.dropped).toMatchObject({ malformed: 1, topic: 1 });
  });

  it("trusts the certificate authority it is given, and no other", async () => {
    const folder = await mkdtemp(join(tmpdir(), "signalbox-nats-"));
    closers.push(() => rm(folder, { recursive: true, force: true }));
    const pair = await generate([{ name: "commonName", value: "nats" }], {
      keyType: "ec",
      curve: "P-256",
      algorithm: "sha256",
      extensions: [{ name: "subjectAltName", altNames: [{ type: 7, ip: "127.0.0.1" }] }],
    });
    const [certFile, keyFile] = [join(folder, "cert.pem"), join(folder, "key.pem")];
    await Promise.all([writeFile(certFile, pair.cert), writeFile(keyFile, pair.private)]);
    const { url } = await nats(["--tls", `--tlscert=${certFile}`, `--tlskey=${keyFile}`]);
    const trusting = plane(url, { NATS_TLS_CA_CERT_PATH: certFile });
    const distrusting = plane(url);
    const heard: string[] = [];
    await trusting.subscribe(scope, "t", (payload) => heard.push(payload.toString()));
    const publisher = await trusting.publish(scope, "t");
    publisher.publish(Buffer.from("secret"));
    await until(() => heard.includes("secret"));
    expect(distrusting.isAway).toBe(true);
  });
});
