/** What /debug shows of the worker sets: JSON without bigints, every set with its state and reason. */
import type { EndpointTransport } from "../records.ts";
import type { SetRole, WorkerSet } from "./worker-set.ts";

export interface SetView {
  readonly key: string;
  readonly namespace: string;
  readonly model: string;
  readonly aliases: readonly string[];
  readonly state: string;
  readonly reason: string;
  readonly topology: string;
  readonly fingerprint: string | null;
  readonly files: string | null;
  readonly workers: readonly WorkerView[];
  readonly rejected: readonly {
    readonly fingerprint: string;
    readonly workers: readonly string[];
    readonly reason: string;
  }[];
}

export interface WorkerView {
  readonly id: string;
  readonly role: SetRole;
  readonly address: string;
  readonly dataParallel: { readonly start: number; readonly size: number };
  readonly loras: readonly string[];
  /** Ranks whose publisher of KV events is known. */
  readonly kvEventRanks: readonly number[];
}

export function viewOfSets(sets: readonly WorkerSet[]): readonly SetView[] {
  return sets.map((set) => ({
    key: set.key,
    namespace: set.namespace,
    model: set.model,
    aliases: set.card?.aliases ?? [],
    state: set.state,
    reason: set.reason,
    topology: set.topology,
    fingerprint: set.card?.fingerprint ?? null,
    files: set.files?.kind ?? null,
    workers: [...set.workers.values()].map((worker) => ({
      id: worker.id.toString(),
      role: worker.role,
      address: addressOf(worker.instance.transport),
      dataParallel: { start: worker.card.runtime.dataParallelStartRank, size: worker.card.runtime.dataParallelSize },
      loras: [...worker.loras.keys()],
      kvEventRanks: [...worker.sources.keys()].toSorted((a, b) => a - b),
    })),
    rejected: set.rejected.map(({ fingerprint, instanceIds, reason }) => ({
      fingerprint,
      workers: instanceIds.map(String),
      reason,
    })),
  }));
}

function addressOf(transport: EndpointTransport): string {
  switch (transport.kind) {
    case "tcp":
      return transport.address;
    case "nats":
      return transport.subject;
    case "http":
      return transport.url;
    default: {
      const never: never = transport;
      return never;
    }
  }
}
