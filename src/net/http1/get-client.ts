/**
 * A keep-alive HTTP/1.1 client for one thing: asking one server for one path, over and over, one request at a time. Callbacks, not
 * promises: at thousands of requests a second promise and stream machinery would cost more than the request. It has no timer: its owner
 * calls `cancel` when a request took too long.
 */
import { createConnection, type Socket } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import { type ResponseFault, type ResponseLimits, ResponseReader } from "./response-reader.ts";

export interface ClientTls {
  /** False accepts any certificate. */
  readonly verifies: boolean;
  /** PEM bundle to trust in place of the system's. */
  readonly ca: string | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
}

export interface GetTarget {
  /** IP literal without brackets. */
  readonly address: string;
  readonly port: number;
  /** Begins with "/". */
  readonly path: string;
  /** Value of the Accept header. */
  readonly accept: string;
  /** Undefined speaks plain HTTP. */
  readonly tls: ClientTls | undefined;
}

export type GetFailure = ResponseFault | "CONNECT_FAILED" | "CONNECTION_LOST" | "CANCELLED" | "CLOSED";

/** Exactly one of the two is called for each `get`, never before it returns. */
export interface GetHandler {
  /** `body` is valid until the call returns; `location` is that header, "" without one. */
  responded(status: number, body: Buffer, location: string): void;
  /** `detail` for people, e.g. "ECONNREFUSED". */
  failed(failure: GetFailure, detail: string): void;
}

/** A hundred times a usual metrics page; a client keeps a buffer of the largest answer it had, so this bounds that too. */
export const defaultResponseLimits: ResponseLimits = { maxHeaderBytes: 65_536, maxBodyBytes: 4 * 1024 * 1024 };

/**
 * One read of any connection lands here and is used up before the next: reading is synchronous on the one event loop, so a hundred
 * connections need one buffer. Large enough to take a usual metrics page in one system call.
 */
const readBuffer = Buffer.allocUnsafeSlow(262_144);

export class GetClient {
  readonly #target: GetTarget;
  readonly #request: Buffer;
  readonly #handler: GetHandler;
  readonly #reader: ResponseReader;
  #socket: Socket | undefined;
  /** The current socket has been connected (and its handshake done). */
  #isConnected = false;
  #isBusy = false;
  #isClosed = false;
  /** The request in flight went out on a connection that had served one before: when that is gone without an answer it is sent once more. */
  #mayRetry = false;

  constructor(target: GetTarget, handler: GetHandler, limits: ResponseLimits = defaultResponseLimits) {
    this.#target = target;
    this.#request = Buffer.from(encodeRequest(target), "latin1");
    this.#handler = handler;
    this.#reader = new ResponseReader(limits);
  }

  /** A request is in flight. */
  get isBusy(): boolean {
    return this.#isBusy;
  }

  /** Sends the request. Not to be called while one is in flight or after close. */
  get(): void {
    if (this.#isBusy || this.#isClosed) throw new Error("the client is busy or closed");
    this.#isBusy = true;
    this.#mayRetry = this.#socket !== undefined;
    this.#send();
  }

  /** Gives up the request in flight and its connection; a no-op when there is none. `detail` is handed to `failed`. */
  cancel(detail: string): void {
    if (!this.#isBusy) return;
    this.#drop();
    this.#fail("CANCELLED", detail);
  }

  /** Closes the connection; a request in flight fails as CLOSED. Idempotent. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#drop();
    if (this.#isBusy) this.#fail("CLOSED", "the client was closed");
  }

  #send(): void {
    this.#reader.reset();
    this.#socket ??= this.#connect();
    this.#socket.write(this.#request);
  }

  #connect(): Socket {
    const { address, port, tls } = this.#target;
    const onread = {
      buffer: readBuffer,
      callback: (length: number): boolean => {
        if (this.#socket === socket) this.#received(readBuffer.subarray(0, length));
        return true;
      },
    };
    const socket: Socket =
      tls === undefined
        ? createConnection({ host: address, port, noDelay: true, onread })
        : connectTls(tlsOptions(address, port, tls, onread));
    this.#isConnected = false;
    socket.on(tls === undefined ? "connect" : "secureConnect", () => {
      if (this.#socket === socket) this.#isConnected = true;
    });
    socket.on("error", (error: NodeJS.ErrnoException) => this.#lost(socket, error.code ?? error.message));
    socket.on("end", () => this.#ended(socket));
    socket.on("close", () => this.#lost(socket, "closed by the server"));
    return socket;
  }

  #received(bytes: Buffer): void {
    if (!this.#isBusy) {
      // An answer nobody asked for: the connection is out of step.
      this.#drop();
      return;
    }
    const fault = this.#reader.push(bytes);
    if (fault !== undefined) {
      this.#drop();
      this.#fail(fault, "malformed or oversized answer");
    } else if (this.#reader.isComplete) this.#complete();
  }

  #complete(): void {
    if (!this.#reader.keepsAlive) this.#drop();
    this.#isBusy = false;
    this.#handler.responded(this.#reader.status, this.#reader.body(), this.#reader.location);
  }

  /** The peer sends no more; a body without a length is complete. */
  #ended(socket: Socket): void {
    if (this.#socket !== socket) return;
    if (!this.#isBusy || this.#reader.isUntouched) {
      this.#lost(socket, "closed by the server");
      return;
    }
    const fault = this.#reader.end();
    this.#drop();
    if (fault === undefined) this.#complete();
    else this.#fail(fault, "the answer ended early");
  }

  #lost(socket: Socket, detail: string): void {
    if (this.#socket !== socket) return;
    const mayRetry = this.#mayRetry && this.#reader.isUntouched;
    this.#drop();
    if (!this.#isBusy) return;
    if (mayRetry && !this.#isClosed) {
      this.#mayRetry = false;
      this.#send();
    } else this.#fail(this.#isConnected ? "CONNECTION_LOST" : "CONNECT_FAILED", detail);
  }

  #drop(): void {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.destroy();
  }

  #fail(failure: GetFailure, detail: string): void {
    this.#isBusy = false;
    this.#handler.failed(failure, detail);
  }
}

function encodeRequest({ address, port, path, accept }: GetTarget): string {
  const host = address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
  return `GET ${path} HTTP/1.1\r\nhost: ${host}\r\naccept: ${accept}\r\nuser-agent: signalbox\r\n\r\n`;
}

function tlsOptions(host: string, port: number, tls: ClientTls, onread: object): ConnectionOptions {
  const options: ConnectionOptions & { onread: object } = { host, port, rejectUnauthorized: tls.verifies, onread };
  if (tls.ca !== undefined) options.ca = tls.ca;
  if (tls.cert !== undefined) options.cert = tls.cert;
  if (tls.key !== undefined) options.key = tls.key;
  // tls.connect takes onread as net.connect does (Node's documentation), which its types leave out.
  return options;
}
