/** An engine configuration compiled for reading: the distinct metric names to find, and for each name the signals its series carry. */
import type { EngineConfig } from "./engines.ts";
import { parseMetricSpec } from "./metric-spec.ts";
import type { WantedName } from "./series-finder.ts";

/**
 * What a series means. Counts of several series are summed (each engine behind one port has its own queue), usage is their mean, block
 * sizes and custom values are the first, block counts are summed; `lora` and `cache-info` are read from labels.
 */
export type SignalKind =
  | "queued"
  | "running"
  | "kv-usage"
  | "kv-usage-fallback"
  | "lora"
  | "cache-info"
  | "block-size"
  | "block-count"
  | "custom";

export interface Signal {
  readonly kind: SignalKind;
  /** Index into the columns of a reader. */
  readonly column: number;
  readonly labels: readonly (readonly [name: string, value: string])[];
  /** Attribute of a custom metric; "" otherwise. */
  readonly attribute: string;
}

export interface EngineMap {
  readonly engine: string;
  readonly names: readonly WantedName[];
  /** By index of the name. */
  readonly signals: readonly (readonly Signal[])[];
  readonly signalCount: number;
  readonly custom: readonly Signal[];
  readonly blockSizeLabel: string;
  readonly blockCountLabel: string;
  /** Column and specification of the signals that have to be there for a page to be whole. */
  readonly required: readonly { readonly column: number; readonly spec: string }[];
}

/** Columns of the built-in signals; custom ones follow. */
export const column = {
  queued: 0,
  running: 1,
  kvUsage: 2,
  kvUsageFallback: 3,
  lora: 4,
  cacheInfo: 5,
  blockSize: 6,
  blockCount: 7,
} as const;
const firstCustomColumn = 8;

const constantKinds: ReadonlySet<SignalKind> = new Set(["cache-info", "block-size", "block-count"]);

/** Faults name the parameter; a map is only usable without any. */
export function compileEngine(config: EngineConfig): { readonly map: EngineMap; readonly faults: readonly string[] } {
  const faults: string[] = [];
  const byName = new Map<string, Signal[]>();
  const custom: Signal[] = [];
  const add = (parameter: string, text: string, kind: SignalKind, at: number, attribute = ""): void => {
    if (text === "") return;
    const spec = parseMetricSpec(text);
    if (spec === undefined) {
      faults.push(`${parameter}: "${text}" is no metric specification; expected name or name{label=value,...}`);
      return;
    }
    const signal: Signal = { kind, column: at, labels: spec.labels, attribute };
    byName.set(spec.name, [...(byName.get(spec.name) ?? []), signal]);
    if (kind === "custom") custom.push(signal);
  };
  add("queuedRequestsSpec", config.queuedRequestsSpec, "queued", column.queued);
  add("runningRequestsSpec", config.runningRequestsSpec, "running", column.running);
  add("kvUsageSpec", config.kvUsageSpec, "kv-usage", column.kvUsage);
  add("kvUsageFallbackSpec", config.kvUsageFallbackSpec, "kv-usage-fallback", column.kvUsageFallback);
  add("loraSpec", config.loraSpec, "lora", column.lora);
  add("cacheInfoSpec", config.cacheInfoSpec, "cache-info", column.cacheInfo);
  add("cacheBlockSizeSpec", config.cacheBlockSizeSpec, "block-size", column.blockSize);
  add("cacheNumBlocksSpec", config.cacheNumBlocksSpec, "block-count", column.blockCount);
  for (const [index, { attributeKey, metricSpec }] of config.customMetrics.entries()) {
    const path = `customMetrics[${index}]`;
    if (attributeKey === "") faults.push(`${path}.attributeKey: expected a non-empty string`);
    if (metricSpec === "") faults.push(`${path}.metricSpec: expected a metric specification`);
    add(`${path}.metricSpec`, metricSpec, "custom", firstCustomColumn + index, attributeKey);
  }
  const required = [
    { column: column.queued, spec: config.queuedRequestsSpec },
    { column: column.running, spec: config.runningRequestsSpec },
    { column: column.kvUsage, spec: config.kvUsageSpec },
  ].filter(({ spec }) => spec !== "");
  const names = [...byName].map(([name, signals]) => ({
    name,
    isConstant: signals.every(({ kind }) => constantKinds.has(kind)),
  }));
  return {
    map: {
      engine: config.name,
      names,
      signals: [...byName.values()],
      signalCount: firstCustomColumn + config.customMetrics.length,
      custom,
      blockSizeLabel: config.cacheBlockSizeLabelName,
      blockCountLabel: config.cacheNumBlocksLabelName,
      required,
    },
    faults,
  };
}
