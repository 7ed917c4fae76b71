/**
 * The request plane from the side of who is asked: one port for all endpoints of this process, told apart by path as Dynamo's own server does
 * (dynamo-runtime 1.6.1, ingress/shared_tcp_endpoint.rs). Each request is acknowledged at once and answered with one item over a connection
 * that this side opens. What strangers can make it hold is bounded.
 */
import { once } from "node:events";
import { type AddressInfo, createServer as createTcpServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer } from "node:tls";
import type { Logger } from "../../telemetry/log.ts";
import { hostAndPort, resolveAdvertisedHost } from "../advertised-host.ts";
import { EndpointAnswers } from "./endpoint-answers.ts";
import type { Endpoint, EndpointInstance, EndpointServer, ServedEndpoint } from "./endpoint-contracts.ts";
import { RequestReader } from "./request-reader.ts";
import { type EndpointServerSettings, endpointServerDefaults } from "./settings.ts";

export interface TcpEndpointServer extends EndpointServer {
  /** "host:port" that others dial. */
  readonly address: string;
}

const maxConnections = 1024;
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
): Promise<TcpEndpointServer> {
  const complete = { ...endpointServerDefaults, ...settings };
  const host = await resolveAdvertisedHost(complete.host, "DYN_TCP_RPC_HOST");
  const endpoints = new TcpEndpoints(complete, log);
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

class TcpEndpoints implements TcpEndpointServer {
  readonly #settings: EndpointServerSettings;
  readonly #answers: EndpointAnswers;
  readonly #endpoints = new Map<string, Endpoint>();
  readonly #sockets = new Set<Socket>();
  #heldBytes = 0;
  #server: Server | undefined;
  #address = "";

  constructor(settings: EndpointServerSettings, log: Logger) {
    this.#settings = settings;
    this.#answers = new EndpointAnswers(settings, log);
  }

  get address(): string {
    return this.#address;
  }

  get counters(): EndpointServer["counters"] {
    return this.#answers.counters;
  }

  listening(server: Server, address: string): void {
    this.#server = server;
    this.#address = address;
  }

  serve({ namespace, component, endpoint: name, instanceId }: EndpointInstance, endpoint: Endpoint): ServedEndpoint {
    const path = `${instanceId.toString(16)}/${namespace}/${component}/${name}`;
    if (this.#endpoints.has(path)) throw new RangeError(`${path} is served already`);
    this.#endpoints.set(path, endpoint);
    return { transport: { kind: "tcp", address: this.#address, path }, end: () => void this.#endpoints.delete(path) };
  }

  accept(socket: Socket): void {
    this.#sockets.add(socket);
    const { counters } = this.#answers;
    counters.connections += 1;
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
      counters.refused += 1;
      socket.destroy();
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      hold(0);
      this.#sockets.delete(socket);
      counters.connections -= 1;
    });
    socket.setTimeout(idleMs, () => socket.destroy());
  }

  async close(): Promise<void> {
    this.#endpoints.clear();
    this.#answers.close();
    for (const socket of this.#sockets) socket.destroy();
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    const closed = once(server, "close");
    server.close();
    await closed;
  }

  #take(path: string, payload: Buffer): string {
    return this.#answers.take(path, this.#endpoints.get(path), payload);
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
