/**
 * Fetches an engine's past batches from its replay port, as vLLM serves it: a DEALER asks `["", sequence]` and reads `["", sequence, payload]` until
 * the sequence −1. A source that stalls or breaks is left alone for a while; a few replays run at once, however many engines ask.
 */
import type { Dealer } from "zeromq";
import { TurnBudget } from "./turn-budget.ts";
import { loadZeromq, socketOptions } from "./zeromq-context.ts";

/** Bounds of the reference. */
export const replayLimits = { idleMs: 2000, totalMs: 120_000, cooldownMs: 30_000, concurrent: 8 } as const;

export interface ReplayLimits {
  readonly idleMs: number;
  readonly totalMs: number;
  readonly cooldownMs: number;
}

export interface ReplayHandler {
  replayed(sequence: number, payload: Buffer): void;
  replayEnded(isComplete: boolean): void;
}

/** Lets `limit` holders in at once, the others in their order. */
export class Turnstile {
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(limit: number) {
    this.#free = limit;
  }

  async enter(): Promise<void> {
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#free += 1;
    else next();
  }
}

/** Over all engines of the process. */
const sharedTurnstile = new Turnstile(replayLimits.concurrent);

export class ReplayClient {
  readonly #endpoint: string;
  readonly #handler: ReplayHandler;
  readonly #limits: ReplayLimits;
  readonly #now: () => number;
  readonly #running = new Set<Replay>();
  #readyAtMs = Number.NEGATIVE_INFINITY;

  constructor(endpoint: string, handler: ReplayHandler, now: () => number, limits: ReplayLimits = replayLimits) {
    this.#endpoint = endpoint;
    this.#handler = handler;
    this.#now = now;
    this.#limits = limits;
  }

  get isReady(): boolean {
    return this.#now() >= this.#readyAtMs;
  }

  /** A first replay that fails leaves the source ready: the engine may not be there yet. */
  start(from: number, isFirst = false): { cancel(): void } {
    const replay = new Replay(this.#endpoint, from, this.#handler, this.#limits, this.#now, (isComplete) => {
      this.#running.delete(replay);
      if (!isComplete && !isFirst) this.#readyAtMs = this.#now() + this.#limits.cooldownMs;
    });
    this.#running.add(replay);
    replay.run();
    return replay;
  }

  async close(): Promise<void> {
    const replays = [...this.#running];
    for (const replay of replays) replay.cancel();
    await Promise.all(replays.map((replay) => replay.done));
  }
}

class Replay {
  readonly #endpoint: string;
  readonly #from: number;
  readonly #handler: ReplayHandler;
  readonly #limits: ReplayLimits;
  readonly #now: () => number;
  readonly #ended: (isComplete: boolean) => void;
  done: Promise<void> = Promise.resolve();
  #socket: Dealer | undefined;
  #isCancelled = false;

  constructor(
    endpoint: string,
    from: number,
    handler: ReplayHandler,
    limits: ReplayLimits,
    now: () => number,
    ended: (isComplete: boolean) => void,
  ) {
    this.#endpoint = endpoint;
    this.#from = from;
    this.#handler = handler;
    this.#limits = limits;
    this.#now = now;
    this.#ended = ended;
  }

  run(): void {
    this.done = this.#run();
  }

  cancel(): void {
    this.#isCancelled = true;
    this.#socket?.close();
  }

  async #run(): Promise<void> {
    await sharedTurnstile.enter();
    let isComplete = false;
    try {
      if (!this.#isCancelled) isComplete = await this.#read();
    } catch {
      // Timed out, refused or closed: all the same to whoever asked.
    } finally {
      this.#socket?.close();
      sharedTurnstile.leave();
    }
    const wasCancelled = this.#isCancelled;
    this.#ended(isComplete || wasCancelled);
    if (!wasCancelled) this.#handler.replayEnded(isComplete);
  }

  async #read(): Promise<boolean> {
    const zeromq = await loadZeromq();
    if (this.#isCancelled) return false;
    const { idleMs, totalMs } = this.#limits;
    const socket = new zeromq.Dealer({
      ...socketOptions(zeromq, this.#endpoint),
      receiveTimeout: idleMs,
      sendTimeout: idleMs,
      maxMessageSize,
    });
    this.#socket = socket;
    socket.connect(this.#endpoint);
    const request = Buffer.alloc(8);
    request.writeBigUInt64BE(BigInt(this.#from));
    await socket.send([noBytes, request]);
    const deadlineMs = this.#now() + totalMs;
    const budget = new TurnBudget();
    while (this.#now() < deadlineMs) {
      const frames = await socket.receive();
      if (this.#isCancelled) return false;
      const sequence = sequenceOf(frames.at(-2));
      const payload = frames.at(-1);
      if (sequence === endOfReplay) return true;
      if (sequence !== undefined && payload !== undefined) this.#handler.replayed(sequence, payload);
      await budget.pause();
    }
    return false;
  }
}

/** Larger than any engine's batch: two million tokens, of five bytes each, with their blocks. */
export const maxMessageSize = 16 * 1024 * 1024;
export const endOfReplay = -1;
const noBytes = Buffer.alloc(0);

/** Eight bytes, big endian; undefined for anything else. −1 ends a replay; no publisher counts beyond 2⁵³. */
export function sequenceOf(frame: Buffer | undefined): number | undefined {
  if (frame?.length !== 8) return undefined;
  const high = frame.readInt32BE(0);
  const low = frame.readUInt32BE(4);
  if (high === -1 && low === 0xffffffff) return endOfReplay;
  return high < 0 || high > 0x1fffff ? undefined : high * 2 ** 32 + low;
}
