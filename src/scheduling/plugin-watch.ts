/**
 * What the caller of the scheduler may watch: the steps of a decision, faults of plugins and their durations. Every member is optional and
 * costs nothing when it is absent.
 */
import type { ExtensionPoint } from "../telemetry/request-metrics.ts";
import type { DecisionTrace, Named } from "./contracts.ts";

/** Told of every throw of a plugin; logs once and counts. Must not throw. */
export type PluginErrorSink = (point: ExtensionPoint, plugin: Named<unknown>, error: unknown) => void;

/** Measures plugins; hand one in only for the decisions that are sampled. */
export interface PluginTimer {
  /** Monotonic milliseconds. */
  now(): number;
  record(point: ExtensionPoint, plugin: Named<unknown>, durationMs: number): void;
}

export interface PluginWatch {
  readonly trace: DecisionTrace | undefined;
  readonly onPluginError: PluginErrorSink | undefined;
  readonly timer: PluginTimer | undefined;
}

/** Records the time since `startedMs` and returns the start of the next lap; one clock reading a plugin. */
export function lap(
  timer: PluginTimer | undefined,
  startedMs: number,
  point: ExtensionPoint,
  plugin: Named<unknown>,
): number {
  if (timer === undefined) return 0;
  const nowMs = timer.now();
  timer.record(point, plugin, nowMs - startedMs);
  return nowMs;
}
