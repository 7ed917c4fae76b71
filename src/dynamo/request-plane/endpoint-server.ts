/**
 * The request plane from the side of who is asked: one port for all endpoints of this process, told apart by path as Dynamo's own server does
 * (dynamo-runtime 1.6.1, ingress/shared_tcp_endpoint.rs). Each request is acknowledged at once and answered with one item over a connection
 * that this side opens. What strangers can make it hold is bounded.
 */
import { once } from "node:events";
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import { isLoggedAt, type Logger } from "../../telemetry/log.ts";
import { hostAndPort, resolveAdvertisedHost } from "../advertised-host.ts";
import { MalformedMessage, type PayloadCodec } from "../encoding/value-reader.ts";
import { type HomeAddress, parseHome, sendAnswer } from "./answer-line.ts";
import { RequestReader, readRequest } from "./request-reader.ts";
import { type EndpointServerSettings, endpointServerDefaults } from "./settings.ts";

/** Makes the answer of a request's body, a view valid until the call returns; both in the codec. */
export type Endpoint = (body: Buffer, codec: PayloadCodec) => Buffer;

export interface EndpointServerCounters {
  requests: number;
  /** Answers that were written out. */
  answered: number;
  /** Nobody took the answer. */
  undelivered: number;
  /** Unknown endpoints, too many at once, what is no request. */
  refused: number;
  connections: number;
}

export interface EndpointServer {
  /** "host:port" that others dial. */
  readonly address: string;
  readonly counters: Readonly<EndpointServerCounters>;
  /** Requests for this path from now on; returns what ends that. A path has one endpoint. */
  serve(path: string, endpoint: Endpoint): () => void;
  /** Answers under way are broken off. */
  close(): Promise<void>;
}

const maxConnections = 1024;
/** Answers that are being made or taken; a request beyond is refused as overload. */
const maxAnswers = 1024;
/** Of requests that have begun and not ended, all connections together. */
const maxHeldBytes = 256 * 1024 * 1024;
/** A connection that is silent for so long is closed; Dynamo's clients open another. */
const idleMs = 600_000;
/** Path and headers besides the payload. */
const frameOverheadBytes = 8 + 2 * 0xffff;

/** Listens before it resolves; rejects when the host or port cannot be had. */
export async function createEndpointServer(
  log: Logger,
  settings: Partial<EndpointServerSettings> = {},
): Promise<EndpointServer> {
  const complete = { ...endpointServerDefaults, ...settings };
  const host = await resolveAdvertisedHost(complete.host, "DYN_TCP_RPC_HOST");
  const endpoints = new TcpEndpointServer(complete, log);
  const accept = (socket: Socket): void => endpoints.accept(socket);
  const { serverTls } = complete;
  const server =
    serverTls === undefined
      ? createTcpServer({ noDelay: true }, accept)
      : createTlsServer({ ...serverTls, handshakeTimeout: 3000 }, accept);
  server.maxConnections = maxConnections;
  server.listen({
    port: complete.port,
    host: host.address === "127.0.0.1" ? "127.0.0.1" : host.family === 6 ? "::" : "0.0.0.0",
  });
  await once(server, "listening");
  server.on("error", (error) => log.error({ error }, "the port of the request plane"));
  endpoints.listening(server, hostAndPort(host, (server.address() as AddressInfo).port));
  return endpoints;
}

class TcpEndpointServer implements EndpointServer {
  readonly counters: EndpointServerCounters = { requests: 0, answered: 0, undelivered: 0, refused: 0, connections: 0 };
  readonly #settings: EndpointServerSettings;
  readonly #log: Logger;
  readonly #endpoints = new Map<string, Endpoint>();
  readonly #sockets = new Set<Socket>();
  readonly #answers = new Set<() => void>();
  #heldBytes = 0;
  #failures = 0;
  #server: Server | undefined;
  #address = "";

  constructor(settings: EndpointServerSettings, log: Logger) {
    this.#settings = settings;
    this.#log = log;
  }

  get address(): string {
    return this.#address;
  }

  listening(server: Server, address: string): void {
    this.#server = server;
    this.#address = address;
  }

  serve(path: string, endpoint: Endpoint): () => void {
    if (this.#endpoints.has(path)) throw new RangeError(`${path} is served already`);
    this.#endpoints.set(path, endpoint);
    return () => this.#endpoints.delete(path);
  }

  accept(socket: Socket): void {
    this.#sockets.add(socket);
    this.counters.connections += 1;
    let held = 0;
    const hold = (bytes: number): void => {
      this.#heldBytes += bytes - held;
      held = bytes;
    };
    const reader = new RequestReader(this.#settings.maxMessageBytes + frameOverheadBytes, (path, payload) =>
      acknowledge(socket, this.#take(path.toString("utf8"), payload)),
    );
    socket.on("data", (chunk: Buffer) => {
      const isRead = reader.push(chunk);
      hold(reader.heldBytes);
      if (isRead && this.#heldBytes <= maxHeldBytes) return;
      this.counters.refused += 1;
      socket.destroy();
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      hold(0);
      this.#sockets.delete(socket);
      this.counters.connections -= 1;
    });
    socket.setTimeout(idleMs, () => socket.destroy());
  }

  async close(): Promise<void> {
    this.#endpoints.clear();
    for (const end of this.#answers) end();
    for (const socket of this.#sockets) socket.destroy();
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    const closed = once(server, "close");
    server.close();
    await closed;
  }

  /** The text of the acknowledgement: empty is yes. */
  #take(path: string, payload: Buffer): string {
    this.counters.requests += 1;
    const refused = (text: string): string => {
      this.counters.refused += 1;
      return text;
    };
    const endpoint = this.#endpoints.get(path);
    if (endpoint === undefined) return refused(`Server unavailable: unknown endpoint ${path.slice(0, 300)}`);
    if (this.#answers.size >= maxAnswers) return refused("Server overloaded: too many answers under way");
    try {
      const { codec, home, body } = readRequest(path, payload);
      const address = parseHome(home.address);
      this.#answer(address, home.subject, codec, endpoint(body, codec));
      return "";
    } catch (error) {
      if (error instanceof MalformedMessage) return refused(`Decode error: the request ${error.message}`);
      // An endpoint that fails costs its request, not the connection that others share.
      if (isLoggedAt(++this.#failures)) this.#log.error({ error, path, count: this.#failures }, "an endpoint failed");
      return refused("Server error: the endpoint failed");
    }
  }

  #answer(address: HomeAddress, subject: string, codec: PayloadCodec, item: Buffer): void {
    const { clientTls: tls, connectTimeoutMs } = this.#settings;
    const end = sendAnswer({
      address,
      subject,
      codec,
      item,
      tls,
      connectTimeoutMs,
      ended: (isDelivered) => {
        this.#answers.delete(end);
        if (isDelivered) this.counters.answered += 1;
        else this.counters.undelivered += 1;
      },
    });
    this.#answers.add(end);
  }
}

function acknowledge(socket: Socket, text: string): void {
  if (socket.destroyed) return;
  const bytes = Buffer.from(text);
  const frame = Buffer.allocUnsafe(4 + bytes.length);
  frame.writeUInt32BE(bytes.length, 0);
  bytes.copy(frame, 4);
  socket.write(frame);
}
