/** The order in which waiting requests go, and which are refused, against Dynamo's own queue on random arrivals under several policy files. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "@jest/globals";
import { createSettingsOf, defaultRouterConfig } from "../../src/prefill-router/config.ts";
import type { PlanRequest, RouterWorker } from "../../src/prefill-router/contracts.ts";
import { planDefaults } from "../../src/prefill-router/plan/contracts.ts";
import { createPrefillRouter } from "../../src/prefill-router/plan/prefill-router.ts";
import { parsePolicyConfig } from "../../src/prefill-router/policy/policy-config.ts";
import { createWorkerStage } from "../../src/prefill-router/stage/worker-stage.ts";
import { startOracle } from "./oracle.ts";

const maxBatchedTokens = 100;

function policyOf(short: string, middle: string, long: string): string {
  return `
default_policy_family: all
uncached_isl_buckets:
  - { min_tokens: 0, bucket: short }
  - { min_tokens: 300, bucket: middle }
  - { min_tokens: 700, bucket: long }
policy_classes:
  - { name: a, policy_family: all, cache_bucket: short, prefill_busy_threshold_frac: 1, ${short} }
  - { name: b, policy_family: all, cache_bucket: middle, prefill_busy_threshold_frac: 1, ${middle} }
  - { name: c, policy_family: all, cache_bucket: long, prefill_busy_threshold: 100, ${long} }
`;
}

const policies: readonly (readonly [name: string, policy: string])[] = [
  ["first come, first served, equal shares", policyOf("quantum: 500", "quantum: 500", "quantum: 500")],
  ["unequal shares", policyOf("quantum: 1000", "quantum: 90", "quantum: 7")],
  [
    "least work first in two of three classes",
    policyOf("quantum: 64, queue_policy: wspt", "quantum: 300", "quantum: 900, queue_policy: wspt"),
  ],
  [
    "limits of requests and of tokens",
    policyOf(
      "quantum: 100, request_queue_limit_per_worker: 2",
      "quantum: 100, raw_isl_token_queue_limit_per_worker: 900",
      "quantum: 100, request_queue_limit_per_worker: 0",
    ),
  ],
];

interface Asked {
  readonly id: string;
  readonly number: number;
  readonly isl: number;
  readonly priority_jump?: number;
  readonly strict_priority?: number;
  readonly pin?: number;
}

interface Played {
  readonly order: readonly string[];
  readonly refused: readonly (readonly [id: string, message: string])[];
}

function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 0x1_0000_0000;
  };
}

/** Every prompt fills a worker, so that one goes at a time; jumps are far above what passes between two arrivals. */
function scenarioOf(seed: number) {
  const random = seeded(seed);
  const pick = <T>(...values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  const fillers: Asked[] = [1, 2].map((pin) => ({ id: `filler-${pin}`, number: 50_000 + pin, isl: 500, pin }));
  const requests: Asked[] = Array.from({ length: 30 }, (_, index) => {
    const pin = pick<number | undefined>(undefined, undefined, undefined, 1, 2);
    return {
      id: `r${index}`,
      number: index + 1,
      isl: 101 + Math.floor(random() * 1000),
      priority_jump: pick(0, 0, 0, 1000, 2000),
      strict_priority: pick(0, 0, 0, 0, 1),
      ...(pin === undefined ? {} : { pin }),
    };
  });
  return { fillers, requests };
}

function workerOf(id: number): RouterWorker {
  return {
    id: BigInt(id),
    role: "aggregated",
    dataParallelStartRank: 0,
    dataParallelSize: 1,
    totalKvBlocks: undefined,
    maxNumBatchedTokens: maxBatchedTokens,
    taints: [],
    stableRoutingId: undefined,
    topologyDomains: new Map(),
    kvTransferDomain: undefined,
    kvTransferEnforcement: undefined,
    kvTransferPreferredWeight: undefined,
    loras: new Set(),
  };
}

function playOurs(policy: string, fillers: readonly Asked[], requests: readonly Asked[]): Played {
  const parsed = parsePolicyConfig(policy);
  const profile = parsed.kind === "parsed" ? parsed.config.profileOf("m") : undefined;
  if (profile === undefined) throw new Error("the policy file is wrong");
  let nowMs = 0;
  const router = createPrefillRouter({
    config: { ...planDefaults, profile, conditional: undefined, affinity: undefined },
    settingsOf: createSettingsOf(defaultRouterConfig),
    prefill: createWorkerStage({ stage: "prefill", blockSize: 16 }),
    decode: createWorkerStage({ stage: "decode", blockSize: 16 }),
    index: undefined,
    now: () => nowMs,
  });
  for (const id of [1, 2]) router.upsertWorker(workerOf(id));
  const order: string[] = [];
  const refused: [string, string][] = [];
  const running: (() => void)[] = [];
  const ask = ({ id, isl, pin, priority_jump, strict_priority }: Asked, went: (free: () => void) => void) => {
    nowMs += 4;
    const request: PlanRequest = {
      requestId: id,
      isl,
      blockHashes: new Uint32Array(0),
      sequenceHashes: new Uint32Array(0),
      priorityJump: priority_jump ?? 0,
      strictPriority: strict_priority ?? 0,
      pinned: { decode: pin === undefined ? undefined : { workerId: BigInt(pin), dpRank: 0 } },
    };
    router.plan(request, (outcome) => {
      if (outcome.kind === "refused") refused.push([id, outcome.refusal.message]);
      else went(() => outcome.plan.booking.free());
    });
  };
  const fillings: (() => void)[] = [];
  for (const filler of fillers) ask(filler, (free) => fillings.push(free));
  for (const request of requests) {
    ask(request, (free) => {
      order.push(request.id);
      running.push(free);
    });
  }
  for (const free of fillings) {
    free();
    for (let next = running.shift(); next !== undefined; next = running.shift()) next();
  }
  router.close();
  return { order, refused: refused.filter(([, message]) => !message.includes("closing")) };
}

describe("the queue, beside Dynamo's own", () => {
  it.each(policies)(
    "%s: lets the same requests go in the same order, and refuses the same",
    async (_name, policy) => {
      const folder = await mkdtemp(join(tmpdir(), "queue-"));
      const file = join(folder, "policy.yaml");
      await writeFile(file, policy);
      const oracle = startOracle("queue.py", {
        DYN_ROUTER_POLICY_CONFIG: file,
        DYN_ROUTER_USE_KV_EVENTS: "false",
        DYN_LOG: "off",
      });
      try {
        for (let seed = 1; seed <= 10; seed++) {
          const { fillers, requests } = scenarioOf(seed * 7919);
          const theirs = await oracle.ask<Played>("play", {
            workers: [1, 2].map((id) => ({
              worker_id: id,
              data_parallel_start_rank: 0,
              data_parallel_size: 1,
              max_num_batched_tokens: maxBatchedTokens,
            })),
            fillers,
            requests,
          });
          const ours = playOurs(policy, fillers, requests);
          expect({ seed, order: ours.order }).toEqual({ seed, order: theirs.order });
          expect(ours.refused.map(([id]) => id)).toEqual(theirs.refused.map(([id]) => id));
          for (const [index, [, message]] of ours.refused.entries())
            expect(theirs.refused[index]?.[1]).toContain(message);
          expect(theirs.order.length + theirs.refused.length).toBe(requests.length);
        }
      } finally {
        await oracle.close();
        await rm(folder, { recursive: true });
      }
    },
    120_000,
  );
});
