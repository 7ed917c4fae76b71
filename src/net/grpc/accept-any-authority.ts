/**
 * Lets an HTTP/2 server take clients whose `:authority` is the name of an Envoy cluster, such as Istio's `outbound|9002||picker.ns.svc.cluster.local`:
 * node's HTTP/2 library resets every stream for the bars. The first bytes of a connection tell whether it is such a client; all others keep node's own
 * way from socket to library, which costs no JavaScript per byte.
 */
import type { Http2SecureServer, Http2Server } from "node:http2";
import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import { AuthorityFilter } from "./authority-filter.ts";

type Accept = (socket: Duplex) => void;

/** Before the server listens. A client that says nothing for so long is dropped. */
export function acceptAnyAuthority(server: Http2Server | Http2SecureServer, handshakeTimeoutMs: number): void {
  const event = "setSecureContext" in server ? "secureConnection" : "connection";
  // The server's own listener, which makes a session of a socket.
  const listener = server.listeners(event)[0] as ((this: unknown, socket: Duplex) => void) | undefined;
  if (listener === undefined) throw new Error(`node's HTTP/2 server no longer listens for ${event}`);
  server.removeListener(event, listener as () => void);
  const accept: Accept = (socket) => listener.call(server, socket);
  server.on(event, (socket: Socket & { readonly alpnProtocol?: string | false }) => {
    // Another protocol is the listener's to refuse.
    if (socket.alpnProtocol !== undefined && socket.alpnProtocol !== "h2") accept(socket);
    else look(socket, accept, handshakeTimeoutMs);
  });
}

function look(socket: Socket, accept: Accept, handshakeTimeoutMs: number): void {
  const silent = setTimeout(() => socket.destroy(), handshakeTimeoutMs);
  const done = (): void => {
    clearTimeout(silent);
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
  const readable = (): void => {
    const chunk = socket.read() as Buffer | null;
    if (chunk === null) return;
    done();
    const filter = new AuthorityFilter();
    const first = filter.push(chunk);
    if (filter.sawBlock && !filter.changed && !filter.sawReset) {
      socket.unshift(chunk);
      accept(socket);
    } else accept(filtered(socket, filter, first));
  };
  socket.on("readable", readable);
  socket.once("end", ended);
  socket.once("close", done);
  socket.on("error", ignore);
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
