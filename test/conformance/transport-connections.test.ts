/** Connections: limits, time-outs, back-pressure, certificates, draining and closing, for every transport. */
import { connect as connectTcp } from "node:net";
import { connect as connectTls } from "node:tls";
import { afterEach, describe, expect, it } from "@jest/globals";
import type { GrpcTransportOptions } from "../../src/net/grpc/transport.ts";
import { createSelfSigned } from "../../src/net/tls.ts";
import { FrameClient, requestHeaders } from "../unit/net/grpc/http2-frames.ts";
import {
  call,
  certificate,
  type Fixture,
  frame,
  implementations,
  openRaw,
  type Security,
  startFixture,
  until,
} from "./transport-fixture.ts";

/** The serial number of the certificate that a new connection is shown. */
function shownSerial(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connectTls({
      host: "127.0.0.1",
      port,
      servername: "localhost",
      rejectUnauthorized: false,
      ALPNProtocols: ["h2"],
    });
    socket.on("error", reject);
    socket.on("secureConnect", () => {
      resolve(socket.getPeerCertificate().serialNumber);
      socket.destroy();
    });
  });
}

describe.each(implementations)("connections of the %s transport", (name, create) => {
  let fixture: Fixture | undefined;

  async function start(
    options: Partial<GrpcTransportOptions> = {},
    security: Security = "plaintext",
  ): Promise<Fixture> {
    fixture = await startFixture(create, security, options);
    return fixture;
  }

  afterEach(async () => {
    await fixture?.close();
    fixture = undefined;
  });

  it("closes connections beyond its limit as they come and serves the others", async () => {
    const { transport, client } = await start({ maxConnections: 2 });
    expect((await call(client, "Echo", [Buffer.from("x")])).status).toBe(0);
    const sockets = [connectTcp(transport.port, "127.0.0.1"), connectTcp(transport.port, "127.0.0.1")];
    for (const socket of sockets) socket.on("error", () => {}).resume();
    await until("the limit", () => sockets.some((socket) => socket.destroyed));
    expect((await call(client, "Echo", [Buffer.from("x")])).status).toBe(0);
    for (const socket of sockets) socket.destroy();
  });

  it("refuses streams beyond its limit for all connections, and serves the next when one has ended", async () => {
    const { connect, client, heard } = await start({ maxStreams: 1 });
    const { stream } = openRaw(connect());
    stream.write(frame(Buffer.from("x")));
    await until("the stream", () => heard.length === 1);
    expect((await call(client, "Echo", [Buffer.from("y")])).status).toBe(14);
    stream.close();
    await until("the end", () => fixture?.transport.openStreams === 0);
    expect((await call(client, "Echo", [Buffer.from("y")])).status).toBe(0);
  });

  it("serves no more streams at once than its limit, and the next when one has ended", async () => {
    const { connect, heard } = await start({ maxStreamsPerConnection: 2 });
    const session = connect();
    await until("the settings", () => session.remoteSettings?.maxConcurrentStreams === 2);
    const streams = [openRaw(session), openRaw(session), openRaw(session)];
    for (const { stream } of streams) stream.write(frame(Buffer.from("x")));
    await until("two streams", () => heard.length === 2);
    streams[0]?.stream.end();
    await until("the third stream", () => heard.length === 3);
    for (const { stream } of streams.slice(1)) stream.end();
    for (const { done } of streams) expect(await done).toMatchObject({ messages: ["x"], status: "0" });
  });

  it("refuses a stream whose headers are too large, and no other", async () => {
    const { connect, heard } = await start({ maxHeaderBytes: 4096 });
    const session = connect();
    await until("the settings", () => session.remoteSettings?.maxHeaderListSize === 4096);
    // The limit holds from the moment that the client has acknowledged it to the library, which has the connection with its first stream.
    const first = openRaw(session);
    first.stream.end();
    expect((await first.done).status).toBe("0");
    const served = heard.length;
    const answer = await openRaw(session, "Echo", { "x-large": "h".repeat(8000) }).done;
    expect(answer.status).toBeUndefined();
    expect(heard).toHaveLength(served);
    const { stream, done } = openRaw(session);
    stream.end();
    expect((await done).status).toBe("0");
  });

  it("refuses to send a message above the send limit", async () => {
    const { client } = await start({ maxSendMessageBytes: 100 });
    expect((await call(client, "Echo", [Buffer.alloc(101)])).status).toBe(8);
    expect((await call(client, "Echo", [Buffer.alloc(100)])).status).toBe(0);
  });

  it("shows what a client that stops reading leaves pending, and says when it is gone", async () => {
    const { connect, heard } = await start();
    const { stream, received } = openRaw(connect({ initialWindowSize: 1000 }), "Script");
    stream.pause();
    stream.write(frame(Buffer.from("burst 40 10000")));
    await until("pending bytes", () => (heard[0]?.stream.pendingBytes ?? 0) > 300_000);
    expect(heard[0]?.events).not.toContain("drained");
    stream.resume();
    await until("the rest", () => received().length > 400_000);
    await until("drained", () => heard[0]?.events.includes("drained") ?? false);
    expect(heard[0]?.stream.pendingBytes).toBe(0);
    stream.end();
  });

  it("resets a stream whose client lets more pend than the limit", async () => {
    const { connect, heard, transport } = await start({ maxPendingBytes: 50_000 });
    const { stream } = openRaw(connect({ initialWindowSize: 1000 }), "Script");
    stream.pause();
    stream.write(frame(Buffer.from("burst 40 10000")));
    await until("the stream's start", () => heard.length === 1);
    // grpc-js has no reset of its own: its end waits behind what is queued.
    if (name === "grpc-js") stream.resume();
    await until("the stream's end", () => heard[0]?.events.at(-1) === "closed reset");
    expect(transport.openStreams).toBe(0);
  });

  it("closes a connection that has been without streams for the idle time, and none with one", async () => {
    const { connect, heard } = await start({ idleTimeoutMs: 60 });
    const idle = connect();
    const busy = connect();
    const { stream, done } = openRaw(busy);
    stream.write(frame(Buffer.from("x")));
    await until("the stream", () => heard[0]?.events.includes("message 1") ?? false);
    await until("the idle connection's end", () => idle.destroyed);
    await new Promise((resolve) => setTimeout(resolve, 120));
    expect(busy.destroyed).toBe(false);
    stream.end(frame(Buffer.from("y")));
    expect(await done).toMatchObject({ messages: ["x", "y"], status: "0" });
    await until("the other connection's end", () => busy.destroyed);
  });

  it.each(["plaintext", "TLS"] as const)("drops a %s connection that never says anything", async (security) => {
    const { transport } = await start({ handshakeTimeoutMs: 60, idleTimeoutMs: 60 }, security);
    const socket = connectTcp(transport.port, "127.0.0.1");
    socket.on("error", () => {});
    // Reading is what notices the end.
    socket.resume();
    await until("the connection's end", () => socket.destroyed);
  });

  it("drops a connection that speaks another protocol, and serves on", async () => {
    const { transport, client } = await start();
    const socket = connectTcp(transport.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.resume();
    socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    await until("the connection's end", () => socket.destroyed);
    expect((await call(client, "Echo", [])).status).toBe(0);
  });

  it("drops a connection with open streams that answers no PING", async () => {
    const { transport, heard } = await start({ keepaliveMs: 60 });
    // This client knows no PING.
    const silent = new FrameClient(transport.port);
    silent.write(requestHeaders(1, "/test.Test/Echo"));
    await until("the stream", () => heard.length === 1);
    await until("the stream's end", () => heard[0]?.events.some((event) => event.startsWith("closed")) ?? false);
    await until("the count", () => transport.openStreams === 0);
    silent.socket.destroy();
  });

  it("keeps a quiet connection with open streams that answers PING", async () => {
    // Longer than a busy machine takes to answer.
    const { connect, heard } = await start({ keepaliveMs: 150 });
    const session = connect();
    let pings = 0;
    session.on("ping", () => pings++);
    const { stream, done } = openRaw(session);
    stream.write(frame(Buffer.from("x")));
    await until("some pings", () => pings >= 4);
    expect(heard[0]?.events.some((event) => event.startsWith("closed"))).toBe(false);
    stream.end();
    expect(await done).toMatchObject({ messages: ["x"], status: "0" });
  });

  it("shows a new certificate to new connections and keeps the old ones open", async () => {
    const { transport, connect } = await start({}, "TLS");
    const { stream, done, received } = openRaw(connect());
    stream.write(frame(Buffer.from("before")));
    await until("the echo", () => received().length > 0);
    const serial = await shownSerial(transport.port);
    transport.setTls(await createSelfSigned());
    const renewed = await shownSerial(transport.port);
    expect(renewed).not.toBe(serial);
    stream.end(frame(Buffer.from("after")));
    expect(await done).toMatchObject({ messages: ["before", "after"], status: "0" });
  });

  it("refuses a pair that does not fit and keeps the one it has", async () => {
    const { transport } = await start({}, "TLS");
    const serial = await shownSerial(transport.port);
    const { cert } = await certificate();
    const { key } = await createSelfSigned();
    expect(() => transport.setTls({ cert, key })).toThrow();
    expect(await shownSerial(transport.port)).toBe(serial);
  });

  it("refuses a certificate when it serves plaintext", async () => {
    const { transport } = await start();
    const material = await certificate();
    expect(() => transport.setTls(material)).toThrow(/plaintext/);
  });

  it("lets open streams live while it drains, and takes no new connection", async () => {
    const { transport, connect } = await start();
    const { stream, done, received } = openRaw(connect());
    stream.write(frame(Buffer.from("one")));
    await until("the echo", () => received().length > 0);
    let drained = false;
    const draining = transport.drain().then(() => {
      drained = true;
    });
    const refused = connect();
    await until("the refusal", () => refused.destroyed);
    stream.write(frame(Buffer.from("two")));
    await until("the second echo", () => received().length > 12);
    expect(drained).toBe(false);
    stream.end();
    expect(await done).toMatchObject({ messages: ["one", "two"], status: "0" });
    await draining;
    expect(transport.openStreams).toBe(0);
  });

  it("drains at once when nothing is open, twice if asked", async () => {
    const { transport } = await start();
    await transport.drain();
    await transport.drain();
  });

  it("ends every stream when it closes", async () => {
    const { transport, connect, heard } = await start();
    const { stream, done } = openRaw(connect());
    stream.write(frame(Buffer.from("x")));
    await until("the stream", () => heard.length === 1);
    await transport.close();
    await done;
    expect(heard[0]?.events.at(-1)).toMatch(/^closed/);
    expect(transport.openStreams).toBe(0);
  });

  it("rejects when its port is taken", async () => {
    const { transport } = await start();
    await expect(startFixture(create, "plaintext", { port: transport.port })).rejects.toThrow();
  });
});
