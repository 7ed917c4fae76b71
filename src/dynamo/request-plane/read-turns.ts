/**
 * How much of all answers together is read in one turn of the event loop. Without a bound, sixteen workers that send their whole index at once
 * are read two megabytes each a turn, and whatever else waits stands still for a tenth of a second.
 */
const bytesPerTurn = 512 * 1024;
/** Of those that were stopped: each reads one or two pieces of 64 KiB before it is stopped again. */
const socketsPerTurn = 4;

/** What is needed of a socket. */
export interface TurnSocket {
  readonly destroyed: boolean;
  pause(): void;
  resume(): void;
}

/** Who reads from a socket; a reader that was paused by its user is left alone. */
export interface TurnReader {
  readonly isPaused: boolean;
}

export class ReadTurns {
  readonly #stopped = new Map<TurnSocket, TurnReader>();
  #bytes = 0;
  #next: NodeJS.Immediate | undefined;

  /** To be called with what was read: the socket may stand still until a later turn. */
  took(socket: TurnSocket, reader: TurnReader, sizeBytes: number): void {
    this.#bytes += sizeBytes;
    this.#next ??= setImmediate(() => this.#turn());
    if (this.#bytes <= bytesPerTurn || socket.destroyed || reader.isPaused) return;
    socket.pause();
    this.#stopped.set(socket, reader);
  }

  close(): void {
    clearImmediate(this.#next);
    this.#stopped.clear();
  }

  #turn(): void {
    this.#next = undefined;
    this.#bytes = 0;
    let left = socketsPerTurn;
    for (const [socket, reader] of this.#stopped) {
      if (left-- === 0) break;
      this.#stopped.delete(socket);
      if (!socket.destroyed && !reader.isPaused) socket.resume();
    }
    if (this.#stopped.size > 0) this.#next = setImmediate(() => this.#turn());
  }
}
