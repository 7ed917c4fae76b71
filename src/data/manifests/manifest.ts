/**
 * One Kubernetes object of a manifest: InferenceObjective or InferenceModelRewrite of either API group, checked field by field as the
 * custom resource definitions have it, or an object of another kind, which is nobody's concern here.
 */
import { CheckedValue, type UnknownFields } from "./checked-value.ts";
import type { RewriteRule, RewriteTarget } from "./pool-objects.ts";

/** The group an object belongs to; where both name the same object, the new one wins. */
export const objectGroups = ["llm-d.ai", "inference.networking.x-k8s.io"] as const;
export type ObjectGroup = (typeof objectGroups)[number];
export const objectVersion = "v1alpha2";

export interface PoolReference {
  readonly group: string;
  readonly kind: string;
  readonly name: string;
}

interface ObjectHead {
  readonly group: ObjectGroup;
  readonly name: string;
  /** "" where the manifest names none. */
  readonly namespace: string;
  /** Undefined where the manifest has none: only a cluster sets it. */
  readonly createdAtMs: number | undefined;
  readonly poolRef: PoolReference;
}

export type ManifestObject =
  | (ObjectHead & { readonly kind: "InferenceObjective"; readonly priority: number })
  | (ObjectHead & { readonly kind: "InferenceModelRewrite"; readonly rules: readonly RewriteRule[] });

export type ManifestDocument =
  | { readonly kind: "object"; readonly object: ManifestObject }
  | { readonly kind: "list"; readonly items: readonly unknown[] }
  | { readonly kind: "foreign"; readonly apiVersion: string; readonly objectKind: string }
  | { readonly kind: "faulty"; readonly faults: readonly string[] };

const objectKinds: ReadonlySet<string> = new Set<ManifestObject["kind"]>([
  "InferenceObjective",
  "InferenceModelRewrite",
]);

function objectGroupOf(apiVersion: string): ObjectGroup | undefined {
  const group = apiVersion.slice(0, Math.max(apiVersion.indexOf("/"), 0));
  return objectGroups.find((known) => known === group);
}

function isList(apiVersion: string, kind: string): boolean {
  if (apiVersion === "v1" && kind === "List") return true;
  return objectGroupOf(apiVersion) !== undefined && kind.endsWith("List") && objectKinds.has(kind.slice(0, -4));
}

/** `value` is a document as YAML or JSON holds it. */
export function parseManifest(value: unknown, unknownFields: UnknownFields = "faulty"): ManifestDocument {
  const faults: string[] = [];
  const root = new CheckedValue(value, "", faults, unknownFields);
  if (!root.mapping()) return { kind: "faulty", faults };
  const apiVersion = root.member("apiVersion").text();
  const objectKind = root.member("kind").text();
  if (faults.length > 0) return { kind: "faulty", faults };
  if (isList(apiVersion, objectKind)) {
    const items = root.member("items");
    const itemValues = (value as { readonly items?: unknown }).items;
    items.list();
    if (faults.length > 0 || !Array.isArray(itemValues)) return { kind: "faulty", faults };
    return { kind: "list", items: itemValues };
  }
  const group = objectGroupOf(apiVersion);
  if (group === undefined || !objectKinds.has(objectKind)) return { kind: "foreign", apiVersion, objectKind };
  if (apiVersion !== `${group}/${objectVersion}`) {
    root.member("apiVersion").fault(`${objectKind} is read in version ${objectVersion}, found ${apiVersion}`);
    return { kind: "faulty", faults };
  }
  const object = parseObject(root, group, objectKind);
  return faults.length > 0 ? { kind: "faulty", faults } : { kind: "object", object };
}

function parseObject(root: CheckedValue, group: ObjectGroup, kind: string): ManifestObject {
  root.closed("apiVersion", "kind", "metadata", "spec", "status");
  const metadata = root.member("metadata");
  metadata.mapping();
  const namespace = metadata.member("namespace");
  const createdAt = metadata.member("creationTimestamp");
  const spec = root.member("spec");
  const poolRef = spec.member("poolRef");
  const head = {
    group,
    name: metadata.member("name").text(253),
    namespace: namespace.isPresent ? namespace.text(63) : "",
    createdAtMs: createdAt.isPresent ? createdAt.timestampMs() : undefined,
  };
  if (kind === "InferenceObjective") {
    spec.closed("poolRef", "priority");
    const priority = spec.member("priority");
    return {
      ...head,
      kind: "InferenceObjective",
      poolRef: parsePoolRef(poolRef),
      priority: priority.isPresent ? priority.integer(-(2 ** 31), 2 ** 31 - 1) : 0,
    };
  }
  spec.closed("poolRef", "rules");
  return {
    ...head,
    kind: "InferenceModelRewrite",
    poolRef: parsePoolRef(poolRef),
    rules: spec.member("rules").list().map(parseRule),
  };
}

function parsePoolRef(poolRef: CheckedValue): PoolReference {
  if (!poolRef.closed("group", "kind", "name")) return { group: "", kind: "", name: "" };
  const group = poolRef.member("group");
  const kind = poolRef.member("kind");
  return {
    group: group.isPresent ? group.text(253) : "inference.networking.k8s.io",
    kind: kind.isPresent ? kind.text(63) : "InferencePool",
    name: poolRef.member("name").text(253),
  };
}

function parseRule(rule: CheckedValue): RewriteRule {
  rule.closed("matches", "targets");
  const matches = rule.member("matches");
  const targets = rule.member("targets");
  const models = matches.isPresent ? matches.list().map(parseMatch) : [];
  const parsed = targets.isPresent ? targets.list().map(parseTarget) : [];
  if (targets.isPresent && parsed.length === 0) targets.fault("must hold at least one target");
  return { models, targets: parsed };
}

function parseMatch(match: CheckedValue): string {
  match.closed("model");
  const model = match.member("model");
  if (!model.closed("type", "value")) return "";
  const type = model.member("type");
  if (type.isPresent && type.text() !== "Exact") type.fault('must be "Exact"');
  return model.member("value").text();
}

function parseTarget(target: CheckedValue): RewriteTarget {
  target.closed("modelRewrite", "weight");
  const weight = target.member("weight");
  return {
    model: target.member("modelRewrite").text(),
    weight: weight.isPresent ? weight.integer(1, 1_000_000) : undefined,
  };
}
