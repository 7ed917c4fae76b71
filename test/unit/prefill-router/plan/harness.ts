/** A router over fake stages, with a clock and timers the test moves. */

import type { StageSettings } from "../../../../src/prefill-router/config.ts";
import type {
  PlanOutcome,
  PlanRequest,
  PrefillRouter,
  RouterWorker,
} from "../../../../src/prefill-router/contracts.ts";
import {
  type LegKind,
  type PlanConfig,
  type PrefillRouterOptions,
  planDefaults,
  type RouterIndex,
  type RouterObserver,
} from "../../../../src/prefill-router/plan/contracts.ts";
import { createPrefillRouter } from "../../../../src/prefill-router/plan/prefill-router.ts";
import { syntheticProfile } from "../../../../src/prefill-router/policy/policy-class.ts";
import { type FakeStage, fakeStage } from "./fake-stage.ts";

export function worker(id: number, role: RouterWorker["role"], changes: Partial<RouterWorker> = {}): RouterWorker {
  return {
    id: BigInt(id),
    role,
    dataParallelStartRank: 0,
    dataParallelSize: 1,
    totalKvBlocks: 1000,
    maxNumBatchedTokens: 1000,
    taints: [],
    stableRoutingId: undefined,
    topologyDomains: new Map(),
    kvTransferDomain: undefined,
    kvTransferEnforcement: undefined,
    kvTransferPreferredWeight: undefined,
    loras: new Set(),
    ...changes,
  };
}

export function request(isl: number, changes: Partial<PlanRequest> = {}): PlanRequest {
  const blocks = Math.floor(isl / 16);
  return {
    requestId: "client-id",
    isl,
    blockHashes: new Uint32Array(2 * blocks),
    sequenceHashes: new Uint32Array(2 * blocks).fill(7),
    ...changes,
  };
}

const settings: StageSettings = {
  overlapScoreCredit: 1,
  overlapScoreCreditDecay: 0,
  prefillLoadScale: 1,
  decodeActiveRequestWeight: 0,
  hostCacheHitWeight: 0.75,
  diskCacheHitWeight: 0.25,
  sharedCacheMultiplier: 0,
  temperature: 0,
  assumeKvReuse: true,
  trackPrefillTokens: true,
  trackActiveBlocks: true,
};

const decodeSettings: StageSettings = {
  ...settings,
  overlapScoreCredit: 0,
  assumeKvReuse: false,
  trackPrefillTokens: false,
};

interface Timer {
  readonly atMs: number;
  readonly callback: () => void;
}

export interface Harness {
  readonly router: PrefillRouter;
  readonly prefill: FakeStage;
  readonly decode: FakeStage;
  readonly timers: ReadonlySet<Timer>;
  /** Moves the clock and calls the timers that are due, in order. */
  readonly advance: (ms: number) => void;
  readonly plan: (request: PlanRequest) => { outcome: PlanOutcome | undefined; cancel: () => void; calls: number };
}

export interface HarnessOptions {
  readonly config?: Partial<PlanConfig>;
  readonly workers?: readonly RouterWorker[];
  readonly index?: RouterIndex;
  readonly observers?: readonly RouterObserver[];
  readonly options?: Partial<PrefillRouterOptions>;
}

export function harness({ config, workers = [], index, observers = [], options }: HarnessOptions = {}): Harness {
  const prefill = fakeStage("prefill");
  const decode = fakeStage("decode");
  const timers = new Set<Timer>();
  let nowMs = 0;
  const router = createPrefillRouter({
    config: {
      ...planDefaults,
      profile: syntheticProfile(undefined, "fcfs"),
      conditional: undefined,
      affinity: undefined,
      ...config,
    },
    settingsOf: (leg: LegKind) => (leg === "decode" ? decodeSettings : settings),
    prefill,
    decode,
    index,
    now: () => nowMs,
    random: () => 0,
    timers: {
      after(ms, callback) {
        const timer = { atMs: nowMs + ms, callback };
        timers.add(timer);
        return () => timers.delete(timer);
      },
    },
    observers,
    ...options,
  });
  for (const each of workers) router.upsertWorker(each);
  return {
    router,
    prefill,
    decode,
    timers,
    advance(ms) {
      const untilMs = nowMs + ms;
      for (;;) {
        const due = [...timers].filter((timer) => timer.atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)[0];
        if (due === undefined) break;
        timers.delete(due);
        nowMs = Math.max(nowMs, due.atMs);
        due.callback();
      }
      nowMs = untilMs;
    },
    plan(planRequest) {
      const result = { outcome: undefined as PlanOutcome | undefined, cancel: () => {}, calls: 0 };
      const pending = router.plan(planRequest, (outcome) => {
        result.outcome = outcome;
        result.calls += 1;
      });
      result.cancel = () => pending.cancel();
      return result;
    },
  };
}

/** The plan of an outcome that must be one. */
export function planned(outcome: PlanOutcome | undefined) {
  if (outcome?.kind !== "planned") throw new Error(`expected a plan, got ${JSON.stringify(outcome)}`);
  return outcome.plan;
}

export function refusal(outcome: PlanOutcome | undefined) {
  if (outcome?.kind !== "refused") throw new Error(`expected a refusal, got ${outcome?.kind}`);
  return outcome.refusal;
}

/** An index that matches whatever a stage's `cached` map says. */
export function anyIndex(changes: Partial<RouterIndex> = {}): RouterIndex {
  return {
    match: () => {},
    createMatches: () => ({ device: new Int32Array(0), host: new Int32Array(0), disk: new Int32Array(0) }),
    ...changes,
  };
}
