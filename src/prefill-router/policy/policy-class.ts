/**
 * Policy classes: physical queues with their own order, busy line and limits, and the rule that puts a request into one of them. A profile is
 * never empty and always finds a class (dynamo-kv-router 1.6.1, scheduling/policy_config.rs).
 */

/** `lcfs` is for comparisons only: a policy file refuses it. */
export type QueuePolicy = "fcfs" | "wspt" | "lcfs";

export interface PolicyClass {
  readonly name: string;
  readonly queuePolicy: QueuePolicy;
  /** Tokens of credit a round of the ring gives the class: its share beside other classes. */
  readonly quantum: number;
  /** A rank is busy with more active prefill tokens than this, or than the fraction of its max_num_batched_tokens. Neither: no waiting. */
  readonly busyTokens: number | undefined;
  readonly busyFraction: number | undefined;
  /** Limits of what waits, each times the number of workers; the request that crosses one is still taken, and with 0 none may wait. */
  readonly requestLimit: number | undefined;
  readonly rawTokenLimit: number | undefined;
  readonly cachedTokenLimit: number | undefined;
}

export interface PolicyProfile {
  readonly classes: readonly PolicyClass[];
  /** Index into `classes`. `requested` names a family or an explicit class; anything else means the default family. */
  classIndex(requested: string | undefined, uncachedTokens: number): number;
}

export function hasQueue(policyClass: PolicyClass): boolean {
  return policyClass.busyTokens !== undefined || policyClass.busyFraction !== undefined;
}

/** A limit of zero refuses whatever would wait. */
export function neverQueues(policyClass: PolicyClass): boolean {
  return policyClass.requestLimit === 0 || policyClass.rawTokenLimit === 0 || policyClass.cachedTokenLimit === 0;
}

/** The profile of a router without a policy file: one class; it queues only where there is a threshold (a fraction, as `busyFraction`). */
export function syntheticProfile(threshold: number | undefined, queuePolicy: QueuePolicy): PolicyProfile {
  const only: PolicyClass = {
    name: "default",
    queuePolicy,
    quantum: 1,
    busyTokens: undefined,
    busyFraction: threshold,
    requestLimit: undefined,
    rawTokenLimit: undefined,
    cachedTokenLimit: undefined,
  };
  return { classes: [only], classIndex: () => 0 };
}

/** A class belongs to a family and one of its buckets of uncached prompt tokens, or is asked for by its own name. */
export interface ClassBinding {
  readonly family: string;
  readonly bucket: number;
}

/**
 * A profile of families × buckets. `bucketFloors` are the least uncached tokens of each bucket, ascending from 0; `bindings` has one entry
 * a class, undefined for one that is found by name only. Every family has every bucket: the caller has checked it.
 */
export function familyProfile(
  classes: readonly PolicyClass[],
  bindings: readonly (ClassBinding | undefined)[],
  bucketFloors: readonly number[],
  defaultFamily: string,
): PolicyProfile {
  const byName = new Map<string, number>();
  const byFamily = new Map<string, number[]>();
  for (const [index, policyClass] of classes.entries()) {
    const binding = bindings[index];
    if (binding === undefined) {
      byName.set(policyClass.name, index);
      continue;
    }
    const buckets = byFamily.get(binding.family) ?? [];
    buckets[binding.bucket] = index;
    byFamily.set(binding.family, buckets);
  }
  const fallback = byFamily.get(defaultFamily) ?? [0];
  return {
    classes,
    classIndex(requested, uncachedTokens) {
      const explicit = requested === undefined ? undefined : byName.get(requested);
      if (explicit !== undefined) return explicit;
      const buckets = (requested === undefined ? undefined : byFamily.get(requested)) ?? fallback;
      let bucket = 0;
      while (bucket + 1 < bucketFloors.length && (bucketFloors[bucket + 1] ?? 0) <= uncachedTokens) bucket += 1;
      return buckets[bucket] ?? 0;
    },
  };
}
