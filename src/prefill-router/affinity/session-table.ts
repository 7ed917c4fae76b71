/**
 * Which rank a session's requests go to, for one stage. A binding lasts while requests of the session run and for a time after the last one
 * ended; one that never brought an answer is forgotten with its requests. Bounded in sessions and in bytes of their ids. Time is an argument.
 */
import type { RouterWorker, WorkerRank } from "../contracts.ts";

/** What a bound session does when its rank cannot be chosen: `hard` refuses the request once and forgets, `soft` follows the choice. */
export type AffinityMode = "hard" | "soft";

export interface AffinitySettings {
  readonly ttlMs: number;
  readonly mode: AffinityMode;
  readonly maxSessions: number;
}

/** Dynamo's bounds. */
export const defaultMaxSessions = 65_536;
const maxIdBytes = 256;

interface Binding {
  workerId: bigint;
  dpRank: number;
  /** The worker's name across restarts: a session follows it to the new id. */
  stableRoutingId: string | undefined;
  /** Requests of the session that run now. */
  uses: number;
  /** An answer has come from it. */
  isProven: boolean;
  isFinal: boolean;
  idleSinceMs: number;
}

/** One request's use of a binding. Both methods may be called late; `release` counts once. */
export interface SessionUse {
  /** The rank has answered. */
  prove(): void;
  release(isFinal: boolean, nowMs: number): void;
}

export class SessionTable {
  readonly #settings: AffinitySettings;
  readonly #bindings = new Map<string, Binding>();
  /** Nothing can have expired before this time: a full table is not scanned for every request. */
  #nextSweepMs = 0;

  constructor(settings: AffinitySettings) {
    this.#settings = settings;
  }

  get size(): number {
    return this.#bindings.size;
  }

  /**
   * The rank the session is bound to. `find` returns the worker of an id, or the one that carries a stable routing id now; a binding whose
   * worker is gone is forgotten.
   */
  target(
    sessionId: string,
    find: (workerId: bigint, stableRoutingId: string | undefined) => RouterWorker | undefined,
    nowMs: number,
  ): WorkerRank | undefined {
    const binding = this.#bindings.get(sessionId);
    if (binding === undefined) return undefined;
    const worker = this.#isExpired(binding, nowMs) ? undefined : find(binding.workerId, binding.stableRoutingId);
    if (worker === undefined || !hasRank(worker, binding.dpRank)) {
      this.#bindings.delete(sessionId);
      return undefined;
    }
    binding.workerId = worker.id;
    return { workerId: worker.id, dpRank: binding.dpRank };
  }

  /** Binds the session to the rank, or joins the binding to it. Undefined: the table is full or the id too long, and the session goes unbound. */
  use(sessionId: string, worker: RouterWorker, dpRank: number, nowMs: number): SessionUse | undefined {
    const known = this.#bindings.get(sessionId);
    if (known !== undefined) {
      known.workerId = worker.id;
      known.dpRank = dpRank;
      known.stableRoutingId = worker.stableRoutingId;
      known.uses += 1;
      return this.#useOf(sessionId, known);
    }
    if (!isFitId(sessionId) || !this.#hasRoom(nowMs)) return undefined;
    const binding: Binding = {
      workerId: worker.id,
      dpRank,
      stableRoutingId: worker.stableRoutingId,
      uses: 1,
      isProven: false,
      isFinal: false,
      idleSinceMs: nowMs,
    };
    this.#bindings.set(sessionId, binding);
    return this.#useOf(sessionId, binding);
  }

  /** The next request of the session chooses anew. */
  forget(sessionId: string): void {
    this.#bindings.delete(sessionId);
  }

  /** Forgets what has been idle for too long; returns how many. */
  sweep(nowMs: number): number {
    const before = this.#bindings.size;
    let next = nowMs + this.#settings.ttlMs;
    for (const [sessionId, binding] of this.#bindings) {
      if (this.#isExpired(binding, nowMs)) this.#bindings.delete(sessionId);
      else if (binding.uses === 0) next = Math.min(next, binding.idleSinceMs + this.#settings.ttlMs);
    }
    this.#nextSweepMs = next;
    return before - this.#bindings.size;
  }

  clear(): void {
    this.#bindings.clear();
  }

  #isExpired(binding: Binding, nowMs: number): boolean {
    return binding.uses === 0 && nowMs - binding.idleSinceMs >= this.#settings.ttlMs;
  }

  #hasRoom(nowMs: number): boolean {
    if (this.#bindings.size < this.#settings.maxSessions) return true;
    return nowMs >= this.#nextSweepMs && this.sweep(nowMs) > 0;
  }

  #useOf(sessionId: string, binding: Binding): SessionUse {
    let isReleased = false;
    return {
      prove: () => {
        binding.isProven = true;
      },
      release: (isFinal, nowMs) => {
        if (isReleased) return;
        isReleased = true;
        binding.uses -= 1;
        binding.idleSinceMs = nowMs;
        binding.isFinal ||= isFinal;
        if (binding.uses > 0 || (binding.isProven && !binding.isFinal)) return;
        // A binding that was forgotten meanwhile may have a successor of the same id.
        if (this.#bindings.get(sessionId) === binding) this.#bindings.delete(sessionId);
      },
    };
  }
}

function hasRank(worker: RouterWorker, dpRank: number): boolean {
  return dpRank >= worker.dataParallelStartRank && dpRank < worker.dataParallelStartRank + worker.dataParallelSize;
}

/** A UTF-16 unit is at most three bytes of UTF-8. */
function isFitId(sessionId: string): boolean {
  if (sessionId.length > maxIdBytes) return false;
  return sessionId.length * 3 <= maxIdBytes || Buffer.byteLength(sessionId) <= maxIdBytes;
}
