/**
 * A worker's records are told while its pod is ready and its metadata are that pod's: a pod that takes over a name never inherits what the one
 * before it registered. A key belongs to the worker that had it first.
 */
import type { Logger } from "../../../telemetry/log.ts";
import type { RecordTable } from "../record-table.ts";
import type { ReadinessIndex } from "./readiness-index.ts";
import type { WorkerMetadata, WorkerRecord, WorkerRecords } from "./worker-metadata.ts";

const noRecords: WorkerRecords = new Map();

export class WorkerJoin {
  readonly #ready: Pick<ReadinessIndex, "podUidOf">;
  readonly #table: RecordTable;
  readonly #log: Logger;
  readonly #metadata = new Map<string, WorkerMetadata>();
  /** Worker → its records as they were told. */
  readonly #told = new Map<string, WorkerRecords>();
  readonly #ownerOfKey = new Map<string, string>();
  /** Keys of others that a worker registers too. */
  readonly #waiting = new Map<string, Set<string>>();

  constructor(ready: Pick<ReadinessIndex, "podUidOf">, table: RecordTable, log: Logger) {
    this.#ready = ready;
    this.#table = table;
    this.#log = log;
  }

  /** Workers whose records are told. */
  get size(): number {
    return this.#told.size;
  }

  readinessChanged(workers: ReadonlySet<string>): void {
    for (const worker of workers) this.#reconcile(worker);
  }

  put(worker: string, metadata: WorkerMetadata): void {
    const before = this.#metadata.get(worker);
    const { podUid, records } = metadata;
    // An object in the making or damaged takes nothing away from the same pod's worker.
    const kept = records ?? (before?.podUid === podUid ? before?.records : undefined);
    this.#metadata.set(worker, { podUid, records: kept });
    this.#reconcile(worker);
  }

  remove(worker: string): void {
    if (this.#metadata.delete(worker)) this.#reconcile(worker);
  }

  /** What has gone goes first. */
  replace(all: ReadonlyMap<string, WorkerMetadata>): void {
    for (const worker of this.#metadata.keys()) if (!all.has(worker)) this.remove(worker);
    for (const [worker, metadata] of all) this.put(worker, metadata);
  }

  #wantedOf(worker: string): WorkerRecords {
    const metadata = this.#metadata.get(worker);
    if (metadata?.records === undefined || metadata.podUid === undefined) return noRecords;
    return this.#ready.podUidOf(worker) === metadata.podUid ? metadata.records : noRecords;
  }

  #reconcile(worker: string): void {
    const wanted = this.#wantedOf(worker);
    const told = this.#told.get(worker) ?? noRecords;
    if (wanted === told) return;
    if (wanted.size === 0) this.#told.delete(worker);
    else this.#told.set(worker, wanted);
    // Endpoints stand last and go first.
    for (const key of [...told.keys()].reverse()) if (!wanted.has(key)) this.#release(key, worker);
    for (const [key, record] of wanted) this.#claim(key, record, worker);
  }

  #claim(key: string, record: WorkerRecord, worker: string): void {
    const owner = this.#ownerOfKey.get(key) ?? worker;
    if (owner === worker) {
      this.#ownerOfKey.set(key, worker);
      this.#table.put(key, record.text, record.record);
      return;
    }
    const waiting = this.#waiting.get(key) ?? new Set<string>();
    if (!waiting.has(worker))
      this.#log.warn({ key, owner, worker }, "two workers register one record; the first counts");
    this.#waiting.set(key, waiting.add(worker));
  }

  #release(key: string, worker: string): void {
    const waiting = this.#waiting.get(key);
    waiting?.delete(worker);
    if (waiting?.size === 0) this.#waiting.delete(key);
    if (this.#ownerOfKey.get(key) !== worker) return;
    this.#ownerOfKey.delete(key);
    this.#table.remove(key);
    const [heir] = waiting ?? [];
    const record = heir === undefined ? undefined : this.#told.get(heir)?.get(key);
    if (heir === undefined || record === undefined) return;
    waiting?.delete(heir);
    if (waiting?.size === 0) this.#waiting.delete(key);
    this.#claim(key, record, heir);
  }
}
