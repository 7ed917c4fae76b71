/** Streams: one table for every transport, with and without TLS, driven by a gRPC client and by raw HTTP/2. */
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import {
  call,
  type Fixture,
  frame,
  type Heard,
  implementations,
  openRaw,
  startFixture,
  until,
} from "./transport-fixture.ts";

const variants = implementations.flatMap(([name, create]) =>
  (["plaintext", "TLS"] as const).map((security) => ({ name, create, security })),
);

describe.each(variants)("the $name transport over $security", ({ name, create, security }) => {
  let fixture: Fixture;

  beforeAll(async () => {
    fixture = await startFixture(create, security);
  });

  afterAll(async () => {
    await fixture.close();
  });

  function lastHeard(): Heard {
    const heard = fixture.heard.at(-1);
    if (heard === undefined) throw new Error("no stream was opened");
    return heard;
  }

  async function heardUntilClosed(heard = lastHeard()): Promise<readonly string[]> {
    await until("the stream's end", () => heard.events.some((event) => event.startsWith("closed")));
    return heard.events;
  }

  it("echoes messages of any size in order and ends with OK", async () => {
    const messages = [0, 1, 5, 100, 16_384, 70_000, 1_000_000, 3].map((size) => Buffer.alloc(size, size % 251));
    const answer = await call(fixture.client, "Echo", messages);
    expect(answer.status).toBe(0);
    expect(answer.messages.map((message) => message.length)).toEqual(messages.map((message) => message.length));
    expect(Buffer.concat(answer.messages).equals(Buffer.concat(messages))).toBe(true);
    expect((await heardUntilClosed()).filter((event) => event !== "drained")).toEqual([
      ...messages.map((message) => `message ${message.length}`),
      "halfClosed",
      "closed ended",
    ]);
  });

  it("delivers what was sent before the status, whether or not the client has half-closed", async () => {
    const answer = await call(fixture.client, "Script", [Buffer.from("end 0")], { keepOpen: true });
    expect(answer).toMatchObject({ status: 0, messages: [Buffer.from("before the end")] });
    expect((await heardUntilClosed()).at(-1)).toBe("closed ended");
  });

  it.each(["plain words", "100 % and ünïcödé ✓"])("carries the status message %p", async (text) => {
    const answer = await call(fixture.client, "Script", [Buffer.from(`fail 9 ${text}`)], { keepOpen: true });
    expect(answer).toMatchObject({ status: 9, details: text, messages: [] });
    expect((await heardUntilClosed()).at(-1)).toBe("closed ended");
  });

  it("sends a status message after messages too", async () => {
    const answer = await call(fixture.client, "Script", [Buffer.from("end 5 gone: 50 %")], { keepOpen: true });
    expect(answer).toMatchObject({ status: 5, details: "gone: 50 %", messages: [Buffer.from("before the end")] });
  });

  it.each([
    [3, 10],
    [50, 400],
    [5, 5_000],
    [4, 30_000],
  ])("keeps %i messages of %i bytes sent in one tick apart and in order", async (count, size) => {
    const answer = await call(fixture.client, "Script", [Buffer.from(`burst ${count} ${size}`)]);
    expect(answer.messages.map((message) => [message.toString("latin1").split(":")[0], message.length])).toEqual(
      Array.from({ length: count }, (_, index) => [`${index}`, size + `${index}:`.length]),
    );
  });

  it("hands the client's metadata on", async () => {
    const options = { metadata: { "x-case": "value, with comma" } };
    expect(
      (await call(fixture.client, "Script", [Buffer.from("metadata x-case")], options)).messages[0]?.toString(),
    ).toBe("value, with comma");
    expect((await call(fixture.client, "Script", [Buffer.from("metadata x-none")])).messages[0]?.toString()).toBe(
      "undefined",
    );
  });

  it("answers an unknown method with UNIMPLEMENTED", async () => {
    expect((await call(fixture.client, "Nothing", [])).status).toBe(12);
  });

  it("ends a stream whose message is too large, and no other on the connection", async () => {
    const session = fixture.connect();
    const other = openRaw(session);
    const large = openRaw(session);
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(4 * 1024 * 1024 + 1, 1);
    large.stream.write(prefix);
    large.stream.write(Buffer.alloc(1000));
    expect((await large.done).status).toBe("8");
    other.stream.end(frame(Buffer.from("alive")));
    expect(await other.done).toMatchObject({ messages: ["alive"], status: "0" });
  });

  it("takes a message that comes byte by byte", async () => {
    const { stream, done } = openRaw(fixture.connect());
    const bytes = Buffer.concat([frame(Buffer.from("hello")), frame(Buffer.alloc(0)), frame(Buffer.from("world"))]);
    for (const byte of bytes) {
      await new Promise((resolve) => stream.write(Buffer.from([byte]), resolve));
    }
    stream.end();
    expect(await done).toMatchObject({ messages: ["hello", "", "world"], status: "0" });
  });

  it("takes any split of messages over DATA frames", async () => {
    const bytes = Buffer.concat([frame(Buffer.from("ab")), frame(Buffer.alloc(0)), frame(Buffer.from("cde"))]);
    const session = fixture.connect();
    const answers = await Promise.all(
      Array.from({ length: bytes.length + 1 }, async (_, splitAt) => {
        const { stream, done } = openRaw(session);
        await new Promise((resolve) => stream.write(bytes.subarray(0, splitAt), resolve));
        stream.end(bytes.subarray(splitAt));
        return done;
      }),
    );
    for (const answer of answers) expect(answer).toMatchObject({ messages: ["ab", "", "cde"], status: "0" });
  });

  it("ends with OK when the client only opens and half-closes", async () => {
    const { stream, done } = openRaw(fixture.connect());
    stream.end();
    expect(await done).toMatchObject({ httpStatus: 200, messages: [], status: "0" });
    expect(await heardUntilClosed()).toEqual(["halfClosed", "closed ended"]);
  });

  it("hears a reset as the end, once", async () => {
    const session = fixture.connect();
    const { stream, received } = openRaw(session);
    stream.write(frame(Buffer.from("x")));
    await until("the echo", () => received().length > 0);
    const heard = lastHeard();
    stream.close(2);
    const events = (await heardUntilClosed(heard)).filter((event) => event !== "drained");
    // node's client ends its side before it resets, as Envoy does when a client leaves.
    expect(events.filter((event) => event !== "halfClosed")).toEqual([
      "message 1",
      expect.stringMatching(/^closed (reset|ended)$/),
    ]);
    await until("the count", () => fixture.transport.openStreams === 0);
  });

  it("hears of a lost connection on every stream", async () => {
    const session = fixture.connect();
    const streams = [openRaw(session), openRaw(session)];
    for (const { stream } of streams) stream.write(frame(Buffer.from("x")));
    await until("the echoes", () => streams.every(({ received }) => received().length > 0));
    const heard = fixture.heard.slice(-2);
    fixture.sever(session);
    for (const one of heard) {
      const events = await heardUntilClosed(one);
      expect(events.filter((event) => event.startsWith("closed"))).toHaveLength(1);
      if (name === "http2") expect(events.at(-1)).toBe("closed connection-lost");
    }
    await until("the count", () => fixture.transport.openStreams === 0);
  });

  it("resets a stream when it is told to", async () => {
    const answer = await call(fixture.client, "Script", [Buffer.from("reset")], { keepOpen: true });
    expect(answer.status).toBe(1);
    expect((await heardUntilClosed()).at(-1)).toBe("closed reset");
  });

  it("turns a handler's exception into INTERNAL, reports it and serves on", async () => {
    const before = fixture.faults.length;
    expect((await call(fixture.client, "Script", [Buffer.from("throw")], { keepOpen: true })).status).toBe(13);
    expect(fixture.faults.slice(before)).toEqual([expect.objectContaining({ message: "on purpose" })]);
    expect((await call(fixture.client, "Echo", [Buffer.from("alive")])).status).toBe(0);
  });

  it("ignores what is sent after the end", async () => {
    await call(fixture.client, "Script", [Buffer.from("end 0")], { keepOpen: true });
    await heardUntilClosed();
    const { stream } = lastHeard();
    stream.send([Buffer.from("late")]);
    stream.end(13, "late");
    stream.reset();
    expect(stream.pendingBytes).toBe(0);
  });

  it.each([1, 100, 65_535])("fills a client's window of %i bytes again and again", async (initialWindowSize) => {
    const session = fixture.connect({ initialWindowSize });
    const { stream, done } = openRaw(session);
    const message = Buffer.alloc(initialWindowSize === 1 ? 60 : 5 * initialWindowSize + 7, "w");
    stream.end(frame(message));
    const answer = await done;
    expect(answer.status).toBe("0");
    expect(answer.messages).toEqual([message.toString()]);
  });

  it("inflates gzip", async () => {
    const { stream, done } = openRaw(fixture.connect(), "Echo", { "grpc-encoding": "gzip" });
    stream.write(frame(gzipSync(Buffer.from("squeezed")), 1));
    stream.end(frame(Buffer.from("plain")));
    expect(await done).toMatchObject({ messages: ["squeezed", "plain"], status: "0" });
  });

  it("stops inflating at the message limit", async () => {
    const { stream, done } = openRaw(fixture.connect(), "Echo", { "grpc-encoding": "gzip" });
    stream.write(frame(gzipSync(Buffer.alloc(5 * 1024 * 1024)), 1));
    expect((await done).status).toBe("8");
  });

  it("answers an encoding it does not know with UNIMPLEMENTED", async () => {
    const { stream, done } = openRaw(fixture.connect(), "Echo", { "grpc-encoding": "snappy" });
    stream.write(frame(Buffer.from("?"), 1));
    expect((await done).status).toBe("12");
  });

  it("answers what is no gRPC with 415", async () => {
    const { stream, done } = openRaw(fixture.connect(), "Echo", { "content-type": "application/json" });
    stream.end();
    expect((await done).httpStatus).toBe(415);
  });

  it("survives a thousand resets on one connection", async () => {
    const session = fixture.connect();
    for (let round = 0; round < 15; round++) {
      const streams = Array.from({ length: 100 }, () => openRaw(session));
      for (const { stream } of streams) stream.close(8);
      await Promise.all(streams.map(({ done }) => done));
    }
    const { stream, done } = openRaw(session);
    stream.end(frame(Buffer.from("alive")));
    expect(await done).toMatchObject({ messages: ["alive"], status: "0" });
  });
});
