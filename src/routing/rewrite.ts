/**
 * Which model leaves in place of the one the client asked for. Rules of InferenceModelRewrite objects come before the rewrite header;
 * an exact rule beats a generic one, then the older object wins, then the earlier rule.
 */
import type { ModelRewrite, PoolObjects, RewriteTarget } from "../data/manifests/pool-objects.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import { type Rejection, reject } from "../request/rejection.ts";
import { controlHeader, rewriteHeader } from "./control-headers.ts";

/** Longest model name the rewrite header may give, in UTF-16 units: longer than any registry path, short beside a header block. */
export const maxRewriteLength = 512;

/** The targets of one rule with their cumulative weights: target i is chosen for draws in [bounds[i-1], bounds[i]). */
interface CompiledRule {
  readonly rewrite: string;
  readonly targets: readonly RewriteTarget[];
  readonly bounds: Float64Array;
}

export interface RewriteTable {
  readonly exact: ReadonlyMap<string, CompiledRule>;
  readonly generic: CompiledRule | undefined;
}

function compileTargets(targets: readonly RewriteTarget[]): Pick<CompiledRule, "targets" | "bounds"> {
  // With no weight at all the choice is uniform; with some, a target without one is never picked (the reference's semantics).
  const isUniform = targets.every((target) => target.weight === undefined);
  const bounds = new Float64Array(targets.length);
  let sum = 0;
  for (const [i, target] of targets.entries()) {
    sum += isUniform ? 1 : (target.weight ?? 0);
    bounds[i] = sum;
  }
  return { targets, bounds };
}

/** `rewrites` come oldest first. */
export function compileRewrites(rewrites: readonly ModelRewrite[]): RewriteTable {
  const exact = new Map<string, CompiledRule>();
  let generic: CompiledRule | undefined;
  for (const { name, rules } of rewrites) {
    for (const { models, targets } of rules) {
      if (targets.length === 0) continue;
      const rule = { rewrite: name, ...compileTargets(targets) };
      if (models.length === 0) generic ??= rule;
      for (const model of models) if (!exact.has(model)) exact.set(model, rule);
    }
  }
  return { exact, generic };
}

function pickTarget(rule: CompiledRule, random: () => number): string | undefined {
  const last = rule.bounds.length - 1;
  if (last === 0) return rule.targets[0]?.model;
  const draw = random() * (rule.bounds[last] ?? 0);
  let i = 0;
  while (i < last && draw >= (rule.bounds[i] ?? 0)) i += 1;
  return rule.targets[i]?.model;
}

function hasControlCharacter(text: string): boolean {
  for (let i = 0; i < text.length; i += 1) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20 || unit === 0x7f) return true;
  }
  return false;
}

/** An empty rewrite header asks for nothing, and still hides its alias. */
function rewriteOfHeader(request: InferenceRequest): string | Rejection | undefined {
  const value = controlHeader(request.headers, rewriteHeader);
  if (value === undefined || value === "") return undefined;
  if (value.length > maxRewriteLength) {
    return reject("BadRequest", `header ${rewriteHeader.name} is longer than ${maxRewriteLength} characters`);
  }
  if (hasControlCharacter(value)) {
    return reject("BadRequest", `header ${rewriteHeader.name} contains a control character`);
  }
  return value;
}

export interface RewriteCounter {
  modelRewritten(rewriteName: string, model: string, targetModel: string): void;
}

/** Sets `targetModel`. Requests whose body carries no model that could be replaced are left alone. */
export function routeModel(
  request: InferenceRequest,
  table: RewriteTable,
  random: () => number,
  counter: RewriteCounter,
): Rejection | undefined {
  const { model, modelRange } = request.parsed;
  if (modelRange === undefined) return undefined;
  const rule = table.exact.get(model) ?? table.generic;
  if (rule !== undefined) {
    const target = pickTarget(rule, random);
    if (target === undefined) return undefined;
    request.targetModel = target;
    counter.modelRewritten(rule.rewrite, model, target);
    return undefined;
  }
  const fromHeader = rewriteOfHeader(request);
  if (typeof fromHeader === "string") request.targetModel = fromHeader;
  else if (fromHeader !== undefined) return fromHeader;
  return undefined;
}

/** A table that is compiled anew only when the objects were replaced. */
export function createRewriteCompiler(): (objects: PoolObjects) => RewriteTable {
  let compiledFrom: readonly ModelRewrite[] = [];
  let table = compileRewrites(compiledFrom);
  return (objects) => {
    if (objects.rewrites !== compiledFrom) {
      compiledFrom = objects.rewrites;
      table = compileRewrites(compiledFrom);
    }
    return table;
  };
}
