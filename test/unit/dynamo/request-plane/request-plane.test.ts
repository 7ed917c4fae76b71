/** The request plane client against a worker of plain sockets: what it sends, and every way in which a call can end. */
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import { generate } from "selfsigned";
import type {
  CallEnd,
  CallOptions,
  PendingCall,
  RequestPlane,
} from "../../../../src/dynamo/request-plane/contracts.ts";
import { AckReader, encodeRequestFrame } from "../../../../src/dynamo/request-plane/request-frame.ts";
import { createRequestPlane } from "../../../../src/dynamo/request-plane/request-plane.ts";
import { type RequestPlaneSettings, requestPlaneSettings } from "../../../../src/dynamo/request-plane/settings.ts";
import { readAnnotated, readStreamItem } from "../../../../src/dynamo/request-plane/stream-item.ts";
import { encodeTwoPart, TwoPartReader } from "../../../../src/dynamo/request-plane/two-part.ts";
import fc from "../../../properties.ts";
import { until } from "../until.ts";
import { wires } from "../wires.ts";
import { type FakeTls, type FakeWorker, startFakeWorker } from "./fake-worker.ts";

const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function plane(settings: Partial<RequestPlaneSettings> = {}): Promise<RequestPlane> {
  const created = await createRequestPlane({ host: "127.0.0.1", ...settings });
  closers.push(() => created.close());
  return created;
}

async function worker(...options: Parameters<typeof startFakeWorker>): Promise<FakeWorker> {
  const started = await startFakeWorker(...options);
  closers.push(() => started.close());
  return started;
}

interface Heard {
  readonly call: PendingCall;
  readonly items: string[];
  readonly ends: CallEnd[];
  readonly ended: Promise<CallEnd>;
  starts: number;
}

function call(to: RequestPlane, { instance }: FakeWorker, body = "{}", options: Partial<CallOptions> = {}): Heard {
  const items: string[] = [];
  const ends: CallEnd[] = [];
  let resolve: (end: CallEnd) => void = () => {};
  const ended = new Promise<CallEnd>((done) => (resolve = done));
  const heard = { items, ends, ended, starts: 0 };
  const pending = to.call(
    instance,
    Buffer.from(body),
    { codec: "json", ...options },
    {
      started: () => heard.starts++,
      item: (data) => items.push(data.toString()),
      ended: (end) => {
        ends.push(end);
        resolve(end);
      },
    },
  );
  return Object.assign(heard, { call: pending });
}

const wrapped = (data: unknown): Buffer => Buffer.from(JSON.stringify({ data, complete_final: false }));
const final = Buffer.from('{"complete_final":true}');

/** Answers every request with these items. */
const answering =
  (...items: unknown[]) =>
  (request: Parameters<FakeWorker["dial"]>[0], from: FakeWorker): void => {
    void from.dial(request).then((line) => {
      line.header({ error: null });
      for (const item of items) line.item(wrapped(item));
      line.item(final);
      line.header("sentinel");
    });
  };

describe("a call", () => {
  it("sends path, headers, control message and body as the worker expects them", async () => {
    const to = await plane();
    const from = await worker(answering(1));
    const { ended, call: pending } = call(to, from, '{"token_ids":[1]}', {
      headers: { traceparent: "00-1" },
      metadata: { foo: "bar" },
    });
    await ended;
    const [request] = from.requests;
    expect(request?.path).toBe("1a/ns/backend/generate");
    expect(request?.headers).toEqual({
      "request-id": pending.id,
      traceparent: "00-1",
      "x-endpoint-path": "1a/ns/backend/generate",
    });
    expect(request?.body.toString()).toBe('{"token_ids":[1]}');
    expect(request?.control).toMatchObject({
      id: pending.id,
      request_type: "single_in",
      response_type: "many_out",
      payload_codec: "json",
      metadata: { foo: "bar" },
    });
    expect(request?.home).toMatchObject({ address: to.address, context: pending.id, stream_type: "response" });
  });

  it("hands on the items in order and ends complete", async () => {
    const heard = call(await plane(), await worker(answering({ a: 1 }, "two", [3])));
    expect(await heard.ended).toEqual({ kind: "complete" });
    expect(heard.items).toEqual(['{"a":1}', '"two"', "[3]"]);
    expect(heard.starts).toBe(1);
  });

  it("shares one connection with the calls after it, and opens more when that is busy", async () => {
    const to = await plane();
    const from = await worker(answering(1));
    for (let index = 0; index < 5; index++) await call(to, from).ended;
    expect(from.connections).toBe(1);
    const many = Array.from({ length: 100 }, (_, index) => call(to, from, `{"n":${index}}`));
    for (const { ended } of many) expect(await ended).toEqual({ kind: "complete" });
    expect(from.connections).toBeGreaterThan(1);
    expect(from.connections).toBeLessThanOrEqual(4);
    expect(to.counters).toMatchObject({ calls: 105, completed: 105, strangers: 0 });
  });

  it.each([
    ["Server overloaded: worker at capacity", "overloaded"],
    ["Server unavailable: unknown endpoint x", "unavailable"],
    ["Unknown endpoint: x", "rejected"],
    ["Decode error: x", "rejected"],
  ])("ends when the worker acknowledges with %j", async (text, reason) => {
    const heard = call(await plane(), await worker(undefined, () => text));
    expect(await heard.ended).toEqual({ kind: "failed", reason, message: text });
  });

  it("matches acknowledgements to requests by their order", async () => {
    const to = await plane({ connectionsPerWorker: 1 });
    const from = await worker(
      (request, self) => (request.body.toString() === "1" ? answering("ok")(request, self) : undefined),
      ({ body }) => (body.toString() === "1" ? "" : "Server overloaded: x"),
    );
    const calls = ["0", "1", "0"].map((body) => call(to, from, body));
    expect((await Promise.all(calls.map(({ ended }) => ended))).map(({ kind }) => kind)).toEqual([
      "failed",
      "complete",
      "failed",
    ]);
  });

  it("ends as unreachable when nobody listens, and the next call tries again", async () => {
    const to = await plane();
    const from = await worker(answering(1));
    await from.close();
    closers.pop();
    for (let index = 0; index < 2; index++)
      expect(await call(to, from).ended).toMatchObject({ kind: "failed", reason: "unreachable" });
    expect(to.counters.connections).toBe(0);
  });

  it("ends as unreachable when the acknowledgement is overdue", async () => {
    const to = await plane({ ackTimeoutMs: 30 });
    const heard = call(to, await worker(undefined, () => undefined));
    expect(await heard.ended).toMatchObject({ reason: "unreachable", message: expect.stringContaining("acknowledge") });
  });

  it("ends when a worker takes the request and never dials back; if it does later it is told to stop", async () => {
    const to = await plane({ answerTimeoutMs: 30 });
    const from = await worker();
    const heard = call(to, from);
    expect(await heard.ended).toMatchObject({ reason: "no-answer" });
    const line = await from.dial(from.requests[0] as (typeof from.requests)[0]);
    await until(() => line.controls.length > 0);
    expect(line.controls).toEqual(['"kill"']);
  });

  it("ends as refused when generate() failed before the first item, with the worker's own error", async () => {
    const to = await plane();
    const from = await worker((request, self) => {
      void self.dial(request).then((line) => line.header({ error: "no room", typed_error: { class: "Overload" } }));
    });
    expect(await call(to, from).ended).toEqual({
      kind: "failed",
      reason: "refused",
      message: "no room",
      typedError: { class: "Overload" },
    });
  });

  it.each([
    ["the connection ends", (line: { end(): void }) => line.end()],
    ["a sentinel comes", (line: { header(value: unknown): void }) => line.header("sentinel")],
  ])("ends as disconnected when %s before the answer is complete", async (_name, cut) => {
    const from = await worker((request, self) => {
      void self.dial(request).then((line) => {
        line.header({ error: null });
        line.item(wrapped(1));
        cut(line);
      });
    });
    const heard = call(await plane(), from);
    expect(await heard.ended).toMatchObject({ reason: "disconnected" });
    expect(heard.items).toEqual(["1"]);
  });

  it.each([
    ["no prologue", (line: { item(body: Buffer): void }) => line.item(wrapped(1))],
    [
      "an item that is none",
      (line: { header(value: unknown): void; item(body: Buffer): void }) => {
        line.header({ error: null });
        line.item(Buffer.from("[1]"));
      },
    ],
  ])("ends as a protocol error on %s", async (_name, say) => {
    const from = await worker((request, self) => void self.dial(request).then(say));
    expect(await call(await plane(), from).ended).toMatchObject({ reason: "protocol" });
  });

  it("ends when an item is larger than its bound, without taking memory for it", async () => {
    const from = await worker((request, self) => {
      void self.dial(request).then((line) => {
        line.header({ error: null });
        const prefix = Buffer.alloc(24);
        prefix.writeBigUInt64BE(2n ** 40n, 8);
        line.write(prefix);
      });
    });
    expect(await call(await plane(), from).ended).toMatchObject({ reason: "item-too-large" });
  });

  it("ends when a control message is longer than any is, before reading it", async () => {
    const from = await worker((request, self) => {
      void self.dial(request).then((line) => {
        const prefix = Buffer.alloc(24);
        prefix.writeBigUInt64BE(2n ** 20n, 0);
        line.write(prefix);
      });
    });
    expect(await call(await plane(), from).ended).toMatchObject({ reason: "item-too-large" });
  });

  it("cuts what a worker says of its error", async () => {
    const from = await worker((request, self) => {
      void self.dial(request).then((line) => line.header({ error: "x".repeat(50_000) }));
    });
    expect(await call(await plane(), from).ended).toMatchObject({ reason: "refused", message: "x".repeat(1000) });
    const refusing = await worker(undefined, () => `Server overloaded: ${"x".repeat(50_000)}`);
    const refusal = await call(await plane(), refusing).ended;
    expect(refusal.kind === "failed" && refusal.message.length).toBe(1000);
  });

  it("ends when its caller has no room for an item that comes in pieces, and asks for no other", async () => {
    const asked: number[] = [];
    const from = await worker((request, self) => {
      void self.dial(request).then((line) => {
        line.header({ error: null });
        line.item(wrapped("y".repeat(1_000_000)));
      });
    });
    const heard = call(await plane(), from, "{}", { admitsItem: (sizeBytes) => asked.push(sizeBytes) < 0 });
    expect(await heard.ended).toMatchObject({ reason: "item-too-large" });
    expect(asked).toEqual([1_000_034]);
  });

  it("ends as idle when the answer stands still", async () => {
    const from = await worker((request, self) => void self.dial(request).then((line) => line.header({ error: null })));
    expect(await call(await plane(), from, "{}", { idleTimeoutMs: 40 }).ended).toMatchObject({ reason: "idle" });
  });

  it("says kill when it is cancelled, and then nothing", async () => {
    const to = await plane();
    let line: Awaited<ReturnType<FakeWorker["dial"]>> | undefined;
    const from = await worker((request, self) => {
      void self.dial(request).then((dialled) => {
        line = dialled;
        dialled.header({ error: null });
        dialled.item(wrapped(1));
      });
    });
    const heard = call(to, from);
    await until(() => heard.items.length === 1);
    heard.call.cancel();
    heard.call.cancel();
    await until(() => (line?.controls.length ?? 0) > 0);
    line?.item(wrapped(2));
    line?.item(final);
    line?.end();
    await line?.closed;
    expect(line?.controls).toEqual(['"kill"']);
    expect(heard).toMatchObject({ items: ["1"], ends: [] });
    expect(to.counters.cancelled).toBe(1);
  });

  it("is told to stop when it was cancelled before the worker dialled back", async () => {
    const from = await worker();
    const heard = call(await plane(), from);
    await until(() => from.requests.length === 1);
    heard.call.cancel();
    const line = await from.dial(from.requests[0] as (typeof from.requests)[0]);
    await until(() => line.controls.length > 0);
    expect(line.controls).toEqual(['"kill"']);
    expect(heard.ends).toEqual([]);
  });

  it("larger than the worker takes is not sent", async () => {
    const from = await worker(answering(1));
    expect(await call(await plane({ maxMessageBytes: 1000 }), from, "x".repeat(1000)).ended).toMatchObject({
      reason: "unsendable",
    });
    expect(from.requests).toEqual([]);
  });

  it("ends as closed when the plane closes, and so does every later one", async () => {
    const to = await plane();
    const heard = call(to, await worker());
    await to.close();
    expect(await heard.ended).toMatchObject({ reason: "closed" });
    expect(await call(to, await worker()).ended).toMatchObject({ reason: "closed" });
  });
});

describe("the listener", () => {
  it("hangs up on who names no call, sends noise, or more than a handshake", async () => {
    const to = await plane();
    const from = await worker();
    call(to, from);
    await until(() => from.requests.length === 1);
    const [request] = from.requests as [(typeof from.requests)[0]];
    const stranger = await from.dial(request, "no such subject");
    await stranger.closed;
    const noisy = await from.dial({ ...request, home: { ...request.home, subject: "x" } });
    await noisy.closed;
    expect(to.counters.strangers).toBe(2);
  });
});

describe("the listener, when a worker dials more than once", () => {
  it("keeps the first connection and hangs up on the second", async () => {
    const to = await plane();
    const from = await worker();
    const heard = call(to, from);
    await until(() => from.requests.length === 1);
    const [request] = from.requests as [(typeof from.requests)[0]];
    const first = await from.dial(request);
    first.header({ error: null });
    await until(() => heard.starts === 1);
    const second = await from.dial(request);
    await second.closed;
    first.item(wrapped(1));
    first.item(final);
    expect(await heard.ended).toEqual({ kind: "complete" });
    expect(to.counters.strangers).toBe(1);
  });

  it("keeps no more than a thousand connections that say nothing", async () => {
    const to = await plane();
    const from = await worker(answering(1));
    const [host = "", port = ""] = to.address.split(":");
    const silent: Socket[] = [];
    let closed = 0;
    closers.push(() => {
      for (const socket of silent) socket.destroy();
      return Promise.resolve();
    });
    // As many at a time as a listener's queue holds.
    for (let batch = 0; batch < 11; batch++) {
      const sockets = Array.from({ length: 100 }, () => connect(Number(port), host));
      for (const socket of sockets) socket.on("error", () => {}).on("close", () => closed++);
      silent.push(...sockets);
      await Promise.all(sockets.map((socket) => once(socket, "connect")));
    }
    await until(() => closed >= 76);
    expect(await call(to, from).ended).toEqual({ kind: "complete" });
    expect(closed).toBeLessThan(100);
  });
});

describe("TLS", () => {
  it("is spoken on both connections, each end checking the other; a stranger's certificate is not enough", async () => {
    const folder = await mkdtemp(join(tmpdir(), "signalbox-tls-"));
    closers.push(() => rm(folder, { recursive: true, force: true }));
    const pairs = await Promise.all(["own", "other"].map((name) => certificate(folder, name)));
    const [own, other] = pairs as [Awaited<ReturnType<typeof certificate>>, Awaited<ReturnType<typeof certificate>>];
    const settings = await requestPlaneSettings({
      DYN_TCP_RESPONSE_STREAM_HOST: "127.0.0.1",
      DYN_TCP_TLS_CERT_PATH: own.certFile,
      DYN_TCP_TLS_KEY_PATH: own.keyFile,
      DYN_TCP_TLS_CLIENT_CA_CERT_PATH: own.certFile,
      DYN_TCP_TLS_CA_CERT_PATH: own.certFile,
      DYN_TCP_TLS_CLIENT_CERT_PATH: own.certFile,
      DYN_TCP_TLS_CLIENT_KEY_PATH: own.keyFile,
    });
    const to = await plane({ ...settings, connectTimeoutMs: 500 });
    const good = await worker(answering("secret"), undefined, own);
    const heard = call(to, good);
    expect(await heard.ended).toEqual({ kind: "complete" });
    expect(heard.items).toEqual(['"secret"']);
    const impostor = await worker(answering(1), undefined, other);
    expect(await call(to, impostor).ended).toMatchObject({ reason: "unreachable" });
    const plain = await worker(answering(1));
    expect(await call(to, plain).ended).toMatchObject({ reason: "unreachable" });
  });
});

async function certificate(
  folder: string,
  name: string,
): Promise<FakeTls & { readonly certFile: string; readonly keyFile: string }> {
  const pair = await generate([{ name: "commonName", value: name }], {
    keyType: "ec",
    curve: "P-256",
    algorithm: "sha256",
    extensions: [{ name: "subjectAltName", altNames: [{ type: 7, ip: "127.0.0.1" }] }],
  });
  const [certFile, keyFile] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)];
  await Promise.all([writeFile(certFile, pair.cert), writeFile(keyFile, pair.private)]);
  return { cert: pair.cert, key: pair.private, certFile, keyFile };
}

describe("two-part messages", () => {
  it("come out as they went in, wherever the reads are split", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.uint8Array({ maxLength: 30 }), fc.uint8Array({ maxLength: 100 })), { maxLength: 6 }),
        fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 20 }),
        (messages, sizes) => {
          const seen: [Buffer, Buffer][] = [];
          const reader = new TwoPartReader(
            1000,
            (header, body) => seen.push([Buffer.from(header), Buffer.from(body)]) > 0,
          );
          const bytes = Buffer.concat(messages.map(([header, body]) => encodeTwoPart(Buffer.from(header), body)));
          for (let at = 0, turn = 0; at < bytes.length; turn++) {
            const size = sizes[turn % sizes.length] ?? 1;
            expect(reader.push(bytes.subarray(at, at + size))).toBe(true);
            at += size;
          }
          expect(seen).toEqual(messages.map(([header, body]) => [Buffer.from(header), Buffer.from(body)]));
          expect(reader.isInMessage).toBe(false);
        },
      ),
    );
  });
});

describe("acknowledgements", () => {
  it("come out in order, wherever the reads are split, and absurd lengths end the connection", () => {
    const bytes = Buffer.concat(
      ["", "one", "two"].map((text) => Buffer.concat([Buffer.of(0, 0, 0, text.length), Buffer.from(text)])),
    );
    for (let size = 1; size <= bytes.length; size++) {
      const seen: string[] = [];
      const reader = new AckReader((text) => seen.push(text.toString()));
      for (let at = 0; at < bytes.length; at += size) expect(reader.push(bytes.subarray(at, at + size))).toBe(true);
      expect(seen).toEqual(["", "one", "two"]);
    }
    expect(new AckReader(() => {}).push(Buffer.of(0xff, 0, 0, 0))).toBe(false);
  });
});

describe("stream items recorded from a real worker", () => {
  it.each(["json", "msgpack"] as const)("in %s are unwrapped, and their annotations read", (codec) => {
    const bodies = wires.callHome[codec].reply.filter(
      ({ body_len, body_hex }) => body_len > 0 && body_hex.length === 2 * body_len,
    );
    const items = bodies.map(({ body_hex }) => readStreamItem(Buffer.from(body_hex, "hex"), codec));
    expect(items.at(-1)).toEqual({ data: undefined, isFinal: true });
    const [first] = items;
    const annotated = readAnnotated(first?.data as Buffer, codec);
    expect(annotated).toMatchObject({ event: undefined, error: undefined, comment: [] });
    expect(annotated.data?.includes("token_ids")).toBe(true);
  });

  it("say what failed", () => {
    const item = Buffer.from('{"event":"error","comment":["a","b\\n"],"error":{"class":"InvalidRequest"},"id":"7"}');
    expect(readAnnotated(item, "json")).toEqual({
      data: undefined,
      id: "7",
      event: "error",
      comment: ["a", "b\n"],
      error: Buffer.from('{"class":"InvalidRequest"}'),
    });
  });
});

describe("request frames", () => {
  it("do not take a path or headers longer than their length fields", () => {
    const control = { id: "a", codec: "json", address: "a:1", subject: "s", metadata: undefined } as const;
    const frame = { path: "p", headers: {}, control, body: Buffer.alloc(0) };
    expect(encodeRequestFrame({ ...frame, path: "p".repeat(70_000) }, 1 << 20)).toBeUndefined();
    expect(encodeRequestFrame({ ...frame, headers: { h: "h".repeat(70_000) } }, 1 << 20)).toBeUndefined();
    expect(encodeRequestFrame(frame, 1 << 20)).toBeDefined();
  });
});

describe("the settings of the request plane", () => {
  it("come from DYN_TCP_*", async () => {
    const env = {
      DYN_TCP_RESPONSE_STREAM_HOST: "10.0.0.1",
      DYN_TCP_RESPONSE_STREAM_PORT: "7",
      DYN_TCP_REQUEST_TIMEOUT: "9",
    };
    expect(await requestPlaneSettings(env)).toMatchObject({
      host: "10.0.0.1",
      port: 7,
      ackTimeoutMs: 9000,
      serverTls: undefined,
    });
  });

  it.each([
    [{ DYN_TCP_RESPONSE_STREAM_PORT: "x" }, "DYN_TCP_RESPONSE_STREAM_PORT"],
    [{ DYN_TCP_TLS_CERT_PATH: "/no/such/file" }, "DYN_TCP_TLS_CERT_PATH"],
    [{ DYN_TCP_TLS_CERT_PATH: "package.json" }, "DYN_TCP_TLS_KEY_PATH"],
    [{ DYN_TCP_TLS_CLIENT_CERT_PATH: "package.json" }, "DYN_TCP_TLS_CLIENT_KEY_PATH"],
  ])("are refused as %j, naming the variable", async (env, variable) => {
    await expect(requestPlaneSettings(env)).rejects.toThrow(variable);
  });
});
