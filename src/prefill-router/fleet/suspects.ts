/**
 * Workers whose answers were refused or broke off. Whether such a worker is gone is asked of its process: one TCP connection to its request
 * plane, or of NATS whether anybody serves its subject, and again every second until it listens or its record leaves. Asked at most once at a time and fifty times a second a worker. A refusal
 * blames both legs of a request, so the last worker of a kind stays in the choice until its process has been asked.
 */
import { connect } from "node:net";

export interface SuspectsInit {
  /** "host:port" where the worker listens; undefined: it has no such place. */
  addressOf(workerId: bigint): string | undefined;
  /** For a worker without an address; must not reject. Undefined: it cannot be asked. */
  isServed?(workerId: bigint, timeoutMs: number): Promise<boolean> | undefined;
  /** Others can do its work for as long as it takes to ask. */
  isDispensable(workerId: bigint): boolean;
  exclude(workerId: bigint): void;
  readmit(workerId: bigint): void;
  readonly connectTimeoutMs?: number;
  readonly againMs?: number;
}

const restMs = 200;
/** Rest of one that listened a moment ago and was refused again. */
const shortRestMs = 20;

interface Suspect {
  isExcluded: boolean;
  /** It listened when it was asked last; not asked at the moment. */
  isResting: boolean;
  timer: NodeJS.Timeout | undefined;
}

export class Suspects {
  readonly #init: SuspectsInit;
  readonly #connectTimeoutMs: number;
  readonly #againMs: number;
  readonly #suspects = new Map<bigint, Suspect>();
  readonly #probes = new Set<{ close(): void }>();
  #isClosed = false;

  constructor(init: SuspectsInit) {
    this.#init = init;
    this.#connectTimeoutMs = init.connectTimeoutMs ?? 500;
    this.#againMs = init.againMs ?? 1_000;
  }

  /** Workers that are out of the choice now. */
  get excluded(): readonly bigint[] {
    return [...this.#suspects].filter(([, { isExcluded }]) => isExcluded).map(([id]) => id);
  }

  isExcluded(workerId: bigint): boolean {
    return this.#suspects.get(workerId)?.isExcluded === true;
  }

  /** `isCertain`: out of the choice until it is seen to listen, rather than once it is seen not to. */
  suspect(workerId: bigint, isCertain: boolean): void {
    if (this.#isClosed) return;
    let suspect = this.#suspects.get(workerId);
    if (suspect === undefined) {
      suspect = { isExcluded: false, isResting: false, timer: undefined };
      this.#suspects.set(workerId, suspect);
      this.#probe(workerId, suspect);
    } else if (isCertain && suspect.isResting) {
      suspect.isResting = false;
      clearTimeout(suspect.timer);
      this.#probeAfter(shortRestMs, workerId, suspect);
    }
    if (isCertain && this.#init.isDispensable(workerId)) this.#exclude(workerId, suspect);
  }

  /** Its record has left, or is a new process's. */
  forget(workerId: bigint): void {
    const suspect = this.#suspects.get(workerId);
    if (suspect === undefined) return;
    this.#suspects.delete(workerId);
    clearTimeout(suspect.timer);
  }

  close(): void {
    this.#isClosed = true;
    for (const { timer } of this.#suspects.values()) clearTimeout(timer);
    this.#suspects.clear();
    for (const probe of this.#probes) probe.close();
    this.#probes.clear();
  }

  #exclude(workerId: bigint, suspect: Suspect): void {
    if (suspect.isExcluded) return;
    suspect.isExcluded = true;
    this.#init.exclude(workerId);
  }

  #probe(workerId: bigint, suspect: Suspect): void {
    const address = this.#init.addressOf(workerId);
    const answered = (isListening: boolean): void => {
      if (this.#isClosed || this.#suspects.get(workerId) !== suspect) return;
      if (!isListening) this.#exclude(workerId, suspect);
      this.#rest(workerId, suspect, isListening);
    };
    if (address === undefined) {
      const serving = this.#init.isServed?.(workerId, this.#connectTimeoutMs);
      if (serving === undefined) this.#rest(workerId, suspect, true);
      else void serving.then(answered);
      return;
    }
    const probe = listens(address, this.#connectTimeoutMs, (isListening) => {
      this.#probes.delete(probe);
      answered(isListening);
    });
    this.#probes.add(probe);
  }

  /** A worker that listens is readmitted at once, and asked again only after a rest. */
  #rest(workerId: bigint, suspect: Suspect, isListening: boolean): void {
    if (isListening && suspect.isExcluded) {
      suspect.isExcluded = false;
      this.#init.readmit(workerId);
    }
    suspect.isResting = isListening;
    if (!isListening) {
      this.#probeAfter(this.#againMs, workerId, suspect);
      return;
    }
    suspect.timer = setTimeout(() => {
      if (suspect.isExcluded) this.#probe(workerId, suspect);
      else this.#suspects.delete(workerId);
    }, restMs);
    suspect.timer.unref();
  }

  #probeAfter(ms: number, workerId: bigint, suspect: Suspect): void {
    suspect.timer = setTimeout(() => this.#probe(workerId, suspect), ms);
    suspect.timer.unref();
  }
}

/**
 * A process that is being killed may lose its connections before its listener: what is connected then is reset a moment later, so a connection
 * counts once it has stood for a while, or was accepted and closed in order.
 */
const standsForMs = 100;

function listens(address: string, timeoutMs: number, done: (isListening: boolean) => void): { close(): void } {
  const colon = address.lastIndexOf(":");
  const host = address.slice(0, colon).replace(/^\[|\]$/g, "");
  const socket = connect({ host, port: Number(address.slice(colon + 1)) });
  let standing: NodeJS.Timeout | undefined;
  let isOver = false;
  const end = (): void => {
    isOver = true;
    clearTimeout(standing);
    socket.destroy();
  };
  const settle = (isListening: boolean): void => {
    if (isOver) return;
    end();
    done(isListening);
  };
  socket.setTimeout(timeoutMs, () => settle(false));
  socket.once("connect", () => {
    standing = setTimeout(() => settle(true), standsForMs);
  });
  socket.once("end", () => settle(true)).once("error", () => settle(false));
  socket.resume();
  return { close: end };
}
