/** The worker's half of the request plane in plain sockets: takes requests, acknowledges as told, and dials back to say what it is told to. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import type { InstanceRecord } from "../../../../src/dynamo/records.ts";
import { encodeTwoPart, TwoPartReader } from "../../../../src/dynamo/request-plane/two-part.ts";

export interface TakenRequest {
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly control: Readonly<Record<string, unknown>>;
  readonly body: Buffer;
  readonly home: { readonly address: string; readonly subject: string; readonly context: string };
}

export interface HomeLine {
  /** Writes raw bytes. */
  write(bytes: Buffer): void;
  header(value: unknown): void;
  item(body: Buffer): void;
  end(): void;
  /** Headers the client sent, in order. */
  readonly controls: string[];
  readonly closed: Promise<void>;
}

export interface FakeWorker {
  readonly instance: InstanceRecord;
  readonly requests: TakenRequest[];
  readonly connections: number;
  dial(request: TakenRequest, subject?: string): Promise<HomeLine>;
  close(): Promise<void>;
}

/** One pair for both ends, which trust each other by it. */
export interface FakeTls {
  readonly cert: string;
  readonly key: string;
}

/** `acknowledge` returns the text of the acknowledgement, or undefined for none at all. */
export async function startFakeWorker(
  onRequest: (request: TakenRequest, worker: FakeWorker) => void = () => {},
  acknowledge: (request: TakenRequest) => string | undefined = () => "",
  tls?: FakeTls,
): Promise<FakeWorker> {
  const sockets = new Set<Socket>();
  const requests: TakenRequest[] = [];
  let connections = 0;
  const accept = (socket: Socket): void => {
    connections++;
    sockets.add(socket);
    socket.on("error", () => {});
    let held = Buffer.alloc(0);
    socket.on("data", (chunk: Buffer) => {
      held = Buffer.concat([held, chunk]);
      for (let taken = takeRequest(held); taken !== undefined; taken = takeRequest(held)) {
        held = held.subarray(taken.length);
        requests.push(taken.request);
        const text = acknowledge(taken.request);
        if (text !== undefined) {
          const ack = Buffer.alloc(4 + Buffer.byteLength(text));
          ack.writeUInt32BE(ack.length - 4);
          ack.write(text, 4);
          socket.write(ack);
        }
        onRequest(taken.request, worker);
      }
    });
  };
  const server = tls === undefined ? createServer(accept) : createTlsServer({ ...tls }, accept);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const worker: FakeWorker = {
    instance: {
      type: "Endpoint",
      namespace: "ns",
      component: "backend",
      endpoint: "generate",
      instanceId: 26n,
      transport: { kind: "tcp", address: `127.0.0.1:${port}`, path: "1a/ns/backend/generate" },
      codec: "json",
    },
    requests,
    get connections() {
      return connections;
    },
    dial: (request, subject = request.home.subject) => dialHome(request.home.address, subject, sockets, tls),
    close: () => closeServer(server, sockets),
  };
  return worker;
}

async function dialHome(
  address: string,
  subject: string,
  sockets: Set<Socket>,
  tls: FakeTls | undefined,
): Promise<HomeLine> {
  const [host = "", port = ""] = address.split(":");
  const socket =
    tls === undefined
      ? connect(Number(port), host)
      : connectTls({ host, port: Number(port), ca: tls.cert, cert: tls.cert, key: tls.key });
  sockets.add(socket);
  socket.on("error", () => {});
  await once(socket, tls === undefined ? "connect" : "secureConnect");
  const controls: string[] = [];
  const reader = new TwoPartReader(1 << 20, (header) => controls.push(header.toString()) > 0);
  socket.on("data", (chunk: Buffer) => reader.push(chunk));
  socket.write(encodeTwoPart(Buffer.from(JSON.stringify({ subject, stream_type: "response" }))));
  return {
    write: (bytes) => socket.write(bytes),
    header: (value) => socket.write(encodeTwoPart(Buffer.from(JSON.stringify(value)))),
    item: (body) => socket.write(encodeTwoPart(Buffer.alloc(0), body)),
    end: () => socket.end(),
    controls,
    closed: new Promise((resolve) => socket.once("close", () => resolve())),
  };
}

function takeRequest(bytes: Buffer): { readonly request: TakenRequest; readonly length: number } | undefined {
  if (bytes.length < 2) return undefined;
  const pathEnd = 2 + bytes.readUInt16BE(0);
  if (bytes.length < pathEnd + 2) return undefined;
  const headersEnd = pathEnd + 2 + bytes.readUInt16BE(pathEnd);
  if (bytes.length < headersEnd + 4) return undefined;
  const end = headersEnd + 4 + bytes.readUInt32BE(headersEnd);
  if (bytes.length < end) return undefined;
  const request: TakenRequest = {
    path: bytes.subarray(2, pathEnd).toString(),
    headers: JSON.parse(bytes.subarray(pathEnd + 2, headersEnd).toString()) as Record<string, string>,
    ...takePayload(bytes.subarray(headersEnd + 4, end)),
  };
  return { request, length: end };
}

/** What comes the same way over TCP and NATS. */
export function takePayload(payload: Buffer): Pick<TakenRequest, "control" | "body" | "home"> {
  const controlEnd = 24 + Number(payload.readBigUInt64BE(0));
  const control = JSON.parse(payload.subarray(24, controlEnd).toString()) as Record<string, unknown>;
  const { info } = control["connection_info"] as { readonly info: string };
  return {
    control,
    body: Buffer.from(payload.subarray(controlEnd)),
    home: JSON.parse(info) as TakenRequest["home"],
  };
}

async function closeServer(server: Server, sockets: Set<Socket>): Promise<void> {
  for (const socket of sockets) socket.destroy();
  const closed = once(server, "close");
  server.close();
  await closed;
}
