/** One worker set over its life: takes what it is to be, tells the listener what that changes, and holds the claim on the model's files. */
import type { ModelCard } from "../model-card/model-card.ts";
import type { ModelFilesState } from "../model-card/model-files.ts";
import type { ModelFiles } from "../model-card/model-files-keeper.ts";
import type { AssembledSet } from "./assemble.ts";
import type { RejectedWorkers, SetState, SetWorker, WorkerSet, WorkerSetListener } from "./worker-set.ts";

export class LiveSet implements WorkerSet {
  readonly key: string;
  readonly namespace: string;
  readonly model: string;
  state: SetState = "incomplete";
  reason = "";
  topology: WorkerSet["topology"] = "aggregated";
  card: ModelCard | undefined;
  files: ModelFilesState | undefined;
  servingWorkers = 0;
  rejected: readonly RejectedWorkers[] = [];
  readonly workers = new Map<bigint, SetWorker>();
  readonly #listener: WorkerSetListener;
  readonly #files: ModelFiles | undefined;
  #isTold = false;

  constructor(
    key: string,
    namespace: string,
    model: string,
    listener: WorkerSetListener,
    files: ModelFiles | undefined,
  ) {
    this.key = key;
    this.namespace = namespace;
    this.model = model;
    this.#listener = listener;
    this.#files = files;
  }

  become(next: AssembledSet): void {
    const before = this.#face();
    this.#claimFiles(next);
    const isWaitingForFiles = next.state === "ready" && this.files !== undefined && this.files.kind !== "ready";
    this.state = isWaitingForFiles ? "waiting-for-files" : next.state;
    this.reason = isWaitingForFiles ? filesReason(this.files) : next.reason;
    this.topology = next.topology;
    this.card = next.card;
    this.servingWorkers = next.servingWorkers;
    this.rejected = next.rejected;
    if (!this.#isTold) this.#listener.setAdded(this);
    this.#changeWorkers(next.workers);
    if (this.#isTold && this.#face() !== before) this.#listener.setChanged(this);
    this.#isTold = true;
  }

  close(): void {
    this.#changeWorkers(new Map());
    if (this.card !== undefined) this.#files?.drop(this.card.fingerprint, this);
    this.#listener.setRemoved(this);
  }

  /** Files are wanted as soon as somebody serves, ready or not: the set then waits for one thing less. */
  #claimFiles(next: AssembledSet): void {
    const old = this.card?.fingerprint;
    if (old !== undefined && old !== next.card?.fingerprint) this.#files?.drop(old, this);
    this.files = next.card === undefined ? undefined : this.#files?.want(next.cards, this);
  }

  /** Those that go are told first: an id that changed its role is another worker. */
  #changeWorkers(next: ReadonlyMap<bigint, SetWorker>): void {
    for (const [id, worker] of this.workers) {
      if (isSuccessor(worker, next.get(id))) continue;
      this.workers.delete(id);
      this.#listener.workerRemoved(this, worker);
    }
    for (const [id, worker] of next) {
      const known = this.workers.get(id);
      if (known !== undefined && isEqual(known, worker)) continue;
      this.workers.set(id, worker);
      if (known === undefined) this.#listener.workerAdded(this, worker);
      else this.#listener.workerChanged(this, worker);
    }
  }

  #face(): string {
    const { state, reason, topology, card, files } = this;
    return [state, reason, topology, card?.fingerprint ?? "", files?.kind ?? ""].join("\n");
  }
}

function filesReason(files: ModelFilesState | undefined): string {
  return files?.kind === "failed" ? files.reason : "the model's files are being fetched";
}

function isSuccessor(worker: SetWorker, next: SetWorker | undefined): boolean {
  return next !== undefined && next.role === worker.role && next.card.fingerprint === worker.card.fingerprint;
}

function isEqual(a: SetWorker, b: SetWorker): boolean {
  if (a === b) return true;
  return (
    a.card === b.card && a.instance === b.instance && isSameMap(a.loras, b.loras) && isSameMap(a.sources, b.sources)
  );
}

function isSameMap<K, V>(a: ReadonlyMap<K, V>, b: ReadonlyMap<K, V>): boolean {
  if (a.size !== b.size) return false;
  for (const [key, value] of a) {
    if (b.get(key) !== value) return false;
  }
  return true;
}
