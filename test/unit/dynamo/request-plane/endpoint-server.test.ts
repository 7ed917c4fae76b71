/** The server's side of the request plane, asked by our own client and by sockets that say what no client should. */
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { afterEach, describe, expect, it } from "@jest/globals";
import { generate } from "selfsigned";
import type { InstanceRecord } from "../../../../src/dynamo/records.ts";
import type { CallEnd, RequestPlane } from "../../../../src/dynamo/request-plane/contracts.ts";
import type { Endpoint } from "../../../../src/dynamo/request-plane/endpoint-contracts.ts";
import { createEndpointServer, type TcpEndpointServer } from "../../../../src/dynamo/request-plane/endpoint-server.ts";
import { encodeRequestFrame } from "../../../../src/dynamo/request-plane/request-frame.ts";
import { createRequestPlane } from "../../../../src/dynamo/request-plane/request-plane.ts";
import { RequestReader } from "../../../../src/dynamo/request-plane/request-reader.ts";
import {
  type EndpointServerSettings,
  endpointServerSettings,
  type RequestPlaneSettings,
} from "../../../../src/dynamo/request-plane/settings.ts";
import { encodeTwoPart } from "../../../../src/dynamo/request-plane/two-part.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import fc from "../../../properties.ts";
import { until } from "../until.ts";

const closers: (() => Promise<void> | void)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function serve(settings: Partial<EndpointServerSettings> = {}): Promise<TcpEndpointServer> {
  const server = await createEndpointServer(silentLogger, { host: "127.0.0.1", ...settings });
  closers.push(() => server.close());
  return server;
}

async function plane(settings: Partial<RequestPlaneSettings> = {}): Promise<RequestPlane> {
  const created = await createRequestPlane({ host: "127.0.0.1", ...settings });
  closers.push(() => created.close());
  return created;
}

const id = { namespace: "ns", component: "backend", endpoint: "echo", instanceId: 26n };
const path = "1a/ns/backend/echo";
const instanceOf = ({ address }: TcpEndpointServer, of = path): InstanceRecord => ({
  type: "Endpoint",
  namespace: "ns",
  component: "backend",
  endpoint: "echo",
  instanceId: 26n,
  transport: { kind: "tcp", address, path: of },
  codec: "json",
});
/** Bodies and answers are JSON or msgpack strings: what is asked comes back. */
const echo: Endpoint = (body) => Buffer.from(body);

interface Answered {
  readonly items: readonly Buffer[];
  readonly end: CallEnd;
}

function ask(from: RequestPlane, instance: InstanceRecord, body: Buffer, codec: "json" | "msgpack" = "json") {
  return new Promise<Answered>((resolve) => {
    const items: Buffer[] = [];
    from.call(
      instance,
      body,
      { codec, answerTimeoutMs: 5000 },
      { item: (data) => items.push(Buffer.from(data)), ended: (end) => resolve({ items, end }) },
    );
  });
}

const frameOf = (body: string, address = "127.0.0.1:9", of = path): Buffer => {
  const control = { id: "i", codec: "json", address, subject: "s", metadata: undefined } as const;
  return encodeRequestFrame({ path: of, headers: {}, control, body: Buffer.from(body) }, 1 << 20) ?? Buffer.alloc(0);
};

async function dial(server: TcpEndpointServer): Promise<Socket> {
  const [host = "", port = ""] = server.address.split(":");
  const socket = connect(Number(port), host);
  closers.push(() => void socket.destroy());
  socket.on("error", () => undefined);
  await once(socket, "connect");
  return socket;
}

/** The text of one acknowledgement. */
async function acknowledged(socket: Socket, frame: Buffer): Promise<string> {
  socket.write(frame);
  const [chunk] = (await once(socket, "data")) as [Buffer];
  return chunk.subarray(4).toString();
}

describe("a served endpoint", () => {
  it.each([
    ["json", Buffer.from('"hello"')],
    ["msgpack", Buffer.from("\xa5hello", "latin1")],
  ] as const)("answers in %s with one item", async (codec, body) => {
    const server = await serve();
    server.serve(id, echo);
    const answered = await ask(await plane(), instanceOf(server), body, codec);
    expect(answered).toEqual({ items: [body], end: { kind: "complete" } });
    await until(() => server.counters.answered === 1);
    expect(server.counters).toMatchObject({ requests: 1, undelivered: 0, refused: 0 });
  });

  it("answers many at once, each with its own", async () => {
    const server = await serve();
    server.serve(id, echo);
    const from = await plane();
    const bodies = Array.from({ length: 300 }, (_, index) => Buffer.from(`"${"x".repeat(index * 10)}"`));
    const answers = await Promise.all(bodies.map((body) => ask(from, instanceOf(server), body)));
    expect(answers.map(({ items }) => items[0])).toEqual(bodies);
  });

  it("is asked and answers over TLS with certificates on both sides", async () => {
    const { cert, private: key } = await generate([{ name: "commonName", value: "localhost" }], {
      extensions: [{ name: "subjectAltName", altNames: [{ type: 7, ip: "127.0.0.1" }] }],
    });
    const tls = {
      serverTls: { cert, key, ca: cert, requestCert: true, rejectUnauthorized: true },
      clientTls: { ca: cert, cert, key },
    };
    const server = await serve(tls);
    server.serve(id, echo);
    expect(await ask(await plane(tls), instanceOf(server), Buffer.from("1"))).toMatchObject({
      end: { kind: "complete" },
    });
    const stranger = await plane({ clientTls: { ca: cert } });
    expect((await ask(stranger, instanceOf(server), Buffer.from("1"))).end).toMatchObject({ reason: "unreachable" });
  });

  it("that is not there, or not any more, is refused by name", async () => {
    const server = await serve();
    const { transport, end } = server.serve(id, echo);
    expect(transport).toEqual({ kind: "tcp", address: server.address, path });
    const from = await plane();
    expect((await ask(from, instanceOf(server, "1a/ns/x/y"), Buffer.from("1"))).end).toMatchObject({
      reason: "unavailable",
      message: "Server unavailable: unknown endpoint 1a/ns/x/y",
    });
    expect(() => server.serve(id, echo)).toThrow(RangeError);
    end();
    expect((await ask(from, instanceOf(server), Buffer.from("1"))).end).toMatchObject({ reason: "unavailable" });
  });

  it("that fails costs its own request alone", async () => {
    const server = await serve();
    server.serve(id, (body) => {
      if (body.toString() === "2") throw new Error("broken");
      return Buffer.from(body);
    });
    const from = await plane();
    const [one, two, three] = await Promise.all(
      ["1", "2", "3"].map((body) => ask(from, instanceOf(server), Buffer.from(body))),
    );
    expect([one?.end.kind, three?.end.kind]).toEqual(["complete", "complete"]);
    expect(two?.end).toMatchObject({ reason: "rejected", message: "Server error: the endpoint failed" });
  });
});

describe("a server of endpoints", () => {
  it.each([
    ["127.0.0.1", "a host name's", "localhost:80"],
    ["127.0.0.1", "no port's", "127.0.0.1"],
    ["127.0.0.1", "an impossible port's", "127.0.0.1:99999"],
    ["127.0.0.1", "nobody's", ":80"],
  ])("dials no address but an IP's (%s): not %s", async (_host, _what, address) => {
    const server = await serve();
    server.serve(id, echo);
    const socket = await dial(server);
    expect(await acknowledged(socket, frameOf("1", address))).toBe(
      "Decode error: the request wants its answer at no address",
    );
  });

  it.each([
    ["no two-part message", Buffer.from("nonsense")],
    ["a control message that is no JSON", encodeTwoPart(Buffer.from("{"), Buffer.from("1"))],
    ["no place for its answer", encodeTwoPart(Buffer.from('{"id":"i"}'), Buffer.from("1"))],
    [
      "another request's context",
      encodeTwoPart(
        Buffer.from(
          '{"id":"i","connection_info":{"info":"{\\"address\\":\\"127.0.0.1:9\\",\\"subject\\":\\"s\\",\\"context\\":\\"j\\"}"}}',
        ),
      ),
    ],
  ])("refuses %s and goes on with the connection", async (_what, payload) => {
    const server = await serve();
    server.serve(id, echo);
    const socket = await dial(server);
    const head = Buffer.alloc(2);
    head.writeUInt16BE(path.length);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(payload.length);
    const frame = Buffer.concat([head, Buffer.from(path), Buffer.from([0, 2]), Buffer.from("{}"), length, payload]);
    expect(await acknowledged(socket, frame)).toMatch(/^Decode error: the request /);
    expect(await acknowledged(socket, frameOf("1"))).toBe("");
  });

  it("hangs up on who announces more than is taken, before it comes", async () => {
    const server = await serve({ maxMessageBytes: 1000 });
    server.serve(id, echo);
    const socket = await dial(server);
    socket.write(
      Buffer.concat([Buffer.from([0, 1]), Buffer.from("p"), Buffer.from([0, 0]), Buffer.from([0, 3, 0, 0])]),
    );
    await once(socket, "close");
    expect(server.counters.refused).toBe(1);
  });

  it("counts answers that nobody takes", async () => {
    const server = await serve();
    server.serve(id, echo);
    const gone = createServer();
    gone.listen(0, "127.0.0.1");
    await once(gone, "listening");
    const { port } = gone.address() as { readonly port: number };
    gone.close();
    await once(gone, "close");
    expect(await acknowledged(await dial(server), frameOf("1", `127.0.0.1:${port}`))).toBe("");
    await until(() => server.counters.undelivered === 1);
  });

  it("lets go of everybody when it closes, and of its port", async () => {
    const server = await serve();
    server.serve(id, echo);
    const socket = await dial(server);
    const silent = createServer();
    silent.listen(0, "127.0.0.1");
    await once(silent, "listening");
    closers.push(() => void silent.close());
    const { port } = silent.address() as { readonly port: number };
    const dialled = once(silent, "connection") as Promise<[Socket]>;
    await acknowledged(socket, frameOf("1", `127.0.0.1:${port}`));
    const [answer] = await dialled;
    closers.push(() => void answer.destroy());
    const left = Promise.all([once(socket, "close"), once(answer.resume(), "close")]);
    await server.close();
    await left;
    await serve({ port: Number(server.address.split(":").at(-1)) });
  });

  it("reads where others find it from Dynamo's variables", async () => {
    expect(await endpointServerSettings({ DYN_TCP_RPC_HOST: "10.0.0.1", DYN_TCP_RPC_PORT: "7000" })).toMatchObject({
      host: "10.0.0.1",
      port: 7000,
    });
    await expect(endpointServerSettings({ DYN_TCP_RPC_PORT: "70000" })).rejects.toThrow("DYN_TCP_RPC_PORT=70000");
  });
});

describe("frames of requests", () => {
  it("are the same however the bytes come", () => {
    const frames = ["1", "two", "x".repeat(500)].map((body) => frameOf(body));
    const bytes = Buffer.concat(frames);
    fc.assert(
      fc.property(fc.array(fc.nat(bytes.length), { maxLength: 20 }), (cuts) => {
        const seen: string[] = [];
        const reader = new RequestReader(1 << 20, (of, payload) =>
          seen.push(`${of.toString()} ${payload.toString("latin1")}`),
        );
        const at = [0, ...cuts.toSorted((a, b) => a - b), bytes.length];
        for (let index = 1; index < at.length; index++) {
          expect(reader.push(Buffer.from(bytes.subarray(at[index - 1], at[index])))).toBe(true);
        }
        expect(seen).toHaveLength(3);
        for (const [index, frame] of frames.entries())
          expect(frame.toString("latin1").endsWith(seen[index]?.slice(path.length + 1) ?? "?")).toBe(true);
        expect(reader.heldBytes).toBe(0);
      }),
    );
  });
});
