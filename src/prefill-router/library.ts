/**
 * The prefill router as a library, `signalbox/prefill-router`: workers, prompts and engine events in, a plan with its booking out. No server, no
 * gateway, no discovery; nothing runs but its own timers, which keep no process alive. docs/prefill-router.md shows its use.
 */
import { EngineFeed } from "../data/kv-events/engine-feed.ts";
import { createEventCounters, type EventCounters } from "../data/kv-events/event-counters.ts";
import { openMessageSource } from "../data/kv-events/message-source.ts";
import type { Holder, KvIndex, StorageTier, StoreOutcome } from "../data/prefix-index/kv-index.ts";
import { storageTiers } from "../data/prefix-index/kv-index.ts";
import { type Logger, silentLogger } from "../telemetry/log.ts";
import { createTokenHasher, type TokenHasher, type TokenHashes } from "../tokens/block-hash.ts";
import type { PrefillRouter, RouterWorker, WorkerRank } from "./contracts.ts";
import { readSettingsWithoutDiscovery } from "./fleet/fleet-settings.ts";
import { createSetIndex } from "./fleet/set-index.ts";
import { systemTimers } from "./plan/contracts.ts";
import { createPrefillRouter } from "./plan/prefill-router.ts";
import { hasQueue } from "./policy/policy-class.ts";
import { createWorkerStage } from "./stage/worker-stage.ts";

export type { EventCounters } from "../data/kv-events/event-counters.ts";
export type { StoreOutcome } from "../data/prefix-index/kv-index.ts";
export type { Logger } from "../telemetry/log.ts";
export type { TokenHashes } from "../tokens/block-hash.ts";
export type {
  Booking,
  Leg,
  PendingPlan,
  PinnedWorker,
  PlacedLeg,
  Plan,
  PlanExplanation,
  PlanOutcome,
  PlanPreview,
  PlanRefusal,
  PlanRequest,
  PrefillRouter,
  RankLoad,
  RouterSnapshot,
  RouterWorker,
  RoutingConstraints,
  SharedHits,
  Stage,
  WorkerRank,
} from "./contracts.ts";

export interface RouterOptions {
  /** Tokens of one KV block; the same for every worker. */
  readonly blockSize: number;
  /** Names the queue classes of a policy file. */
  readonly model?: string;
  /** Blocks as speculative decoding with EAGLE has them. */
  readonly isEagle?: boolean;
  /** By the names of the plugin's parameters, e.g. {overlapScoreCredit: 0.8, routerTemperature: 0.2}. They go before the environment. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /** Where DYN_ROUTER_* variables are read; nothing is read unless it is given. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  readonly log?: Logger;
  /** Monotonic milliseconds. */
  readonly now?: () => number;
  /** Uniform in [0, 1). */
  readonly random?: () => number;
}

/** One router for the workers of one model. */
export interface OpenRouter {
  readonly router: PrefillRouter;
  readonly warnings: readonly string[];
  readonly counters: Readonly<EventCounters>;
  /** What a plan needs to know of a prompt: spread it into the request. */
  prompt(tokens: ArrayLike<number>, options?: PromptOptions): Prompt;
  /** To be told by hand what a rank's engine holds. */
  blocksOf(rank: WorkerRank): RankBlocks;
  /** Follows an engine's own events (vLLM, SGLang) over ZeroMQ; the end of it forgets what they told. */
  followEngine(rank: WorkerRank, endpoints: EngineEndpoints): Following;
  /** Refuses what waits, ends every booking and all that is followed. */
  close(): Promise<void>;
}

export interface PromptOptions {
  readonly loraName?: string | undefined;
  readonly cacheSalt?: string | undefined;
}

export interface Prompt extends TokenHashes {
  readonly isl: number;
  readonly loraName: string | undefined;
}

export interface EngineEndpoints {
  /** e.g. tcp://10.0.0.7:5557 */
  readonly events: string;
  readonly replay?: string;
}

export interface Following {
  readonly opened: Promise<void>;
  close(): Promise<void>;
}

export type TierName = (typeof storageTiers)[number];

export interface StoredBlocks extends PromptOptions {
  /** The engine's own names of the blocks, u64, in the order of their tokens. */
  readonly blockHashes: readonly bigint[];
  /** Of all these blocks. */
  readonly tokens: ArrayLike<number>;
  /** The block they continue; undefined: they begin a prompt. */
  readonly parentHash?: bigint;
  readonly tier?: TierName;
}

export interface RankBlocks {
  stored(blocks: StoredBlocks): StoreOutcome;
  removed(blockHashes: readonly bigint[], tier?: TierName): void;
  cleared(): void;
  /** Forgets all of it. */
  close(): void;
}

/** Settings that cannot be; `faults` names each. */
export class SettingsFault extends Error {
  readonly code = "settings";
  readonly faults: readonly string[];

  constructor(faults: readonly string[]) {
    super(faults.join("; "));
    this.name = "SettingsFault";
    this.faults = faults;
  }
}

/** Throws SettingsFault. */
export function openPrefillRouter(options: RouterOptions): OpenRouter {
  return new Opened(options);
}

/** A worker of which little is known: one rank, both stages, unless said otherwise. */
export function workerOf(known: Pick<RouterWorker, "id"> & Partial<RouterWorker>): RouterWorker {
  return {
    role: "aggregated",
    dataParallelStartRank: 0,
    dataParallelSize: 1,
    totalKvBlocks: undefined,
    maxNumBatchedTokens: undefined,
    taints: [],
    stableRoutingId: undefined,
    topologyDomains: new Map(),
    kvTransferDomain: undefined,
    kvTransferEnforcement: undefined,
    kvTransferPreferredWeight: undefined,
    loras: new Set(),
    ...known,
  };
}

const maxBlocksPerRank = 4_194_304;

class Opened implements OpenRouter {
  readonly router: PrefillRouter;
  readonly warnings: readonly string[];
  readonly counters = createEventCounters();
  readonly #options: RouterOptions;
  readonly #hasher: TokenHasher = createTokenHasher();
  readonly #index: KvIndex | undefined;
  readonly #now: () => number;
  readonly #log: Logger;
  readonly #following = new Set<Following>();

  constructor(options: RouterOptions) {
    const { blockSize, model = "", environment = {}, settings: parameters = {}, random = Math.random } = options;
    const { settings, warnings, faults } = readSettingsWithoutDiscovery(environment, parameters);
    if (faults.length > 0) throw new SettingsFault(faults);
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    this.#log = options.log ?? silentLogger;
    this.warnings = warnings;
    const { busyThresholds, settingsOf, config, prefillLoad } = settings;
    const plan = settings.planConfig(model, false);
    const needsBatchedTokens = plan.profile.classes.some(hasQueue);
    const shared = { blockSize, busyThresholds, needsBatchedTokens, prefillLoad, now: this.#now, random };
    const { router: index, fed } = createSetIndex(config, random);
    this.#index = fed;
    this.router = createPrefillRouter({
      config: {
        ...plan,
        conditional: config.conditionalDisaggEnabled
          ? {
              policy: config.conditionalDisaggPolicy,
              effIslThreshold: config.conditionalDisaggEffIslThreshold,
              effIslRatioThreshold: config.conditionalDisaggEffIslRatioThreshold,
              prefillBusyThreshold: config.conditionalDisaggPrefillBusyThreshold ?? config.routerQueueThreshold,
              decodeBusyThreshold: config.conditionalDisaggDecodeBusyThreshold,
            }
          : undefined,
      },
      settingsOf,
      prefill: createWorkerStage({ stage: "prefill", ...shared }),
      decode: createWorkerStage({ stage: "decode", ...shared }),
      index,
      now: this.#now,
      random,
      timers: systemTimers,
      log: this.#log,
    });
  }

  prompt(tokens: ArrayLike<number>, { loraName, cacheSalt }: PromptOptions = {}): Prompt {
    const { blockSize, isEagle } = this.#options;
    const hashes = this.#hasher.hash(wordsOf(tokens), { blockSize, loraName, cacheSalt, isEagle });
    return { isl: tokens.length, loraName, ...hashes };
  }

  blocksOf(rank: WorkerRank): RankBlocks {
    const index = this.#index;
    if (index === undefined) return noBlocks;
    const holder = index.attach();
    this.router.setHolder(rank, holder);
    return {
      stored: ({ blockHashes, tokens, parentHash, tier, loraName, cacheSalt }) => {
        const own = this.prompt(tokens, { loraName, cacheSalt }).blockHashes;
        const count = Math.min(blockHashes.length, own.length / 2);
        const [low, high] = wordsOfHash(parentHash ?? 0n);
        const hasParent = parentHash !== undefined;
        return index.stored(holder, tierOf(tier), low, high, hasParent, wordsOfHashes(blockHashes), own, 0, count);
      },
      removed: (blockHashes, tier) =>
        index.removed(holder, tierOf(tier), wordsOfHashes(blockHashes), 0, blockHashes.length),
      cleared: () => index.cleared(holder),
      close: () => {
        index.detach(holder);
        if (this.router.holderOf(rank) === holder) this.router.setHolder(rank, undefined);
      },
    };
  }

  followEngine({ workerId, dpRank }: WorkerRank, endpoints: EngineEndpoints): Following {
    const index = this.#index;
    if (index === undefined) return { opened: Promise.resolve(), close: () => Promise.resolve() };
    // Decisions may be noted of the rank before its engine has said anything.
    let waiting: Holder | undefined = index.attach();
    this.router.setHolder({ workerId, dpRank }, waiting);
    const feed = new EngineFeed({
      index,
      hasher: this.#hasher,
      blockSize: this.#options.blockSize,
      maxBlocksPerRank,
      counters: this.counters,
      adapters: new Set(),
      replayEndpoint: endpoints.replay,
      now: this.#now,
      rank: dpRank,
      holderOf: (rank) => {
        if (rank !== dpRank) return undefined;
        const holder = waiting;
        waiting = undefined;
        return holder;
      },
      onBlockSize: (reported) =>
        this.#log.warn({ reported, expected: this.#options.blockSize }, "an engine's blocks have another size"),
      onRank: (rank, holder, isThere) =>
        this.router.setHolder({ workerId, dpRank: rank }, isThere ? holder : undefined),
    });
    const source = openMessageSource({
      endpoint: endpoints.events,
      binds: false,
      topicFilter: "",
      handler: {
        message: (_topic, sequence, payload) => feed.message(sequence, payload),
        disconnected: () => feed.disconnected(),
      },
      log: this.#log,
    });
    const following: Following = {
      opened: source.opened,
      close: async () => {
        this.#following.delete(following);
        if (waiting !== undefined) index.detach(waiting);
        waiting = undefined;
        await Promise.all([feed.close(), source.close()]);
      },
    };
    this.#following.add(following);
    return following;
  }

  async close(): Promise<void> {
    this.router.close();
    await Promise.all(Array.from(this.#following, (following) => following.close()));
  }
}

/** Where settings say to follow no events, what is told of them counts for nothing. */
const noBlocks: RankBlocks = { stored: () => "applied", removed: () => {}, cleared: () => {}, close: () => {} };

function tierOf(name: TierName = "device"): StorageTier {
  return storageTiers.indexOf(name) as StorageTier;
}

function wordsOf(tokens: ArrayLike<number>): Uint32Array {
  return tokens instanceof Uint32Array ? tokens : Uint32Array.from(tokens);
}

function wordsOfHash(hash: bigint): readonly [low: number, high: number] {
  return [Number(hash & 0xffff_ffffn), Number((hash >> 32n) & 0xffff_ffffn)];
}

function wordsOfHashes(hashes: readonly bigint[]): Uint32Array {
  const words = new Uint32Array(2 * hashes.length);
  for (const [index, hash] of hashes.entries()) words.set(wordsOfHash(hash), 2 * index);
  return words;
}
