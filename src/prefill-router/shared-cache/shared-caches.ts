/**
 * The caches behind the workers of one worker set that all workers of a stage share: follows what the workers' cards say of them, one Mooncake cache for
 * each place of events and layout, and looks prompts up in it. A look-up is in memory and never fails; where nothing is known it finds nothing.
 */
import type { HicacheCard } from "../../dynamo/model-card/model-card.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { SharedHits, Stage } from "../contracts.ts";
import { type Agreement, agreementOf } from "./agreed-layout.ts";
import { MooncakeCache, type OpenSource } from "./mooncake-cache.ts";
import { createSharedCacheCounters, type SharedCacheCounters } from "./shared-cache-counters.ts";

export interface SharedCachesInit {
  /** Of the worker set, for logs. */
  readonly set: string;
  /** Tokens of a block; pages must be of the same size. */
  readonly blockSize: number;
  /** Where the store's events are, whatever the workers say. */
  readonly eventsEndpoint: string | undefined;
  /** Stages whose choice no cached block counts in need not look anything up. */
  readonly stages: readonly Stage[];
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** A prompt was looked up, in so many milliseconds. */
  readonly asked?: (ms: number) => void;
  readonly log: Logger;
  readonly open?: OpenSource;
}

/** What of a worker matters here. */
export interface CachingWorker {
  readonly id: bigint;
  readonly role: "aggregated" | Stage;
  readonly hicache: HicacheCard | undefined;
}

/** `degraded`: workers have a shared cache and nothing is looked up in it. `disconnected`: what is known of it ages, since its events do not come. */
export type SharedCacheState = "silent" | "degraded" | "disconnected" | "following";

interface StageCache {
  readonly agreement: Agreement;
  readonly cache: MooncakeCache | undefined;
}

const silent: StageCache = { agreement: { kind: "silent" }, cache: undefined };
const noHits = new Uint32Array(0);

export class SharedCaches {
  readonly counters: SharedCacheCounters = createSharedCacheCounters();
  readonly #init: SharedCachesInit;
  readonly #workers = new Map<bigint, CachingWorker>();
  readonly #stages = new Map<Stage, StageCache>();
  /** By place of events and layout. */
  readonly #caches = new Map<string, MooncakeCache>();
  readonly #closing = new Set<Promise<void>>();
  /** What was wrong with the last card that could not be read. */
  #unreadable: string | undefined;
  #isClosed = false;

  constructor(init: SharedCachesInit) {
    this.#init = init;
  }

  upsertWorker(worker: CachingWorker): void {
    const before = this.#workers.get(worker.id);
    this.#workers.set(worker.id, worker);
    if (worker.hicache?.kind === "unreadable") this.#noteUnreadable(worker.id, worker.hicache.reason);
    if (before?.hicache !== worker.hicache || before?.role !== worker.role) this.#follow();
  }

  removeWorker(workerId: bigint): void {
    const before = this.#workers.get(workerId);
    this.#workers.delete(workerId);
    if (before?.hicache !== undefined) this.#follow();
  }

  /** Looked up when first asked for. The tokens are kept until then, and must not change. */
  hitsOf(tokens: Uint32Array, cacheSalt: string | undefined): SharedHits {
    return new PromptHits(
      tokens,
      (stage) => {
        // Keys in the store tell nothing of salts: a salted prompt's blocks are nobody else's.
        if (cacheSalt !== undefined && cacheSalt !== "") return undefined;
        return this.#stages.get(stage)?.cache;
      },
      this.#init,
    );
  }

  stateOf(stage: Stage): SharedCacheState {
    const { agreement, cache } = this.#stages.get(stage) ?? silent;
    if (cache === undefined) return agreement.kind === "silent" ? "silent" : "degraded";
    return cache.isConnected ? "following" : "disconnected";
  }

  /** Of all caches. */
  get pages(): number {
    let pages = 0;
    for (const cache of this.#caches.values()) pages += cache.pages;
    return pages;
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    const stages = this.#init.stages.map((stage) => {
      const { agreement, cache } = this.#stages.get(stage) ?? silent;
      return [
        stage,
        {
          state: this.stateOf(stage),
          reason: agreement.kind === "degraded" ? agreement.reason : null,
          endpoint: agreement.kind === "agreed" ? agreement.endpoint : null,
          layout: agreement.kind === "agreed" ? agreement.layout : null,
          pages: cache?.pages ?? 0,
          sequence: cache?.sequence ?? null,
        },
      ] as const;
    });
    return { stages: Object.fromEntries(stages), counters: { ...this.counters } };
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#stages.clear();
    this.#closeUnused();
    await Promise.all(this.#closing);
  }

  /** Once for all workers that are alike. */
  #noteUnreadable(workerId: bigint, reason: string): void {
    if (reason === this.#unreadable) return;
    this.#unreadable = reason;
    const { log, set } = this.#init;
    log.warn({ set, worker: workerId.toString(), reason }, "what a worker says of its shared cache cannot be read");
  }

  #follow(): void {
    if (this.#isClosed) return;
    for (const stage of this.#init.stages) this.#followStage(stage);
    this.#closeUnused();
  }

  #followStage(stage: Stage): void {
    const { set, blockSize, eventsEndpoint, log } = this.#init;
    const agreement = agreementOf(this.#workersOf(stage), blockSize, eventsEndpoint);
    const before = this.#stages.get(stage)?.agreement;
    this.#stages.set(stage, { agreement, cache: agreement.kind === "agreed" ? this.#cacheOf(agreement) : undefined });
    if (agreement.kind !== "degraded") return;
    if (before?.kind === "degraded" && before.reason === agreement.reason) return;
    log.warn({ set, stage, reason: agreement.reason }, "the workers' shared cache cannot be looked up");
  }

  *#workersOf(stage: Stage): Generator<CachingWorker> {
    for (const worker of this.#workers.values())
      if ((worker.role === "prefill") === (stage === "prefill")) yield worker;
  }

  /** Another layout begins with nothing: what was stored by the one before it is not what its workers would read. */
  #cacheOf({ endpoint, layout }: Extract<Agreement, { kind: "agreed" }>): MooncakeCache {
    const { log, open } = this.#init;
    const key = keyOf(endpoint, layout);
    let cache = this.#caches.get(key);
    if (cache === undefined) {
      cache = new MooncakeCache({
        endpoint,
        layout,
        counters: this.counters,
        log,
        ...(open === undefined ? {} : { open }),
      });
      this.#caches.set(key, cache);
    }
    return cache;
  }

  #closeUnused(): void {
    const used = new Set(Array.from(this.#stages.values(), ({ cache }) => cache));
    for (const [key, cache] of this.#caches) {
      if (used.has(cache)) continue;
      this.#caches.delete(key);
      const closing = cache
        .close()
        .catch((error: unknown) =>
          this.#init.log.error({ error, set: this.#init.set }, "a shared cache failed to close"),
        )
        .finally(() => this.#closing.delete(closing));
      this.#closing.add(closing);
    }
  }
}

/** What a shared cache has of one prompt, as it is when first asked: a request that waits is chosen for by what was known when it came. */
class PromptHits implements SharedHits {
  readonly #tokens: Uint32Array;
  readonly #cacheOf: (stage: Stage) => MooncakeCache | undefined;
  readonly #init: Pick<SharedCachesInit, "now" | "asked">;
  readonly #found = new Map<Stage, Uint32Array>();

  constructor(
    tokens: Uint32Array,
    cacheOf: (stage: Stage) => MooncakeCache | undefined,
    init: Pick<SharedCachesInit, "now" | "asked">,
  ) {
    this.#tokens = tokens;
    this.#cacheOf = cacheOf;
    this.#init = init;
  }

  of(stage: Stage): Uint32Array {
    let hits = this.#found.get(stage);
    if (hits === undefined) {
      const { now, asked } = this.#init;
      const startedAtMs = now();
      hits = this.#cacheOf(stage)?.hitsOf(this.#tokens) ?? noHits;
      this.#found.set(stage, hits);
      asked?.(now() - startedAtMs);
    }
    return hits;
  }
}

function keyOf(endpoint: string, layout: object): string {
  return JSON.stringify([endpoint, ...Object.values(layout).map((value: unknown) => value ?? null)]);
}
