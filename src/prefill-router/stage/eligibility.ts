/**
 * Who may be chosen for a request, and why the others may not. A pin is the caller's word: nothing but its worker is considered. A preference
 * narrows the choice while its worker is eligible and is forgotten otherwise. Which adapter a worker has loaded narrows it too, unless nobody has it.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import type { Stage } from "../contracts.ts";
import type { Selection, StageRequest } from "../stage.ts";
import type { OverloadWatch } from "./overload.ts";
import { type StageWorker, slotOf } from "./stage-worker.ts";
import { hasRequiredTaints } from "./taints.ts";

export type Verdict = "eligible" | "not-allowed" | "no-adapter" | "suspect" | "no-capacity" | "taints" | "overloaded";

export type Refused = Extract<Selection, { kind: "none" }>;

export interface EligibilityOptions {
  readonly stage: Stage;
  /** Workers that do not tell maxNumBatchedTokens are out of the choice: a queue could not judge their load. */
  readonly needsBatchedTokens: boolean;
}

export class Eligibility {
  readonly #options: EligibilityOptions;
  readonly #overload: OverloadWatch;
  /** Slots that may be chosen, the first `count`. */
  slots = new Int32Array(32);
  /** The worker of each. */
  workers: StageWorker[] = [];
  count = 0;
  /** The choice is forced: an exact pin, whose cost no preference multiplies. */
  isPinned = false;

  constructor(options: EligibilityOptions, overload: OverloadWatch) {
    this.#options = options;
    this.#overload = overload;
  }

  /**
   * Fills `slots` and `workers`; a refusal when nobody is left. A queue asks who could ever serve the request: for it neither overload nor
   * preference counts.
   */
  gather(
    list: readonly StageWorker[],
    byId: ReadonlyMap<bigint, StageWorker>,
    request: StageRequest,
    forQueue: boolean,
  ): Refused | undefined {
    this.count = 0;
    this.isPinned = false;
    if (list.length === 0) return refused("no-workers", `no ${this.#options.stage} worker is registered`);
    if (request.pinned !== undefined) return this.#gatherPinned(byId, request, forQueue);
    const needsAdapter = this.adapterNarrows(list, request);
    if (request.preferred !== undefined && !forQueue) {
      const preferred = byId.get(request.preferred.workerId);
      const slot = preferred === undefined ? -1 : slotOf(preferred, request.preferred.dpRank);
      if (preferred !== undefined && slot >= 0 && this.verdict(preferred, request, needsAdapter) === "eligible") {
        this.#add(preferred, slot);
        return undefined;
      }
    }
    for (let index = 0; index < list.length; index++) {
      const worker = list[index]!;
      const verdict = this.verdict(worker, request, needsAdapter);
      if (verdict === "eligible" || (forQueue && verdict === "overloaded")) this.#addAll(worker);
    }
    return this.count > 0 ? undefined : this.#whyNone(list, request, needsAdapter);
  }

  /** Whether only workers that have the request's adapter are to be considered. */
  adapterNarrows(list: readonly StageWorker[], request: StageRequest): boolean {
    const adapter = request.loraName;
    if (adapter === undefined || request.pinned !== undefined) return false;
    for (let index = 0; index < list.length; index++) {
      const worker = list[index]!;
      if (!worker.worker.loras.has(adapter) || worker.isSuspect) continue;
      if (request.allowedWorkerIds === undefined || request.allowedWorkerIds.has(worker.worker.id)) return true;
    }
    return false;
  }

  verdict(worker: StageWorker, request: StageRequest, needsAdapter: boolean): Verdict {
    const { id, loras, maxNumBatchedTokens } = worker.worker;
    if (request.allowedWorkerIds !== undefined && !request.allowedWorkerIds.has(id)) return "not-allowed";
    if (needsAdapter && request.loraName !== undefined && !loras.has(request.loraName)) return "no-adapter";
    if (worker.isSuspect) return "suspect";
    if (this.#options.needsBatchedTokens && maxNumBatchedTokens === undefined) return "no-capacity";
    if (request.constraints !== undefined && !hasRequiredTaints(request.constraints, worker.taints)) return "taints";
    return this.#overload.isConfigured && this.#isOverloaded(worker) ? "overloaded" : "eligible";
  }

  #isOverloaded(worker: StageWorker): boolean {
    for (let rank = 0; rank < worker.slots.length; rank++) {
      if (!this.#overload.isBusy(worker.slots[rank]!)) return false;
    }
    return worker.slots.length > 0;
  }

  #gatherPinned(byId: ReadonlyMap<bigint, StageWorker>, request: StageRequest, forQueue: boolean): Refused | undefined {
    const pinned = request.pinned;
    if (pinned === undefined) return undefined;
    const name = `pinned ${this.#options.stage} worker ${pinned.workerId}`;
    const worker = byId.get(pinned.workerId);
    if (worker === undefined) return refused("pinned-unavailable", `${name} is not registered`);
    const verdict = this.verdict(worker, request, false);
    if (verdict === "overloaded" && !forQueue) return refused("overloaded", `${name} is overloaded`);
    if (verdict !== "eligible" && verdict !== "overloaded") {
      return refused("pinned-unavailable", `${name} ${verdictText[verdict]}`);
    }
    if (pinned.dpRank === undefined) {
      this.#addAll(worker);
      return undefined;
    }
    const slot = slotOf(worker, pinned.dpRank);
    if (slot < 0) {
      const { dataParallelStartRank: first, dataParallelSize: size } = worker.worker;
      return refused("pinned-unavailable", `${name} has no rank ${pinned.dpRank}, but ${first} to ${first + size - 1}`);
    }
    this.isPinned = true;
    this.#add(worker, slot);
    return undefined;
  }

  #whyNone(list: readonly StageWorker[], request: StageRequest, needsAdapter: boolean): Refused {
    const counts = new Map<Verdict, number>();
    for (const worker of list) {
      const verdict = this.verdict(worker, request, needsAdapter);
      counts.set(verdict, (counts.get(verdict) ?? 0) + 1);
    }
    const kind = `${this.#options.stage} worker${list.length === 1 ? "" : "s"}`;
    if (counts.has("overloaded")) {
      return refused("overloaded", `all ${counts.get("overloaded")} eligible ${kind} are overloaded`);
    }
    const reasons = [...counts].map(([verdict, count]) => `${count} ${verdictText[verdict]}`).join(", ");
    const isGone = (counts.get("suspect") ?? 0) + (counts.get("no-capacity") ?? 0) === list.length;
    return refused(isGone ? "no-workers" : "filtered", `none of ${list.length} ${kind} can be chosen: ${reasons}`);
  }

  #addAll(worker: StageWorker): void {
    for (let rank = 0; rank < worker.slots.length; rank++) this.#add(worker, worker.slots[rank]!);
  }

  #add(worker: StageWorker, slot: number): void {
    if (this.count === this.slots.length) {
      const wider = new Int32Array(this.slots.length * 2);
      wider.set(this.slots);
      this.slots = wider;
    }
    this.slots[this.count] = slot;
    this.workers[this.count] = worker;
    this.count++;
  }
}

export const verdictText: Readonly<Record<Verdict, string>> = {
  eligible: "eligible",
  "not-allowed": "not among those the request allows",
  "no-adapter": "without the adapter",
  suspect: "did not answer a moment ago",
  "no-capacity": "not telling max_num_batched_tokens, which queueing needs",
  taints: "without a required taint",
  overloaded: "overloaded",
};

function refused(why: Refused["why"], message: string): Refused {
  return { kind: "none", why, message };
}
