/** Which way a connection's bytes go, whatever pieces its begin comes in, and whether requests are served on it. */
import { once } from "node:events";
import { createServer, type Http2Server, type ServerHttp2Session } from "node:http2";
import { type AddressInfo, connect, Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import { acceptAnyAuthority } from "../../../../src/net/grpc/accept-any-authority.ts";
import { endStream, frameType, http2Frame, requestHeaders } from "./http2-frames.ts";

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const settings = http2Frame(frameType.settings, 0, 0);
const ack = http2Frame(frameType.settings, 1, 0);
const body = http2Frame(frameType.data, endStream, 1, Buffer.from("body"));
const cluster = "outbound|9002||picker";
const maxConcurrentStreams = 77;
/** Several times what the clients here take on a busy machine. */
const handshakeTimeoutMs = 1_500;

describe("a server that accepts any authority", () => {
  let server: Http2Server;
  let sessions: ServerHttp2Session[];
  /** Of the first session, as it began: node wraps what is no socket in another kind. */
  let goesNodesWay: boolean | undefined;
  let authorities: string[];
  let faults: unknown[];
  let client: Socket;
  let answer: Buffer;

  beforeEach(async () => {
    [sessions, authorities, faults, goesNodesWay] = [[], [], [], undefined];
    const options = { settings: { maxConcurrentStreams } };
    server = createServer(options);
    acceptAnyAuthority(server, options, handshakeTimeoutMs);
    server.on("session", (session) => {
      sessions.push(session);
      goesNodesWay ??= Object.getPrototypeOf(session.socket) === Socket.prototype;
    });
    server.on("sessionError", (error) => faults.push(error));
    server.on("stream", (stream, headers) => {
      authorities.push(String(headers[":authority"]));
      stream.on("error", () => {});
      if (stream.destroyed) return;
      stream.respond({ ":status": 200 });
      stream.resume().once("end", () => stream.end("served"));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    answer = Buffer.alloc(0);
    client = connect({ port: (server.address() as AddressInfo).port, host: "127.0.0.1", noDelay: true });
    client.on("error", () => {});
    client.on("data", (bytes: Buffer) => (answer = Buffer.concat([answer, bytes])));
    await once(client, "connect");
  });

  afterEach(() => {
    client.destroy();
    for (const session of sessions) session.destroy();
    server.close();
  });

  const until = async (what: string, condition: () => boolean): Promise<void> => {
    for (const deadlineMs = performance.now() + 20_000; !condition(); await sleep(2)) {
      if (performance.now() > deadlineMs) throw new Error(`waited in vain for ${what}`);
    }
  };
  const served = () => until("the answer", () => answer.includes("served"));

  it("leaves a client to node that says all at once", async () => {
    client.write(Buffer.concat([preface, settings, requestHeaders(1, "/"), body]));
    await served();
    expect([goesNodesWay, authorities, faults]).toEqual([true, ["x"], []]);
  });

  it("tells a client that waits its limits, and leaves it to node as well", async () => {
    client.write(Buffer.concat([preface, settings]));
    await until("the settings", () => answer.length >= 9);
    const length = answer.readUIntBE(0, 3);
    const limits = Array.from({ length: length / 6 }, (_, at) => answer.subarray(9 + at * 6, 15 + at * 6));
    expect(limits.find((limit) => limit.readUInt16BE(0) === 3)?.readUInt32BE(2)).toBe(maxConcurrentStreams);
    client.write(Buffer.concat([ack, requestHeaders(1, "/"), body]));
    await served();
    // Those of node itself, which repeat what it knows nothing of.
    client.write(ack);
    await sleep(20);
    expect([goesNodesWay, authorities, faults, client.closed]).toEqual([true, ["x"], [], false]);
  });

  it("waits for the acknowledgement of a client whose request came before it", async () => {
    client.write(Buffer.concat([preface, settings]));
    await until("the settings", () => answer.length >= 9);
    client.write(requestHeaders(1, "/"));
    await sleep(20);
    client.write(Buffer.concat([body.subarray(0, 5)]));
    await sleep(20);
    expect(sessions).toEqual([]);
    client.write(Buffer.concat([body.subarray(5), ack]));
    await served();
    client.write(ack);
    await sleep(20);
    expect([goesNodesWay, faults, client.closed]).toEqual([true, [], false]);
  });

  it("filters a client that never acknowledges", async () => {
    client.write(Buffer.concat([preface, settings]));
    await until("the settings", () => answer.length >= 9);
    client.write(Buffer.concat([requestHeaders(1, "/"), body]));
    await served();
    expect([goesNodesWay, authorities]).toEqual([false, ["x"]]);
  });

  it.each([
    ["says all at once", false],
    ["waits for the settings", true],
  ])("filters a client of an Envoy cluster's name that %s", async (_, waits) => {
    client.write(Buffer.concat([preface, settings]));
    if (waits) await until("the settings", () => answer.length >= 9);
    client.write(Buffer.concat([waits ? ack : Buffer.alloc(0), requestHeaders(1, "/", {}, cluster), body]));
    await served();
    expect([goesNodesWay, authorities, faults]).toEqual([false, ["outbound-9002--picker"], []]);
  });

  it("serves a client whatever pieces its bytes come in", async () => {
    for (const byte of Buffer.concat([preface, settings, ack, requestHeaders(1, "/"), body])) {
      client.write(Buffer.from([byte]));
      await sleep(1);
    }
    await served();
    expect([authorities, faults]).toEqual([["x"], []]);
  });

  it("keeps a connection that is there for later, and serves it then", async () => {
    client.write(Buffer.concat([preface, settings]));
    await until("the settings", () => answer.length >= 9);
    client.write(ack);
    await until("the session", () => sessions.length === 1);
    client.write(Buffer.concat([requestHeaders(1, "/"), body]));
    await served();
    expect([client.closed, faults]).toEqual([false, []]);
  });

  it("answers a ping of a connection without streams, and serves it then", async () => {
    client.write(Buffer.concat([preface, settings]));
    await until("the settings", () => answer.length >= 9);
    const opaque = Buffer.from("signals!");
    client.write(Buffer.concat([ack, http2Frame(frameType.ping, 0, 0, opaque)]));
    await until("the answer to the ping", () => answer.includes(http2Frame(frameType.ping, 1, 0, opaque)));
    client.write(Buffer.concat([requestHeaders(1, "/"), body]));
    await served();
    expect([client.closed, faults]).toEqual([false, []]);
  });

  it.each([
    ["nothing", Buffer.alloc(0)],
    ["half a preface", preface.subarray(0, 10)],
    ["a preface alone", preface],
    ["half a field block", Buffer.concat([preface, settings, requestHeaders(1, "/").subarray(0, 20)])],
  ])("drops a client that says %s", async (_, bytes) => {
    client.write(bytes);
    await until("the end", () => client.closed);
    expect(sessions).toEqual([]);
  });

  it.each([
    ["at once", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", 0],
    ["in pieces", "PRI * HTTP/2.0 is no preface of HTTP/2", 5],
  ])("lets the library refuse %s what is not HTTP/2", async (_, text, first) => {
    const startedMs = performance.now();
    client.write(text.slice(0, first));
    await sleep(10);
    client.write(text.slice(first));
    await until("the end", () => client.closed);
    expect(performance.now() - startedMs).toBeLessThan(handshakeTimeoutMs - 50);
  });

  it("bounds what it keeps of a client that never asks for anything", async () => {
    client.write(Buffer.concat([preface, settings]));
    await until("the settings", () => answer.length >= 9);
    const startedMs = performance.now();
    client.write(http2Frame(0xfa, 0, 0, Buffer.alloc(5_000)));
    await until("the session", () => sessions.length === 1);
    expect(performance.now() - startedMs).toBeLessThan(handshakeTimeoutMs - 50);
  });

  it("bounds what it keeps of a client that never acknowledges", async () => {
    client.write(Buffer.concat([preface, settings]));
    await until("the settings", () => answer.length >= 9);
    client.write(requestHeaders(1, "/"));
    const startedMs = performance.now();
    for (let sent = 0; sent < 300; sent++) client.write(http2Frame(frameType.data, 0, 1, Buffer.alloc(1016)));
    await until("the session", () => sessions.length === 1);
    expect(performance.now() - startedMs).toBeLessThan(handshakeTimeoutMs - 50);
    expect(goesNodesWay).toBe(false);
  });
});
