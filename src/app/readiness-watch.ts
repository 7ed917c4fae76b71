/**
 * Looks at the pools' readiness and says what has become of it, once for each change: in the log with the reason, and to whoever announces it.
 * A pool that nobody may be sent to says why from the start.
 */
import type { Logger } from "../telemetry/log.ts";
import type { PoolReadiness } from "./pool-readiness.ts";

export interface ReadinessWatchOptions {
  /** By name; "" has none. */
  readonly pools: () => ReadonlyMap<string, PoolReadiness>;
  /** What is announced: of the process, or of one pool. */
  readonly isReady: (pool?: string) => boolean;
  /** Called at every look, before anything is told. */
  readonly looked: () => void;
  /** What is announced has changed. */
  readonly changed: () => void;
  readonly log: Logger;
  readonly lookMs: number;
}

/** Looks at once, and then again and again until it is closed. */
export function watchReadiness(options: ReadinessWatchOptions): { close(): Promise<void> } {
  const { pools, isReady, looked, changed, log, lookMs } = options;
  let told = new Map<string, boolean>();
  let reasons = new Map<string, string>();
  const announced = (): Map<string, boolean> =>
    new Map([["", isReady()], ...[...pools().keys()].map((name) => [`/${name}`, isReady(name)] as const)]);
  const look = (): void => {
    looked();
    const states = announced();
    const isChanged = [...states].some(([name, state]) => (told.get(name) ?? false) !== state);
    const wasReady = told.get("") ?? false;
    told = states;
    if (isChanged) changed();
    reasons = tellReasons(pools(), reasons, log);
    if (wasReady !== isReady()) log.info({ isReady: isReady() }, "readiness changed");
  };
  look();
  const timer = setInterval(look, lookMs);
  timer.unref();
  return {
    close() {
      clearInterval(timer);
      return Promise.resolve();
    },
  };
}

/** What was told of each pool. */
function tellReasons(
  pools: ReadonlyMap<string, PoolReadiness>,
  told: ReadonlyMap<string, string>,
  log: Logger,
): Map<string, string> {
  const reasons = new Map<string, string>();
  for (const [name, readiness] of pools) {
    const reason = readiness.kind === "ready" ? "" : readiness.reason;
    reasons.set(name, reason);
    if (reason === (told.get(name) ?? "")) continue;
    const pool = name === "" ? {} : { pool: name };
    if (readiness.kind === "unserved") log.warn({ ...pool, reason }, "the pool cannot be served");
    else if (readiness.kind === "coming") log.info({ ...pool, reason }, "the pool is not ready yet");
    else log.info(pool, "the pool is ready");
  }
  return reasons;
}
