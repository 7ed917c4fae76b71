/**
 * The registered workers and the partitions they stand in. A worker is in a partition's choice exactly while its record is schedulable; changes
 * are made one after the other, so that no two registrations of a worker cross.
 */
import type { Logger } from "../../telemetry/log.ts";
import { hasQueue } from "../policy/policy-class.ts";
import { BadRequest } from "./body.ts";
import { Partition, type PartitionOptions } from "./partition.ts";
import { eventEndpointsOf, missingFacts, patched, type WorkerFacts, type WorkerRecord } from "./worker-record.ts";
import { endpointFault } from "./zmq-endpoint.ts";

export interface CatalogueOptions
  extends Omit<PartitionOptions, "modelName" | "routingGroup" | "blockSize" | "isEagle"> {
  /** Told of each partition that is made. */
  readonly partitionMade: (partition: Partition) => void;
}

export class Catalogue {
  readonly #options: CatalogueOptions;
  readonly #log: Logger;
  readonly #workers = new Map<bigint, WorkerRecord>();
  readonly #partitions = new Map<string, Partition>();
  #lastChange: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  constructor(options: CatalogueOptions) {
    this.#options = options;
    this.#log = options.log;
  }

  get(workerId: bigint): WorkerRecord | undefined {
    return this.#workers.get(workerId);
  }

  /** By model, group and id. */
  list(modelName?: string, routingGroup?: string): WorkerRecord[] {
    return Array.from(this.#workers.values())
      .filter((record) => modelName === undefined || record.modelName === modelName)
      .filter((record) => routingGroup === undefined || record.routingGroup === routingGroup)
      .sort(
        (a, b) =>
          compare(a.modelName, b.modelName) ||
          compare(a.routingGroup, b.routingGroup) ||
          (a.workerId < b.workerId ? -1 : 1),
      );
  }

  get schedulable(): number {
    let count = 0;
    for (const { lifecycle } of this.#workers.values()) if (lifecycle === "schedulable") count += 1;
    return count;
  }

  schedulableIn(partition: Partition, workerId: bigint): WorkerRecord | undefined {
    const record = this.#workers.get(workerId);
    const isThere =
      record?.lifecycle === "schedulable" &&
      record.modelName === partition.modelName &&
      record.routingGroup === partition.routingGroup;
    return isThere ? record : undefined;
  }

  partition(modelName: string, routingGroup: string): Partition | undefined {
    return this.#partitions.get(keyOf(modelName, routingGroup));
  }

  /** By model and group. */
  partitions(): Partition[] {
    return Array.from(this.#partitions.values()).sort(
      (a, b) => compare(a.modelName, b.modelName) || compare(a.routingGroup, b.routingGroup),
    );
  }

  upsert(record: WorkerRecord): Promise<WorkerRecord> {
    return this.#change(() => this.#commit(record, this.#workers.get(record.workerId)));
  }

  patch(workerId: bigint, patch: WorkerFacts): Promise<WorkerRecord> {
    return this.#change(() => {
      const known = this.#known(workerId);
      return this.#commit(patched(known, patch), known);
    });
  }

  delete(workerId: bigint): Promise<WorkerRecord> {
    return this.#change(async () => {
      const known = this.#known(workerId);
      if (known.lifecycle === "schedulable") this.#partitionOf(known)?.remove(workerId);
      this.#workers.delete(workerId);
      return { ...known, lifecycle: "unschedulable", reasons: [] };
    });
  }

  /** Made where it is not there yet; a conflict in words where it is another. */
  ensurePartition(modelName: string, routingGroup: string, blockSize: number, isEagle: boolean): Partition | string {
    const key = keyOf(modelName, routingGroup);
    const known = this.#partitions.get(key);
    if (known === undefined) {
      const { partitionMade, ...options } = this.#options;
      const partition = new Partition({ ...options, modelName, routingGroup, blockSize, isEagle });
      this.#partitions.set(key, partition);
      partitionMade(partition);
      return partition;
    }
    if (known.blockSize !== blockSize) {
      return `block_size mismatch for ${known.label}: existing=${known.blockSize} requested=${blockSize}`;
    }
    if (known.isSettled && known.isEagle !== isEagle) {
      return `is_eagle mismatch for ${known.label}: existing=${known.isEagle} requested=${isEagle}`;
    }
    return known;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#lastChange.catch(() => {});
    await Promise.all(Array.from(this.#partitions.values(), (partition) => partition.close()));
  }

  #known(workerId: bigint): WorkerRecord {
    const record = this.#workers.get(workerId);
    if (record === undefined) throw new BadRequest(404, `worker ${workerId} not found`);
    return record;
  }

  #change<Result>(change: () => Promise<Result>): Promise<Result> {
    const changed = this.#lastChange.then(() => {
      if (this.#isClosed) throw new BadRequest(503, "selection service is shutting down");
      return change();
    });
    this.#lastChange = changed.catch(() => {});
    return changed;
  }

  async #commit(wanted: WorkerRecord, previous: WorkerRecord | undefined): Promise<WorkerRecord> {
    const { partition, reasons } = this.#prepare(wanted);
    const before = previous?.lifecycle === "schedulable" ? this.#partitionOf(previous) : undefined;
    if (before !== undefined && before !== partition) before.remove(wanted.workerId);
    const lifecycle = partition === undefined ? "incomplete" : "schedulable";
    const record: WorkerRecord = { ...wanted, lifecycle, reasons };
    await partition?.upsert(record);
    this.#workers.set(record.workerId, record);
    return record;
  }

  /** The partition the worker may stand in, or why in none. */
  #prepare(record: WorkerRecord): { readonly partition: Partition | undefined; readonly reasons: readonly string[] } {
    const { settings } = this.#options;
    const profile = settings.planConfig(record.modelName, false).profile;
    const reasons = missingFacts(record, profile.classes.some(hasQueue), settings.config.useKvEvents);
    if (reasons.length > 0) return { partition: undefined, reasons };
    const { modelName, routingGroup, blockSize = 0, isEagle = false } = record;
    this.#dropUnsettled(modelName, routingGroup, blockSize);
    const partition = this.ensurePartition(modelName, routingGroup, blockSize, isEagle);
    if (typeof partition !== "string" && !partition.isSettled) partition.settle(isEagle);
    const conflict = typeof partition === "string" ? partition : this.#endpointFault(record);
    if (conflict === undefined && typeof partition !== "string") return { partition, reasons: [] };
    this.#log.warn({ worker: record.workerId.toString(), conflict }, "a worker cannot be chosen");
    return { partition: undefined, reasons: [`reconciliation failed: ${conflict}`] };
  }

  /** What a peer told of blocks of another size is no use to the workers that come. */
  #dropUnsettled(modelName: string, routingGroup: string, blockSize: number): void {
    const key = keyOf(modelName, routingGroup);
    const known = this.#partitions.get(key);
    if (known === undefined || known.isSettled || known.blockSize === blockSize) return;
    this.#partitions.delete(key);
    known.close().catch((error: unknown) => this.#log.error({ error }, "a partition could not be closed"));
  }

  #endpointFault(record: WorkerRecord): string | undefined {
    if (!this.#options.settings.config.useKvEvents) return undefined;
    for (const [rank, endpoint] of eventEndpointsOf(record)) {
      const fault = endpointFault(endpoint);
      if (fault !== undefined) {
        return `invalid kv_events endpoint for worker ${record.workerId} dp_rank ${rank}: ${fault}`;
      }
    }
    const fault = record.replayEndpoint === undefined ? undefined : endpointFault(record.replayEndpoint);
    return fault === undefined ? undefined : `invalid replay endpoint for worker ${record.workerId}: ${fault}`;
  }

  #partitionOf(record: WorkerRecord): Partition | undefined {
    return this.partition(record.modelName, record.routingGroup);
  }
}

/** No model's or group's name can make it ambiguous. */
export function keyOf(modelName: string, routingGroup: string): string {
  return JSON.stringify([modelName, routingGroup]);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
