/** Which sets a name in a request leads to. A model's own name goes before an adapter's, and both before an alias. */
import type { ModelLookup, SetChoice, WorkerSet } from "./worker-set.ts";

export interface ModelNames {
  lookup(name: string): ModelLookup;
  readonly ready: readonly string[];
}

interface Candidate {
  readonly set: WorkerSet;
  readonly lora: string | undefined;
  workers: number;
}

export function namesOf(sets: readonly WorkerSet[]): ModelNames {
  const own = new Map<string, Candidate[]>();
  const adapters = new Map<string, Candidate[]>();
  const aliases = new Map<string, Candidate[]>();
  for (const set of sets) {
    const whole = { set, lora: undefined, workers: set.servingWorkers };
    add(own, set.model, whole);
    for (const alias of set.card?.aliases ?? []) add(aliases, alias, whole);
    for (const worker of set.workers.values()) {
      if (worker.role === "prefill") continue;
      for (const [name, card] of worker.loras) {
        for (const candidate of [name, ...card.aliases]) countAdapter(adapters, candidate, set, name);
      }
    }
  }
  const byName = new Map<string, ModelLookup>();
  for (const names of [aliases, adapters, own]) {
    for (const [name, candidates] of names) byName.set(name, lookupOf(candidates));
  }
  return {
    lookup: (name) => byName.get(name) ?? unknown,
    ready: [...byName].filter(([, lookup]) => lookup.kind === "ready").map(([name]) => name),
  };
}

const unknown: ModelLookup = { kind: "unknown" };

function add(names: Map<string, Candidate[]>, name: string, candidate: Candidate): void {
  const candidates = names.get(name);
  if (candidates === undefined) names.set(name, [candidate]);
  else candidates.push(candidate);
}

function countAdapter(names: Map<string, Candidate[]>, name: string, set: WorkerSet, lora: string): void {
  const known = names.get(name)?.find((candidate) => candidate.set === set);
  if (known === undefined) add(names, name, { set, lora, workers: 1 });
  else known.workers++;
}

function lookupOf(candidates: readonly Candidate[]): ModelLookup {
  const choices: SetChoice[] = candidates
    .filter(({ set }) => set.state === "ready")
    .map(({ set, workers }) => ({ set, workers }));
  if (choices.length > 0) return { kind: "ready", choices, lora: candidates[0]?.lora };
  const reasons = candidates.map(({ set }) => `${set.namespace}: ${set.reason}`);
  return { kind: "not-ready", reason: reasons.join("; ") };
}
