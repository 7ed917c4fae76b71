/**
 * Objects of all files → what routing reads. Objects of other pools are left out; of one name the new API group wins over the legacy one, and
 * within a group the first file.
 */
import { type ManifestObject, objectGroups } from "./manifest.ts";
import type { ModelRewrite, Objective, PoolObjects } from "./pool-objects.ts";

export interface PoolIdentity {
  /** "" when the process serves no named pool: objects of every pool are taken. */
  readonly name: string;
  readonly group: string;
  /** Objects that name another namespace are left out; "" takes every one. */
  readonly namespace: string;
}

export interface Merged {
  readonly objects: PoolObjects;
  /** Objects that have no effect, and why. */
  readonly left: readonly string[];
}

type ObjectOf<Kind extends ManifestObject["kind"]> = Extract<ManifestObject, { readonly kind: Kind }>;

function whyNotOf(object: ManifestObject, pool: PoolIdentity): string | undefined {
  const { group, kind, name } = object.poolRef;
  if (pool.namespace !== "" && object.namespace !== "" && object.namespace !== pool.namespace) {
    return `is in namespace ${object.namespace}`;
  }
  if (pool.name === "") return undefined;
  return name === pool.name && group === pool.group && kind === "InferencePool"
    ? undefined
    : `refers to ${kind} ${group}/${name}`;
}

/** Objects of one kind by name, in the order of the files. */
function winners<Kind extends ManifestObject["kind"]>(
  kind: Kind,
  objects: readonly ManifestObject[],
  left: string[],
): readonly ObjectOf<Kind>[] {
  const ofKind = objects.filter((object): object is ObjectOf<Kind> => object.kind === kind);
  const byName = new Map<string, ObjectOf<Kind>>();
  for (const group of objectGroups) {
    for (const object of ofKind) {
      if (object.group !== group) continue;
      const winner = byName.get(object.name);
      if (winner === undefined) byName.set(object.name, object);
      else left.push(`${kind} ${group}/${object.name} is hidden by the one of ${winner.group} with its name`);
    }
  }
  return ofKind.filter((object) => byName.get(object.name) === object);
}

/** Oldest first. Those without a timestamp, which only a cluster sets, come last and in the order of the files. */
function byAge(a: ObjectOf<"InferenceModelRewrite">, b: ObjectOf<"InferenceModelRewrite">): number {
  const aMs = a.createdAtMs ?? Number.POSITIVE_INFINITY;
  const bMs = b.createdAtMs ?? Number.POSITIVE_INFINITY;
  return aMs === bMs ? 0 : aMs - bMs;
}

/** `files` holds the objects of each file, in the order of the files' names. */
export function mergeManifests(files: readonly (readonly ManifestObject[])[], pool: PoolIdentity): Merged {
  const left: string[] = [];
  const ours = files.flat().filter((object) => {
    const why = whyNotOf(object, pool);
    if (why !== undefined) left.push(`${object.kind} ${object.group}/${object.name} ${why}`);
    return why === undefined;
  });
  const objectives = new Map<string, Objective>();
  for (const { name, priority } of winners("InferenceObjective", ours, left)) objectives.set(name, { priority });
  const rewrites: readonly ModelRewrite[] = winners("InferenceModelRewrite", ours, left)
    .toSorted(byAge)
    .map(({ name, rules }) => ({ name, rules }));
  return { objects: { objectives, rewrites }, left };
}
