/** What the transport tables share: servers whose handlers write down what they hear, a gRPC client and a raw HTTP/2 client. */
import { type ClientHttp2Session, type ClientHttp2Stream, connect as connectHttp2, type Settings } from "node:http2";
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { Client, credentials, logVerbosity, Metadata, setLogVerbosity } from "@grpc/grpc-js";
import { createGrpcJsTransport } from "../../src/net/grpc/grpc-js-transport.ts";
import { createHttp2Transport } from "../../src/net/grpc/http2-transport.ts";
import {
  type GrpcStream,
  type GrpcStreamHandler,
  type GrpcTransport,
  type GrpcTransportOptions,
  grpcStatus,
  type TlsMaterial,
} from "../../src/net/grpc/transport.ts";
import { createSelfSigned } from "../../src/net/tls.ts";

// The library writes to the console by itself, faults that a test provokes included.
setLogVerbosity(logVerbosity.NONE);

export const implementations = [
  ["http2", createHttp2Transport],
  ["grpc-js", createGrpcJsTransport],
] as const;

export type Security = "plaintext" | "TLS";

let material: Promise<TlsMaterial> | undefined;

export function certificate(): Promise<TlsMaterial> {
  material ??= createSelfSigned();
  return material;
}

/** One stream as its handler saw it. */
export interface Heard {
  readonly stream: GrpcStream;
  readonly events: string[];
}

export interface Fixture {
  readonly transport: GrpcTransport;
  readonly heard: Heard[];
  readonly faults: unknown[];
  readonly client: Client;
  /** A raw HTTP/2 connection; `settings` are the client's own. */
  readonly connect: (settings?: Settings) => ClientHttp2Session;
  /** Takes the network away from a raw connection: no frame says goodbye. */
  readonly sever: (session: ClientHttp2Session) => void;
  readonly close: () => Promise<void>;
}

type Create = (options: GrpcTransportOptions) => Promise<GrpcTransport>;

export async function startFixture(
  create: Create,
  security: Security,
  options: Partial<GrpcTransportOptions> = {},
): Promise<Fixture> {
  const heard: Heard[] = [];
  const faults: unknown[] = [];
  const tls = security === "TLS" ? await certificate() : undefined;
  const transport = await create({
    host: "127.0.0.1",
    port: 0,
    tls,
    maxMessageBytes: 4 * 1024 * 1024,
    maxSendMessageBytes: undefined,
    maxStreamsPerConnection: 1000,
    maxHeaderBytes: 64 * 1024,
    idleTimeoutMs: 0,
    methods: new Map([
      ["/test.Test/Echo", (stream) => record(heard, stream, (bytes) => stream.send([bytes]))],
      ["/test.Test/Script", (stream) => record(heard, stream, (bytes) => follow(stream, bytes.toString()))],
    ]),
    onError: (error) => faults.push(error),
    ...options,
  });
  const authority = `127.0.0.1:${transport.port}`;
  const client = new Client(
    authority,
    tls === undefined
      ? credentials.createInsecure()
      : credentials.createSsl(Buffer.from(tls.cert), null, null, { checkServerIdentity: () => undefined }),
    { "grpc.max_receive_message_length": -1, "grpc.ssl_target_name_override": "localhost" },
  );
  const sockets = new Map<ClientHttp2Session, Socket>();
  return {
    transport,
    heard,
    faults,
    client,
    connect(settings = {}) {
      const { port } = transport;
      const socket =
        tls === undefined
          ? connectTcp(port, "127.0.0.1")
          : connectTls({
              host: "127.0.0.1",
              port,
              servername: "localhost",
              rejectUnauthorized: false,
              ALPNProtocols: ["h2"],
            });
      socket.on("error", () => {});
      const session = connectHttp2(`http://${authority}`, { settings, createConnection: () => socket });
      session.on("error", () => {});
      sockets.set(session, socket);
      return session;
    },
    sever(session) {
      sockets.get(session)?.destroy();
    },
    async close() {
      client.close();
      for (const session of sockets.keys()) session.destroy();
      await transport.close();
    },
  };
}

function record(heard: Heard[], stream: GrpcStream, act: (bytes: Buffer) => void): GrpcStreamHandler {
  const events: string[] = [];
  heard.push({ stream, events });
  return {
    message(bytes) {
      events.push(`message ${bytes.length}`);
      act(bytes);
    },
    halfClosed() {
      events.push("halfClosed");
      stream.end(grpcStatus.ok);
    },
    closed: (cause) => events.push(`closed ${cause}`),
    drained: () => events.push("drained"),
  };
}

/** What a Script stream does when it is told to. */
function follow(stream: GrpcStream, command: string): void {
  const [verb = "", ...words] = command.split(" ");
  switch (verb) {
    case "end":
      stream.send([Buffer.from("before "), Buffer.from("the end")]);
      stream.end(Number(words[0]), words.slice(1).join(" "));
      break;
    case "fail":
      stream.end(Number(words[0]), words.slice(1).join(" "));
      break;
    case "metadata":
      stream.send([Buffer.from(`${stream.metadata(words[0] ?? "")}`)]);
      break;
    case "burst":
      for (let index = 0; index < Number(words[0]); index++) {
        stream.send([Buffer.from(`${index}:`), Buffer.alloc(Number(words[1]), index % 256)]);
      }
      break;
    case "reset":
      stream.reset();
      break;
    case "throw":
      throw new Error("on purpose");
    default:
      stream.send([Buffer.from(command)]);
  }
}

export interface Answer {
  readonly messages: readonly Buffer[];
  readonly status: number;
  readonly details: string;
}

/** A whole call by the gRPC client: sends the messages and, unless told otherwise, half-closes. */
export function call(
  client: Client,
  method: string,
  messages: readonly Uint8Array[],
  options: { readonly keepOpen?: boolean; readonly metadata?: Readonly<Record<string, string>> } = {},
): Promise<Answer> {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(options.metadata ?? {})) metadata.set(name, value);
  const stream = client.makeBidiStreamRequest(`/test.Test/${method}`, asIs, asIs, metadata);
  const received: Buffer[] = [];
  return new Promise((resolve) => {
    stream.on("data", (bytes: Buffer) => received.push(bytes));
    stream.on("error", () => {});
    stream.on("status", ({ code, details }) => resolve({ messages: received, status: code, details }));
    for (const bytes of messages) stream.write(Buffer.from(bytes));
    if (options.keepOpen !== true) stream.end();
  });
}

function asIs(bytes: Buffer): Buffer {
  return bytes;
}

export interface RawAnswer {
  readonly httpStatus: number | undefined;
  readonly messages: readonly string[];
  readonly status: string | undefined;
  readonly resetCode: number | undefined;
}

/** One stream of the raw client: what is written is DATA as it stands. */
export interface RawStream {
  readonly stream: ClientHttp2Stream;
  readonly received: () => Buffer;
  readonly done: Promise<RawAnswer>;
}

export function openRaw(
  session: ClientHttp2Session,
  method = "Echo",
  headers: Readonly<Record<string, string>> = {},
): RawStream {
  const stream = session.request({
    ":method": "POST",
    ":path": `/test.Test/${method}`,
    "content-type": "application/grpc",
    te: "trailers",
    ...headers,
  });
  const chunks: Buffer[] = [];
  let httpStatus: number | undefined;
  let status: string | undefined;
  stream.on("response", (response) => {
    httpStatus = response[":status"];
    status = response["grpc-status"] as string | undefined;
  });
  stream.on("trailers", (trailers) => {
    status = trailers["grpc-status"] as string | undefined;
  });
  stream.on("data", (chunk: Buffer) => chunks.push(chunk));
  stream.on("error", () => {});
  // A client that has its answer leaves; the server's end alone would keep a half-open stream.
  stream.on("end", () => stream.close());
  const done = new Promise<RawAnswer>((resolve) => {
    stream.on("close", () =>
      resolve({ httpStatus, messages: unframe(Buffer.concat(chunks)), status, resetCode: stream.rstCode }),
    );
  });
  return { stream, received: () => Buffer.concat(chunks), done };
}

export function frame(message: Uint8Array, flag = 0): Buffer {
  const prefix = Buffer.alloc(5);
  prefix[0] = flag;
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

function unframe(bytes: Buffer): string[] {
  const messages: string[] = [];
  for (let at = 0; at + 5 <= bytes.length; ) {
    const end = at + 5 + bytes.readUInt32BE(at + 1);
    messages.push(bytes.toString("latin1", at + 5, end));
    at = end;
  }
  return messages;
}

/** Waits for a condition with a deadline; the last value is in the error. */
export async function until(what: string, condition: () => boolean, timeoutMs = 20_000): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
