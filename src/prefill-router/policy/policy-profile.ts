/**
 * One profile of a policy file: default_policy_family, uncached_isl_buckets and policy_classes. A profile that is returned is complete: every
 * family has one class in every bucket.
 */
import { Fields, type Mapping } from "./fields.ts";
import { type ClassBinding, familyProfile, type PolicyClass, type PolicyProfile } from "./policy-class.ts";

export const profileKeys = ["default_policy_family", "policy_classes", "uncached_isl_buckets"] as const;

const classKeys = [
  "name",
  "policy_family",
  "cache_bucket",
  "queue_policy",
  "quantum",
  "prefill_busy_threshold",
  "prefill_busy_threshold_frac",
  "request_queue_limit_per_worker",
  "raw_isl_token_queue_limit_per_worker",
  "cached_token_queue_limit_per_worker",
] as const;

interface Buckets {
  readonly names: readonly string[];
  readonly floors: readonly number[];
}

/** Undefined when it has faults. `fields` may know other keys too: a root profile lies beside the file's other sections. */
export function parseProfile(fields: Fields, faults: string[]): PolicyProfile | undefined {
  const before = faults.length;
  const defaultFamily = fields.requiredName("default_policy_family");
  const buckets = parseBuckets(fields, faults);
  const list = fields.mappings("policy_classes");
  if (list.length === 0) fields.fault("policy_classes", "expected at least one class");

  const classes: PolicyClass[] = [];
  const bindings: (ClassBinding | undefined)[] = [];
  for (const { mapping, path } of list) {
    const parsed = parseClass(mapping, path, buckets.names, faults);
    if (parsed === undefined) continue;
    if (classes.some((each) => each.name === parsed.policyClass.name)) {
      faults.push(`${path}.name: duplicate class ${JSON.stringify(parsed.policyClass.name)}`);
    }
    classes.push(parsed.policyClass);
    bindings.push(parsed.binding);
  }
  if (faults.length > before || defaultFamily === undefined) return undefined;

  checkMatrix(fields, classes, bindings, buckets.names, defaultFamily);
  return faults.length > before ? undefined : familyProfile(classes, bindings, buckets.floors, defaultFamily);
}

function parseBuckets(fields: Fields, faults: string[]): Buckets {
  const names: string[] = [];
  const floors: number[] = [];
  const list = fields.mappings("uncached_isl_buckets");
  if (list.length === 0)
    fields.fault("uncached_isl_buckets", "expected at least one bucket, the first with min_tokens 0");
  for (const { mapping, path } of list) {
    const bucket = new Fields(mapping, path, ["min_tokens", "bucket"], faults);
    const floor = bucket.requiredInteger("min_tokens", 0);
    const name = bucket.requiredName("bucket");
    const last = floors.at(-1);
    if (floor !== undefined && last === undefined && floor !== 0)
      bucket.fault("min_tokens", "the first bucket must start at 0");
    if (floor !== undefined && last !== undefined && floor <= last) {
      bucket.fault("min_tokens", `must be above ${last}, that of the bucket before`);
    }
    if (name !== undefined && names.includes(name)) bucket.fault("bucket", `duplicate bucket ${JSON.stringify(name)}`);
    // A bucket with a fault keeps its place, so that the fault is told once.
    names.push(name ?? "");
    floors.push(floor ?? last ?? 0);
  }
  return { names, floors };
}

function parseClass(mapping: Mapping, path: string, bucketNames: readonly string[], faults: string[]) {
  const before = faults.length;
  const fields = new Fields(mapping, path, classKeys, faults);
  const name = fields.requiredName("name");
  const quantum = fields.requiredInteger("quantum", 1);
  const family = fields.name("policy_family");
  const bucketName = fields.name("cache_bucket");
  if ((family === undefined) !== (bucketName === undefined)) {
    fields.fault(
      family === undefined ? "policy_family" : "cache_bucket",
      "expected both policy_family and cache_bucket, or neither for a class that is asked for by name",
    );
  }
  const bucket = bucketName === undefined ? -1 : bucketNames.indexOf(bucketName);
  if (bucketName !== undefined && bucket < 0) {
    fields.fault("cache_bucket", `unknown bucket; expected one of ${bucketNames.join(", ")}`);
  }
  const policyClass = {
    name: name ?? "",
    quantum: quantum ?? 1,
    queuePolicy: fields.oneOf("queue_policy", ["fcfs", "wspt"]) ?? "fcfs",
    busyTokens: fields.integer("prefill_busy_threshold", 0),
    busyFraction: fields.amount("prefill_busy_threshold_frac"),
    requestLimit: fields.integer("request_queue_limit_per_worker", 0),
    rawTokenLimit: fields.integer("raw_isl_token_queue_limit_per_worker", 0),
    cachedTokenLimit: fields.integer("cached_token_queue_limit_per_worker", 0),
  };
  if (faults.length > before) return undefined;
  return { policyClass, binding: family === undefined ? undefined : { family, bucket } };
}

function checkMatrix(
  fields: Fields,
  classes: readonly PolicyClass[],
  bindings: readonly (ClassBinding | undefined)[],
  bucketNames: readonly string[],
  defaultFamily: string,
): void {
  const families = new Map<string, Set<number>>();
  for (const binding of bindings) {
    if (binding === undefined) continue;
    const buckets = families.get(binding.family) ?? new Set();
    if (buckets.has(binding.bucket)) {
      fields.fault(
        "policy_classes",
        `two classes for family ${binding.family} and bucket ${bucketNames[binding.bucket]}`,
      );
    }
    families.set(binding.family, buckets.add(binding.bucket));
  }
  for (const [family, buckets] of families) {
    for (const [index, name] of bucketNames.entries()) {
      if (!buckets.has(index)) fields.fault("policy_classes", `no class for family ${family} and bucket ${name}`);
    }
  }
  for (const [index, policyClass] of classes.entries()) {
    if (bindings[index] === undefined && families.has(policyClass.name)) {
      fields.fault("policy_classes", `class ${policyClass.name} has the name of a family`);
    }
  }
  if (!families.has(defaultFamily)) {
    fields.fault("default_policy_family", `expected one of the classes' families: ${[...families.keys()].join(", ")}`);
  }
}
