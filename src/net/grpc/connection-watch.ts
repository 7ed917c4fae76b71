/**
 * Every connection of an HTTP/2 server and what it owes: a preface in time, life while it has streams, streams within the idle time,
 * streams that ask something, and an end to a goodbye. One timer looks at all of them.
 */
import { type Http2Session, constants as http2Constants } from "node:http2";
import type { Socket } from "node:net";

export interface ConnectionTimes {
  readonly handshakeTimeoutMs: number;
  /** 0 keeps connections without streams for ever. */
  readonly idleTimeoutMs: number;
  readonly keepaliveMs: number;
}

/**
 * Streams that end without a message, of one connection: so many at once, and so many a second later on. A gateway's cancelled requests
 * stay orders of magnitude below it; opening and resetting streams in a loop (CVE-2023-44487) does not.
 */
const barrenBurst = 10_000;
const barrenPerSecond = 1_000;

interface Connection {
  /** Streams that ended without a message, less what time has forgiven. */
  barrenStreams: number;
  openStreams: number;
  prefaceDone: boolean;
  /** When it was opened, lost its last stream or showed other life. */
  quietSinceMs: number;
  pingedAtMs: number;
  pingOutstanding: boolean;
}

export class ConnectionWatch {
  private readonly times: ConnectionTimes;
  private readonly connections: Map<Http2Session, Connection>;
  private readonly sockets: Set<Socket>;
  private readonly endedSockets: Set<Socket>;
  private timer: NodeJS.Timeout | undefined;

  constructor(times: ConnectionTimes) {
    this.times = times;
    this.connections = new Map();
    this.sockets = new Set();
    this.endedSockets = new Set();
    this.timer = undefined;
  }

  get size(): number {
    return this.connections.size;
  }

  /** `alsoSweep` is called with the same clock at every look. */
  start(alsoSweep: (nowMs: number) => void): void {
    const { handshakeTimeoutMs, idleTimeoutMs, keepaliveMs } = this.times;
    const shortestMs = Math.min(handshakeTimeoutMs, keepaliveMs, idleTimeoutMs > 0 ? idleTimeoutMs : Infinity);
    let lookedAtMs = performance.now();
    this.timer = setInterval(
      () => {
        const nowMs = performance.now();
        this.forgive(((nowMs - lookedAtMs) * barrenPerSecond) / 1_000);
        lookedAtMs = nowMs;
        this.sweepSockets();
        this.sweepConnections(nowMs);
        alsoSweep(nowMs);
      },
      Math.max(10, shortestMs / 4),
    );
    this.timer.unref();
  }

  addSocket(socket: Socket): void {
    this.sockets.add(socket);
    socket.setNoDelay(true);
    socket.once("close", () => {
      this.sockets.delete(socket);
      this.endedSockets.delete(socket);
    });
  }

  addSession(session: Http2Session): void {
    const nowMs = performance.now();
    const connection: Connection = {
      barrenStreams: 0,
      openStreams: 0,
      prefaceDone: false,
      quietSinceMs: nowMs,
      pingedAtMs: nowMs,
      pingOutstanding: false,
    };
    this.connections.set(session, connection);
    session.once("close", () => this.connections.delete(session));
    session.on("remoteSettings", () => {
      connection.prefaceDone = true;
    });
    session.on("ping", () => {
      connection.quietSinceMs = performance.now();
    });
  }

  streamOpened(session: Http2Session): void {
    const connection = this.connections.get(session);
    if (connection !== undefined) connection.openStreams++;
  }

  streamClosed(session: Http2Session): void {
    const connection = this.connections.get(session);
    if (connection === undefined) return;
    connection.openStreams--;
    connection.quietSinceMs = performance.now();
  }

  /** A stream ended, or was refused, without a message. A connection of nothing but such streams is dropped. */
  streamWasBarren(session: Http2Session): void {
    const connection = this.connections.get(session);
    if (connection === undefined) return;
    connection.barrenStreams++;
    if (connection.barrenStreams > barrenBurst) session.destroy(undefined, http2Constants.NGHTTP2_ENHANCE_YOUR_CALM);
  }

  private forgive(streams: number): void {
    for (const connection of this.connections.values()) {
      connection.barrenStreams = Math.max(0, connection.barrenStreams - streams);
    }
  }

  /** GOAWAY on every connection; open streams live on. */
  sayGoodbye(): void {
    for (const session of this.connections.keys()) session.close();
  }

  /** Ends every connection now, and the timer. */
  destroy(): void {
    clearInterval(this.timer);
    for (const session of this.connections.keys()) session.destroy();
    for (const socket of this.sockets) socket.destroy();
  }

  private sweepConnections(nowMs: number): void {
    const { handshakeTimeoutMs, idleTimeoutMs } = this.times;
    for (const [session, connection] of this.connections) {
      const quietMs = nowMs - connection.quietSinceMs;
      if (!connection.prefaceDone) {
        if (quietMs >= handshakeTimeoutMs) session.destroy();
      } else if (connection.openStreams > 0) {
        this.keepAlive(session, connection, nowMs);
      } else if (idleTimeoutMs > 0 && quietMs >= idleTimeoutMs) {
        session.close();
      }
    }
  }

  /** A peer that vanished without a word would keep its streams open for as long as TCP believes in it. */
  private keepAlive(session: Http2Session, connection: Connection, nowMs: number): void {
    if (nowMs - connection.pingedAtMs < this.times.keepaliveMs) return;
    if (connection.pingOutstanding) {
      session.destroy();
      return;
    }
    connection.pingedAtMs = nowMs;
    connection.pingOutstanding = session.ping(() => {
      connection.pingOutstanding = false;
    });
  }

  /** A socket that we ended and whose peer does not end its side has the time between two looks to do so. */
  private sweepSockets(): void {
    for (const socket of this.sockets) {
      if (!socket.writableEnded) continue;
      if (this.endedSockets.has(socket)) socket.destroy();
      else this.endedSockets.add(socket);
    }
  }
}
