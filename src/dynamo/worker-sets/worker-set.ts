/**
 * A worker set: the workers of one model in one namespace among which a request's prefill and decode worker are chosen, never from two
 * sets. Read only for all but WorkerSets.
 */
import type { ModelCard } from "../model-card/model-card.ts";
import type { ModelFilesState } from "../model-card/model-files.ts";
import type { EventChannelRecord, EventScope, EventSourceRecord, InstanceRecord } from "../records.ts";

export type SetRole = "aggregated" | "prefill" | "decode";

/** A worker that is registered with both its endpoint and its card. Replaced as a whole when anything of it changes. */
export interface SetWorker {
  readonly id: bigint;
  readonly role: SetRole;
  readonly card: ModelCard;
  readonly instance: InstanceRecord;
  /** Adapters it has loaded, by the name under which they are asked for. */
  readonly loras: ReadonlyMap<string, ModelCard>;
  /** Where its KV events are published. */
  readonly kvScope: EventScope;
  /** Publishers of its KV events, by data-parallel rank. */
  readonly sources: ReadonlyMap<number, EventSourceRecord>;
}

export type SetState =
  | "ready"
  /** A decode worker needs prefill workers, or the configuration does, and none lives. */
  | "waiting-for-prefill"
  /** Other roles are missing, or nobody lives. */
  | "incomplete"
  /** Two groups of workers with different cards do the same stage: whose prefill belongs to whose decode cannot be told. */
  | "conflict"
  /** The model's files are being fetched, or could not be had and are tried again. */
  | "waiting-for-files";

export interface WorkerSet {
  /** Unique and the same for as long as the set exists. */
  readonly key: string;
  readonly namespace: string;
  /** The model's own name, without its aliases. */
  readonly model: string;
  readonly state: SetState;
  /** Why it is not ready, or what is wrong though it is; empty when nothing is. */
  readonly reason: string;
  readonly topology: "aggregated" | "disaggregated" | "waiting-for-prefill";
  /** What a prompt is made into tokens with; undefined while no worker serves whole requests or decodes. */
  readonly card: ModelCard | undefined;
  readonly files: ModelFilesState | undefined;
  readonly workers: ReadonlyMap<bigint, SetWorker>;
  /** Workers that answer requests: all but those that only prefill. */
  readonly servingWorkers: number;
  /** Workers left out because their card differs from that of those who came first. */
  readonly rejected: readonly RejectedWorkers[];
}

export interface RejectedWorkers {
  readonly fingerprint: string;
  readonly instanceIds: readonly bigint[];
  readonly reason: string;
}

/** Told of every change, each once, after the change is in the set. */
export interface WorkerSetListener {
  setAdded(set: WorkerSet): void;
  /** Its workers have been removed before. */
  setRemoved(set: WorkerSet): void;
  /** State, reason, topology, card or files. */
  setChanged(set: WorkerSet): void;
  workerAdded(set: WorkerSet, worker: SetWorker): void;
  /** Its address, adapters, taints or publishers; never its card's fingerprint. */
  workerChanged(set: WorkerSet, worker: SetWorker): void;
  workerRemoved(set: WorkerSet, worker: SetWorker): void;
  channelOpened(channel: EventChannelRecord): void;
  channelClosed(channel: EventChannelRecord): void;
}

/** What a model name leads to. */
export type ModelLookup =
  | { readonly kind: "ready"; readonly choices: readonly SetChoice[]; readonly lora: string | undefined }
  | { readonly kind: "not-ready"; readonly reason: string }
  | { readonly kind: "unknown" };

export interface SetChoice {
  readonly set: WorkerSet;
  /** Workers that can serve the name: those with the adapter when it is one. */
  readonly workers: number;
}

/** One of several ready sets, in proportion to their workers. `random` in [0, 1). */
export function chooseSet(choices: readonly SetChoice[], random: number): WorkerSet | undefined {
  let total = 0;
  for (const { workers } of choices) total += workers;
  let at = random * total;
  for (const { set, workers } of choices) {
    if (at < workers) return set;
    at -= workers;
  }
  return choices.at(-1)?.set;
}
