/** What only frames can show: how Envoy ends streams, how replies are packed, and that no bytes bring the server down. */
import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import { createHttp2Transport } from "../../../../src/net/grpc/http2-transport.ts";
import type { GrpcStream, GrpcTransport } from "../../../../src/net/grpc/transport.ts";
import fc from "../../../properties.ts";
import { endStream, FrameClient, frameType, grpcMessage, http2Frame, requestHeaders } from "./http2-frames.ts";

const cancel = Buffer.from([0, 0, 0, 8]);
const internalError = Buffer.from([0, 0, 0, 2]);
const noError = Buffer.from([0, 0, 0, 0]);

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

class Allowance {
  held = 0;
  readonly limit: number;

  constructor(limit: number) {
    this.limit = limit;
  }

  take(bytes: number): boolean {
    if (this.held + bytes > this.limit) return false;
    this.held += bytes;
    return true;
  }

  give(bytes: number): void {
    this.held -= bytes;
  }
}

describe("the http2 transport, frame by frame", () => {
  let transport: GrpcTransport;
  let client: FrameClient;
  let events: string[];
  let faults: unknown[];
  let received: Allowance;
  let queued: Allowance;
  let act: (stream: GrpcStream, text: string) => void;

  beforeEach(async () => {
    events = [];
    faults = [];
    received = new Allowance(100_000);
    queued = new Allowance(500_000);
    act = (stream, text) => stream.send([Buffer.from(text)]);
    transport = await createHttp2Transport({
      host: "127.0.0.1",
      port: 0,
      tls: undefined,
      maxMessageBytes: 1 << 20,
      maxSendMessageBytes: undefined,
      maxStreamsPerConnection: 100,
      maxHeaderBytes: 64 * 1024,
      idleTimeoutMs: 0,
      handshakeTimeoutMs: 200,
      messageTimeoutMs: 150,
      receiveAllowance: received,
      sendAllowance: queued,
      methods: new Map([
        [
          "/t/t",
          (stream) => ({
            message(bytes) {
              events.push(bytes.toString());
              act(stream, bytes.toString());
            },
            halfClosed: () => events.push("halfClosed"),
            closed: (cause) => events.push(`closed ${cause}`),
          }),
        ],
      ]),
      onError: (error) => faults.push(error),
    });
    client = new FrameClient(transport.port);
  });

  afterEach(async () => {
    client.socket.destroy();
    await transport.close();
    expect(faults).toEqual([]);
  });

  const data = (text: string, flags = 0): Buffer => http2Frame(frameType.data, flags, 1, grpcMessage(text));

  it.each([
    ["CANCEL", cancel],
    ["INTERNAL_ERROR, as Envoy sends", internalError],
    ["NO_ERROR", noError],
  ])("hears RST_STREAM alone (%s) as a reset and not as a half-close", async (_name, code) => {
    client.write(requestHeaders(1, "/t/t"), data("x"));
    await until("the reply", () => client.of(frameType.data, 1).length > 0);
    client.write(http2Frame(frameType.resetStream, 0, 1, code));
    await until("the end", () => events.at(-1) === "closed reset");
    expect(events).toEqual(["x", "closed reset"]);
    expect(transport.openStreams).toBe(0);
  });

  it.each([
    ["at once", 0],
    ["after the reply", 1],
  ])("hears END_STREAM with RST_STREAM right behind it, %s, as one end", async (_name, replies) => {
    client.write(requestHeaders(1, "/t/t"), data("x"));
    await until("the reply", () => client.of(frameType.data, 1).length >= replies);
    client.write(http2Frame(frameType.data, endStream, 1), http2Frame(frameType.resetStream, 0, 1, internalError));
    await until("the end", () => events.at(-1) === "closed reset");
    expect(events.filter((event) => event !== "halfClosed")).toEqual(["x", "closed reset"]);
  });

  it.each(["outbound|9002||picker.ns.svc.cluster.local", "a b", "picker:9002"])(
    "takes streams of a client whose authority is %s",
    async (authority) => {
      for (const streamId of [1, 3]) {
        const message = http2Frame(frameType.data, 0, streamId, grpcMessage("x".repeat(streamId)));
        client.write(requestHeaders(streamId, "/t/t", {}, authority), message);
        await until("the reply", () => client.of(frameType.data, streamId).length > 0);
      }
      expect(events).toEqual(["x", "xxx"]);
    },
  );

  it("ends a stream whose message is never finished, and gives back what it held", async () => {
    const message = grpcMessage("y".repeat(50_000));
    client.write(requestHeaders(1, "/t/t"), data("x"), http2Frame(frameType.data, 0, 1, message.subarray(0, 10_000)));
    await until("the part", () => received.held > 0);
    await until("the end", () => events.at(-1)?.startsWith("closed") === true);
    expect(events.slice(0, 1)).toEqual(["x"]);
    expect(received.held).toBe(0);
    expect(transport.openStreams).toBe(0);
  });

  it("leaves a stream alone that is quiet between messages", async () => {
    client.write(requestHeaders(1, "/t/t"), data("x"), requestHeaders(3, "/t/t"));
    client.write(http2Frame(frameType.data, 0, 3, grpcMessage("z".repeat(50)).subarray(0, 10)));
    await until("the overdue one", () => transport.openStreams === 1);
    client.write(data("again"));
    await until("the quiet one's message", () => events.includes("again"));
  });

  it("leaves a half-closed stream open until it is ended", async () => {
    client.write(requestHeaders(1, "/t/t"), data("x", endStream));
    await until("the half-close", () => events.includes("halfClosed"));
    client.write(http2Frame(frameType.ping, 0, 0, Buffer.alloc(8)));
    await until("the pong", () => client.of(frameType.ping, 0).length > 0);
    expect(events).toEqual(["x", "halfClosed"]);
    expect(transport.openStreams).toBe(1);
  });

  it("sends the messages of one tick as one DATA frame, together with the response headers", async () => {
    act = (stream) => {
      for (let index = 0; index < 20; index++) stream.send([Buffer.from("head"), Buffer.from(` ${index}`)]);
    };
    client.write(requestHeaders(1, "/t/t"), data("x"));
    await until("the reply", () => client.of(frameType.data, 1).length > 0);
    expect(client.of(frameType.data, 1)).toHaveLength(1);
    const joined = client.reads.find((read) => read.some(({ type }) => type === frameType.data));
    expect(joined?.map(({ type }) => type)).toEqual(expect.arrayContaining([frameType.headers, frameType.data]));
  });

  it("dismisses a client that still sends when its stream has ended", async () => {
    act = (stream) => stream.end(0);
    client.write(requestHeaders(1, "/t/t"), data("x"));
    await until("the reset", () => client.of(frameType.resetStream, 1).length > 0);
    const order = client.frames.filter(({ streamId }) => streamId === 1).map(({ type }) => type);
    expect(order).toEqual([frameType.headers, frameType.resetStream]);
    expect(client.of(frameType.resetStream, 1)[0]?.payload).toEqual(noError);
    expect(events).toEqual(["x", "closed ended"]);
  });

  it("resets an ended stream whose client does not take the rest", async () => {
    act = (stream) => {
      stream.send([Buffer.alloc(200_000)]);
      stream.end(0);
    };
    client.write(requestHeaders(1, "/t/t"), data("x"));
    await until("the window's end", () => client.of(frameType.data, 1).length > 0);
    expect(events).toEqual(["x"]);
    await until("the reset", () => client.of(frameType.resetStream, 1).length > 0);
    expect(events).toEqual(["x", "closed reset"]);
  });

  it("bounds the unfinished messages of all streams together", async () => {
    const begun = Buffer.concat([Buffer.from([0, 0, 15, 0, 0]), Buffer.alloc(16_000)]);
    for (let streamId = 1; streamId < 40; streamId += 2) {
      client.write(requestHeaders(streamId, "/t/t"), http2Frame(frameType.data, 0, streamId, begun));
    }
    await until("refusals", () => client.frames.some(({ type }) => type === frameType.resetStream));
    expect(received.held).toBeLessThanOrEqual(received.limit);
    client.socket.destroy();
    await until("the end", () => transport.openStreams === 0);
    expect(received.held).toBe(0);
  });

  it("bounds what waits to be taken on all streams together", async () => {
    act = (stream) => stream.send([Buffer.alloc(200_000)]);
    for (const streamId of [1, 3, 5, 7, 9]) {
      client.write(requestHeaders(streamId, "/t/t"), http2Frame(frameType.data, 0, streamId, grpcMessage("x")));
    }
    await until("resets", () => events.includes("closed reset"));
    expect(transport.openStreams).toBeGreaterThan(0);
    expect(queued.held).toBeLessThanOrEqual(queued.limit);
    client.socket.destroy();
    await until("the end", () => transport.openStreams === 0);
    expect(queued.held).toBe(0);
  });

  it("gives the send allowance back when a client takes what waited", async () => {
    act = (stream) => stream.send([Buffer.alloc(200_000)]);
    client.write(requestHeaders(1, "/t/t"), data("x"));
    await until("the window's end", () => queued.held > 0);
    const grant = Buffer.from([0, 15, 0, 0]);
    client.write(http2Frame(frameType.windowUpdate, 0, 0, grant), http2Frame(frameType.windowUpdate, 0, 1, grant));
    await until("the rest", () => queued.held === 0);
    expect(transport.openStreams).toBe(1);
  });

  it("drops a connection that opens and resets streams in a loop, and no other", async () => {
    const attacker = new FrameClient(transport.port);
    let streamId = 1;
    for (let round = 0; round < 130; round++) {
      const frames: Buffer[] = [];
      for (let index = 0; index < 100; index++, streamId += 2) {
        frames.push(requestHeaders(streamId, "/t/t"), http2Frame(frameType.resetStream, 0, streamId, cancel));
      }
      attacker.write(...frames);
    }
    await until("the goodbye", () => attacker.socket.destroyed || attacker.of(frameType.goaway, 0).length > 0);
    attacker.socket.destroy();
    client.write(requestHeaders(1, "/t/t"), data("x"));
    await until("the reply", () => client.of(frameType.data, 1).length > 0);
  });

  it("ends with INTERNAL when the client ends within a message", async () => {
    client.write(
      requestHeaders(1, "/t/t"),
      http2Frame(frameType.data, endStream, 1, grpcMessage("cut").subarray(0, 6)),
    );
    await until("the end", () => events.length > 0);
    expect(events).toEqual(["closed ended"]);
  });

  it("takes padded DATA and unknown frame types", async () => {
    const message = grpcMessage("padded");
    const padded = Buffer.concat([Buffer.from([3]), message, Buffer.alloc(3)]);
    client.write(
      requestHeaders(1, "/t/t"),
      http2Frame(0xfa, 0, 1, Buffer.from("?")),
      http2Frame(frameType.data, 8, 1, padded),
    );
    await until("the message", () => events.length > 0);
    expect(events).toEqual(["padded"]);
  });

  it("announces its limits", async () => {
    await until("the settings", () => client.of(frameType.settings, 0).length > 0);
    const payload = client.of(frameType.settings, 0)[0]?.payload ?? Buffer.alloc(0);
    const settings = new Map<number, number>();
    for (let at = 0; at < payload.length; at += 6) settings.set(payload.readUInt16BE(at), payload.readUInt32BE(at + 2));
    expect(settings.get(3)).toBe(100);
    expect(settings.get(4)).toBe(1024 * 1024);
    expect(settings.get(6)).toBe(64 * 1024);
  });

  it("serves on whatever frames other connections send", async () => {
    const anyFrame = fc
      .tuple(fc.nat(10), fc.nat(255), fc.nat(5), fc.uint8Array({ maxLength: 60 }))
      .map(([type, flags, streamId, payload]) => http2Frame(type, flags, streamId, payload));
    const piece = fc.oneof(
      anyFrame,
      fc.constantFrom(requestHeaders(1, "/t/t"), requestHeaders(3, "/t/t"), data("x"), data("y", endStream)),
      fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes)),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(piece, { maxLength: 10 }), async (pieces) => {
        const other = new FrameClient(transport.port);
        other.write(...pieces);
        await new Promise((resolve) => other.socket.end(() => resolve(undefined)));
        other.socket.destroy();
      }),
      { numRuns: 60 },
    );
    client.write(requestHeaders(1, "/t/t"), data("alive"));
    await until("the reply", () => client.of(frameType.data, 1).length > 0);
    expect(events).toContain("alive");
    await until("the other streams' ends", () => transport.openStreams === 1);
  });
});
