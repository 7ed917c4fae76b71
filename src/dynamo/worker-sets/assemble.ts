/** One look at the groups of a model in a namespace: which sets they make, who is in them and whether they can serve. Pure but for the workers it keeps. */
import type { ModelCard } from "../model-card/model-card.ts";
import type { EventScope, InstanceRecord, ModelRecord } from "../records.ts";
import type { CardGroup } from "./card-group.ts";
import { evaluateReadiness, type Readiness } from "./readiness.ts";
import type { Registry } from "./registry.ts";
import type { RejectedWorkers, SetRole, SetState, SetWorker, WorkerSet } from "./worker-set.ts";

/** What a set is to be, before its files are looked at. */
export interface AssembledSet extends Pick<WorkerSet, "reason" | "topology" | "card" | "servingWorkers" | "rejected"> {
  readonly state: Exclude<SetState, "waiting-for-files">;
  readonly workers: ReadonlyMap<bigint, SetWorker>;
  /** One card of each worker with the set's card: files may be had from any of them. */
  readonly cards: readonly ModelCard[];
}

export interface AssembleOptions {
  readonly enforceDisagg: boolean;
}

/**
 * Sets by group. Each group that serves makes one; the prefill workers of the namespace belong to all. With none that serves there is one set
 * of what there is, under the first group.
 */
export function assembleSets(
  groups: readonly CardGroup[],
  registry: Registry,
  options: AssembleOptions,
): ReadonlyMap<CardGroup, AssembledSet> {
  const roles = groups.map(roleOfGroup);
  const live = groups.map((group) => liveWorkers(group, registry));
  const readiness = evaluateReadiness(
    groups.map((group, index) => ({
      role: roles[index],
      liveWorkers: live[index]?.length ?? 0,
      needs: firstCard(group)?.needs ?? [],
    })),
  );
  const prefill = live.flatMap((workers, index) => (roles[index] === "prefill" ? workers : []));
  const serving = groups.filter((_group, index) => roles[index] !== "prefill" && roles[index] !== "encode");
  const rejected = groups.flatMap(rejectedOf);
  const sets = new Map<CardGroup, AssembledSet>();
  for (const group of serving.length > 0 ? serving : groups.slice(0, 1)) {
    const own = serving.length > 0 ? (live[groups.indexOf(group)] ?? []) : [];
    sets.set(group, assembleSet(own, prefill, readiness, rejected, options));
  }
  return sets;
}

function assembleSet(
  own: readonly SetWorker[],
  prefill: readonly SetWorker[],
  readiness: Readiness,
  rejected: readonly RejectedWorkers[],
  { enforceDisagg }: AssembleOptions,
): AssembledSet {
  const workers = new Map<bigint, SetWorker>();
  for (const worker of prefill) workers.set(worker.id, worker);
  // A worker that serves both ways is asked for the answer.
  for (const worker of own) workers.set(worker.id, worker);
  const isWaiting =
    own.length > 0 &&
    prefill.length === 0 &&
    (enforceDisagg || (readiness.kind === "missing" && readiness.roles.every((role) => role === "prefill")));
  const { state, reason } = isWaiting ? waiting(enforceDisagg) : verdict(readiness, own.length);
  return {
    state,
    reason: reason === "" && rejected.length > 0 ? rejectionsText(rejected) : reason,
    topology: isWaiting ? "waiting-for-prefill" : prefill.length > 0 ? "disaggregated" : "aggregated",
    card: own[0]?.card,
    cards: own.map((worker) => worker.card),
    servingWorkers: own.length,
    workers,
    rejected,
  };
}

type Verdict = Pick<AssembledSet, "state" | "reason">;

function waiting(enforceDisagg: boolean): Verdict {
  const why = enforceDisagg ? "disaggregation is enforced" : "its decode workers need prefill workers";
  return { state: "waiting-for-prefill", reason: `no live prefill worker: ${why}` };
}

function verdict(readiness: Readiness, servingWorkers: number): Verdict {
  switch (readiness.kind) {
    case "missing":
      return { state: "incomplete", reason: `missing worker types: ${readiness.roles.join(", ")}` };
    case "ambiguous":
      return {
        state: "conflict",
        reason: `more than one group of workers, with different cards, for: ${readiness.roles.join(", ")}`,
      };
    case "empty":
      return { state: "incomplete", reason: "no live worker" };
    case "ready":
      return servingWorkers > 0 ? { state: "ready", reason: "" } : { state: "incomplete", reason: "no live worker" };
    default: {
      const never: never = readiness;
      return never;
    }
  }
}

function rejectionsText(rejected: readonly RejectedWorkers[]): string {
  const count = rejected.reduce((sum, { instanceIds }) => sum + instanceIds.length, 0);
  return `${count} worker(s) left out: their cards differ from the first one's`;
}

function rejectedOf(group: CardGroup): readonly RejectedWorkers[] {
  const holder = firstCard(group)?.fingerprint ?? "";
  return group.rejected.map(([fingerprint, cards]) => ({
    fingerprint,
    instanceIds: [...cards.values()].map((record) => record.instanceId),
    reason: `card ${fingerprint.slice(0, 12)} differs from ${holder.slice(0, 12)}, which came first`,
  }));
}

function firstCard(group: CardGroup): ModelCard | undefined {
  const [first] = group.admitted.values();
  return first?.card;
}

function roleOfGroup(group: CardGroup): ModelCard["role"] {
  return firstCard(group)?.role;
}

/** Registered with both card and endpoint. Those whose records did not change are the same objects as before. */
function liveWorkers(group: CardGroup, registry: Registry): SetWorker[] {
  const workers: SetWorker[] = [];
  for (const [path, record] of group.admitted) {
    const known = registry.workers.get(path);
    if (known !== undefined) {
      workers.push(known);
      continue;
    }
    const instance = registry.instances.get(path);
    if (instance === undefined) continue;
    const worker = workerOf(path, record, instance, registry);
    registry.workers.set(path, worker);
    workers.push(worker);
  }
  return workers;
}

function workerOf(path: string, record: ModelRecord, instance: InstanceRecord, registry: Registry): SetWorker {
  const { card, namespace, component, endpoint, instanceId } = record;
  const kvScope: EventScope = card.runtime.kvStateEndpoint ?? { namespace, component, endpoint };
  const adapters = registry.lorasOf(path);
  return {
    id: instanceId,
    role: setRoleOf(card.role),
    card,
    instance,
    loras:
      adapters.size === 0
        ? noLoras
        : new Map([...adapters.values()].map((adapter) => [adapter.card.displayName, adapter.card])),
    kvScope,
    sources: registry.sourcesOf(kvScope, instanceId),
  };
}

const noLoras: ReadonlyMap<string, ModelCard> = new Map();

function setRoleOf(role: ModelCard["role"]): SetRole {
  return role === "prefill" || role === "decode" ? role : "aggregated";
}
