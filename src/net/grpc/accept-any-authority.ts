/**
 * Lets an HTTP/2 server take clients whose `:authority` is the name of an Envoy cluster, such as Istio's `outbound|9002||picker.ns.svc.cluster.local`:
 * node's HTTP/2 library resets every stream for the bars. The begin of a connection, to the end of its first field block, tells whether it is such a
 * client; all others keep node's own way from socket to library, which costs no JavaScript per byte.
 */
import { getPackedSettings, type Http2SecureServer, type Http2Server, type ServerOptions } from "node:http2";
import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import { AuthorityFilter } from "./authority-filter.ts";

/** RFC 9113 §3.4. */
const clientPreface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const settingsFrame = 4;
/** What is kept of a connection while it is looked at: before a field block no client has much to say, then 64 KiB of bodies until windows open. */
const maxBytesBeforeBlock = 4 * 1024;
const maxSeenBytes = 96 * 1024;
/** How long a client that is there is looked at before it gets the way that serves any. */
const patienceMs = 1_000;

type Accept = (socket: Duplex) => void;

interface LookOptions {
  readonly handshakeTimeoutMs: number;
  /** The server's SETTINGS frame. */
  readonly settings: Buffer;
}

/** Before the server listens. `http2Options` are the server's; a client that says nothing for `handshakeTimeoutMs` is dropped. */
export function acceptAnyAuthority(
  server: Http2Server | Http2SecureServer,
  http2Options: ServerOptions,
  handshakeTimeoutMs: number,
): void {
  const options = { handshakeTimeoutMs, settings: settingsFrameOf(http2Options) };
  const event = "setSecureContext" in server ? "secureConnection" : "connection";
  // The server's own listener, which makes a session of a socket.
  const listener = server.listeners(event)[0] as ((this: unknown, socket: Duplex) => void) | undefined;
  if (listener === undefined) throw new Error(`node's HTTP/2 server no longer listens for ${event}`);
  server.removeListener(event, listener as () => void);
  const accept: Accept = (socket) => listener.call(server, socket);
  server.on(event, (socket: Socket & { readonly alpnProtocol?: string | false }) => {
    // Another protocol is the listener's to refuse.
    if (socket.alpnProtocol !== undefined && socket.alpnProtocol !== "h2") accept(socket);
    else look(socket, accept, options);
  });
}

/**
 * Many clients send no request before they have the server's SETTINGS, and the library would send them only once it has the connection. So a client
 * that has sent none gets the SETTINGS from here, whose acknowledgement the library is not shown.
 */
function look(socket: Socket, accept: Accept, { handshakeTimeoutMs, settings }: LookOptions): void {
  const filter = new AuthorityFilter();
  const groups: (readonly Buffer[])[] = [];
  let start: Buffer = Buffer.alloc(0);
  let seenBytes = 0;
  let hasAsked = false;
  const silent = setTimeout(() => socket.destroy(), handshakeTimeoutMs);
  let patience: NodeJS.Timeout | undefined;
  const done = (): void => {
    clearTimeout(silent);
    clearTimeout(patience);
    socket.off("readable", readable);
    socket.off("close", done);
    socket.off("end", ended);
    socket.off("error", ignore);
  };
  const ended = (): void => {
    done();
    socket.on("error", ignore);
    socket.destroy();
  };
  const acceptDirectly = (bytes: readonly Buffer[]): void => {
    done();
    socket.unshift(Buffer.concat(bytes));
    accept(socket);
  };
  const acceptFiltered = (): void => {
    done();
    accept(filtered(socket, filter, groups));
  };
  const readable = (): void => {
    const chunk = socket.read() as Buffer | null;
    if (chunk === null) return;
    if (start.length < clientPreface.length) {
      start = Buffer.concat([start, chunk.subarray(0, clientPreface.length)]);
      // What is not HTTP/2 is the library's to refuse.
      if (!start.subarray(0, clientPreface.length).equals(clientPreface.subarray(0, start.length))) {
        acceptDirectly([...groups.flat(), chunk]);
        return;
      }
    }
    seenBytes += chunk.length;
    groups.push(...filter.push(chunk));
    const isOdd = filter.changed || filter.sawReset || filter.sawPing || filter.gaveUp;
    if (isOdd) acceptFiltered();
    else if (filter.sawBlock && !filter.expectsAck) acceptDirectly([...groups.flat(), ...filter.takeHeld()]);
    else if (seenBytes > (filter.sawBlock ? maxSeenBytes : maxBytesBeforeBlock)) acceptFiltered();
    else if (!hasAsked && start.length >= clientPreface.length) {
      hasAsked = true;
      filter.expectsAck = true;
      socket.write(settings);
    } else if (filter.sawBlock || (hasAsked && !filter.expectsAck)) {
      // A request without its acknowledgement, or a connection for later: the library has its own limits for those.
      patience ??= setTimeout(acceptFiltered, Math.min(patienceMs, handshakeTimeoutMs));
      clearTimeout(silent);
    }
  };
  socket.on("readable", readable);
  socket.once("end", ended);
  socket.once("close", done);
  socket.on("error", ignore);
}

function settingsFrameOf(options: ServerOptions): Buffer {
  const payload = getPackedSettings(options.settings ?? {});
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = settingsFrame;
  return Buffer.concat([head, payload]);
}

/** The close that follows is what counts. */
function ignore(): void {}

function filtered(socket: Socket, filter: AuthorityFilter, first: readonly (readonly Buffer[])[]): Duplex {
  const duplex = new Duplex({
    read: () => socket.resume(),
    write: (chunk: Buffer, _encoding, written) => void socket.write(chunk, (error) => written(error)),
    writev(chunks, written) {
      socket.cork();
      chunks.forEach(({ chunk }, index) => {
        if (index === chunks.length - 1) socket.write(chunk as Buffer, (error) => written(error));
        else socket.write(chunk as Buffer);
      });
      socket.uncork();
    },
    final: (ended) => void socket.end(() => ended()),
    destroy(error, destroyed) {
      socket.destroy();
      destroyed(error);
    },
  });
  const pushAll = (parts: readonly Buffer[]): void => {
    const [part] = parts;
    if (part === undefined || duplex.destroyed) return;
    if (!duplex.push(parts.length === 1 ? part : Buffer.concat(parts))) socket.pause();
  };
  const pass = (groups: readonly (readonly Buffer[])[]): void => {
    const [group = [], ...others] = groups;
    pushAll(group);
    // Behind what the library has scheduled to tell of it, and before anything else is read.
    if (others.length > 0) process.nextTick(pass, others);
  };
  pass(first);
  socket.on("data", (chunk: Buffer) => pass(filter.push(chunk)));
  socket.once("end", () => duplex.push(null));
  socket.once("error", (error) => duplex.destroy(error));
  socket.once("close", () => duplex.destroy());
  return duplex;
}
