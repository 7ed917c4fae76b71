/**
 * The workers of both stages, their place in the index, who is suspect, and what the set can do. A worker stands in the prefill stage or in
 * the decode stage, never in both: one of role "aggregated" computes its prompts in the decode stage.
 */
import type { RouterWorker, Topology, WorkerRank } from "../contracts.ts";
import type { PlannedStage, RouterIndex, Timers } from "./contracts.ts";

export interface RosterOptions {
  readonly prefill: PlannedStage;
  readonly decode: PlannedStage;
  readonly index: RouterIndex | undefined;
  readonly isDisaggEnforced: boolean;
  readonly now: () => number;
  readonly timers: Timers;
  /** A worker came, left, changed or may be chosen again. */
  readonly changed: () => void;
}

interface Suspicion {
  readonly untilMs: number;
  readonly cancel: () => void;
}

export class Roster {
  readonly #options: RosterOptions;
  /** By worker, then by rank. Holders may be known before their worker is. */
  readonly #holders = new Map<bigint, Map<number, number>>();
  readonly #suspects = new Map<bigint, Suspicion>();
  readonly #byStableId = new Map<string, bigint>();
  #decodeOnly = 0;
  topology: Topology = "empty";
  /** Grows when workers change; what is derived from them is stale then. */
  version = 0;

  constructor(options: RosterOptions) {
    this.#options = options;
  }

  workerOf(stage: PlannedStage, workerId: bigint, stableRoutingId: string | undefined): RouterWorker | undefined {
    const own = stage.workers.get(workerId);
    if (own !== undefined) return this.isSuspect(workerId) ? undefined : own;
    const heir = stableRoutingId === undefined ? undefined : this.#byStableId.get(stableRoutingId);
    return heir === undefined || this.isSuspect(heir) ? undefined : stage.workers.get(heir);
  }

  isSuspect(workerId: bigint): boolean {
    return this.#suspects.has(workerId);
  }

  holderOf(workerId: bigint, dpRank: number): number | undefined {
    return this.#holders.get(workerId)?.get(dpRank);
  }

  upsert(worker: RouterWorker): void {
    const known = this.#known(worker.id);
    // A worker in another role has another place, and what ran there runs there no more.
    if (known !== undefined && this.#stageOf(known) !== this.#stageOf(worker)) this.remove(worker.id);
    else if (known !== undefined) this.#forgetFacts(known);
    this.#clearSuspicion(worker.id);
    const stage = this.#stageOf(worker);
    stage.upsertWorker(worker);
    if (worker.role === "decode") this.#decodeOnly += 1;
    if (worker.stableRoutingId !== undefined) this.#byStableId.set(worker.stableRoutingId, worker.id);
    this.#placeRanks(worker, stage);
    this.#refresh();
  }

  remove(workerId: bigint): void {
    const worker = this.#known(workerId);
    this.#clearSuspicion(workerId);
    this.#detachOwn(workerId, undefined);
    this.#holders.delete(workerId);
    if (worker === undefined) return;
    this.#forgetFacts(worker);
    this.#stageOf(worker).removeWorker(workerId);
    this.#refresh();
  }

  setHolder(rank: WorkerRank, holder: number | undefined): void {
    let ranks = this.#holders.get(rank.workerId);
    if (holder === undefined) {
      ranks?.delete(rank.dpRank);
      if (ranks?.size === 0) this.#holders.delete(rank.workerId);
    } else {
      if (ranks === undefined) {
        ranks = new Map();
        this.#holders.set(rank.workerId, ranks);
      }
      ranks.set(rank.dpRank, holder);
    }
    const worker = this.#known(rank.workerId);
    if (worker !== undefined) this.#stageOf(worker).setHolder(rank, holder);
    this.version += 1;
  }

  suspect(workerId: bigint, forMs: number): void {
    const worker = this.#known(workerId);
    if (worker === undefined) return;
    if (!(forMs > 0)) {
      this.#clearSuspicion(workerId);
      this.#options.changed();
      return;
    }
    const untilMs = this.#options.now() + forMs;
    const earlier = this.#suspects.get(workerId);
    if (earlier !== undefined && earlier.untilMs >= untilMs) return;
    earlier?.cancel();
    const cancel =
      forMs === Number.POSITIVE_INFINITY
        ? () => {}
        : this.#options.timers.after(forMs, () => {
            this.#clearSuspicion(workerId);
            this.#options.changed();
          });
    this.#suspects.set(workerId, { untilMs, cancel });
    this.#stageOf(worker).setSuspect(workerId, true);
  }

  *workers(): IterableIterator<RouterWorker> {
    yield* this.#options.prefill.workers.values();
    yield* this.#options.decode.workers.values();
  }

  close(): void {
    for (const suspicion of this.#suspects.values()) suspicion.cancel();
    this.#suspects.clear();
    for (const worker of Array.from(this.workers())) this.remove(worker.id);
    this.#holders.clear();
  }

  #known(workerId: bigint): RouterWorker | undefined {
    return this.#options.prefill.workers.get(workerId) ?? this.#options.decode.workers.get(workerId);
  }

  #stageOf(worker: RouterWorker): PlannedStage {
    return worker.role === "prefill" ? this.#options.prefill : this.#options.decode;
  }

  #forgetFacts(worker: RouterWorker): void {
    if (worker.role === "decode") this.#decodeOnly -= 1;
    const { stableRoutingId } = worker;
    if (stableRoutingId !== undefined && this.#byStableId.get(stableRoutingId) === worker.id) {
      this.#byStableId.delete(stableRoutingId);
    }
  }

  #clearSuspicion(workerId: bigint): void {
    const suspicion = this.#suspects.get(workerId);
    if (suspicion === undefined) return;
    suspicion.cancel();
    this.#suspects.delete(workerId);
    const worker = this.#known(workerId);
    if (worker !== undefined) this.#stageOf(worker).setSuspect(workerId, false);
  }

  #placeRanks(worker: RouterWorker, stage: PlannedStage): void {
    const own = this.#options.index?.ownHolders;
    if (own !== undefined) this.#detachOwn(worker.id, worker);
    const end = worker.dataParallelStartRank + worker.dataParallelSize;
    for (let dpRank = worker.dataParallelStartRank; dpRank < end; dpRank++) {
      const rank = { workerId: worker.id, dpRank };
      const holder = this.holderOf(worker.id, dpRank);
      if (holder !== undefined) stage.setHolder(rank, holder);
      else if (own !== undefined) this.setHolder(rank, own.attach(worker.totalKvBlocks, rank));
    }
  }

  /** Gives back the holders the router attached itself: all, or those of ranks the worker has no more. */
  #detachOwn(workerId: bigint, keep: RouterWorker | undefined): void {
    const own = this.#options.index?.ownHolders;
    const ranks = this.#holders.get(workerId);
    if (own === undefined || ranks === undefined) return;
    for (const [dpRank, holder] of ranks) {
      const isKept =
        keep !== undefined &&
        dpRank >= keep.dataParallelStartRank &&
        dpRank < keep.dataParallelStartRank + keep.dataParallelSize;
      if (isKept) continue;
      ranks.delete(dpRank);
      own.detach(holder);
    }
  }

  #refresh(): void {
    const { prefill, decode, isDisaggEnforced } = this.#options;
    this.topology = topologyOf(prefill.workers.size, decode.workers.size, isDisaggEnforced && this.#decodeOnly > 0);
    this.version += 1;
    this.#options.changed();
  }
}

/** With any prefill worker registered, no request goes without its prefill leg: the workers' own frontends refuse it then. */
function topologyOf(prefillWorkers: number, decodeWorkers: number, needsPrefill: boolean): Topology {
  if (prefillWorkers > 0) return decodeWorkers > 0 ? "disaggregated" : "waiting";
  if (decodeWorkers === 0) return "empty";
  return needsPrefill ? "waiting" : "aggregated";
}
