/**
 * One persistent connection to a worker's request server. Requests are pipelined; acknowledgements come back in the same order. A connection
 * whose oldest acknowledgement is overdue is given up whole, since nothing behind it can be answered either.
 */
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { AckReader, type AckVerdict, readAck } from "./request-frame.ts";
import type { RequestPlaneSettings } from "./settings.ts";

export type AckOutcome = Exclude<AckVerdict, "accepted"> | "accepted" | "unreachable";

export type AckHandler = (outcome: AckOutcome, message: string) => void;

interface Waiting {
  readonly onAck: AckHandler;
  readonly sinceMs: number;
}

const idleCloseMs = 120_000;
/** Of an acknowledgement; it goes into logs. */
const maxMessageBytes = 1000;

export class WorkerConnection {
  readonly #settings: RequestPlaneSettings;
  readonly #address: string;
  readonly #socket: Socket;
  readonly #waiting: Waiting[];
  readonly #onClosed: () => void;
  readonly #connectTimer: NodeJS.Timeout;
  #ackTimer: NodeJS.Timeout | undefined;
  #isOpen: boolean;
  #isClosed: boolean;

  constructor(address: string, settings: RequestPlaneSettings, onClosed: () => void) {
    this.#settings = settings;
    this.#address = address;
    this.#waiting = [];
    this.#onClosed = onClosed;
    this.#ackTimer = undefined;
    this.#isOpen = false;
    this.#isClosed = false;
    const split = address.lastIndexOf(":");
    const host = address.slice(0, split).replace(/^\[|\]$/g, "");
    const port = Number(address.slice(split + 1));
    const tls = settings.clientTls;
    this.#socket = tls === undefined ? connectTcp({ host, port, noDelay: true }) : connectTls({ host, port, ...tls });
    this.#connectTimer = setTimeout(
      () => this.#fail("does not accept a connection in time"),
      settings.connectTimeoutMs,
    );
    this.#listen(new AckReader((text) => this.#acknowledge(text)), tls === undefined ? "connect" : "secureConnect");
  }

  /** Requests not yet acknowledged. */
  get pending(): number {
    return this.#waiting.length;
  }

  send(frame: Buffer, onAck: AckHandler): void {
    this.#waiting.push({ onAck, sinceMs: performance.now() });
    this.#socket.write(frame);
    if (this.#isOpen) this.#watchAck();
  }

  close(): void {
    this.#fail("was closed by us");
  }

  #listen(acks: AckReader, opened: "connect" | "secureConnect"): void {
    const socket = this.#socket;
    socket.once(opened, () => {
      clearTimeout(this.#connectTimer);
      this.#isOpen = true;
      if (opened === "secureConnect") socket.setNoDelay(true);
      this.#watchAck();
    });
    socket.on("data", (chunk: Buffer) => {
      if (!acks.push(chunk)) this.#fail("sent no acknowledgement but something else");
    });
    socket.on("error", (error) => this.#fail(error.message));
    socket.on("close", () => this.#fail("closed the connection"));
    socket.setTimeout(idleCloseMs, () => {
      if (this.#waiting.length === 0) this.#fail("was not used");
    });
  }

  #acknowledge(text: Buffer): void {
    const waiting = this.#waiting.shift();
    if (waiting === undefined) {
      this.#fail("acknowledged what was not asked");
      return;
    }
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    if (this.#waiting.length > 0) this.#watchAck();
    waiting.onAck(readAck(text), text.toString("utf8", 0, maxMessageBytes));
  }

  /** One timer, for the oldest request; the younger ones are later anyway. */
  #watchAck(): void {
    const oldest = this.#waiting[0];
    if (oldest === undefined || this.#ackTimer !== undefined) return;
    const leftMs = Math.max(1, oldest.sinceMs + this.#settings.ackTimeoutMs - performance.now());
    this.#ackTimer = setTimeout(() => this.#fail("does not acknowledge in time"), leftMs);
  }

  #fail(why: string): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    clearTimeout(this.#connectTimer);
    clearTimeout(this.#ackTimer);
    this.#socket.destroy();
    this.#onClosed();
    for (const { onAck } of this.#waiting.splice(0)) onAck("unreachable", `${this.#address} ${why}`);
  }
}
