/**
 * One model in one routing group: its router with both stages, its index and the events that feed it. Made with the first worker that could be
 * chosen, whose block size and kind of blocks all later ones share; it lives as long as the service.
 */
import { createEventCounters, type EventCounters } from "../../data/kv-events/event-counters.ts";
import { createKvMatches, type KvMatches } from "../../data/prefix-index/kv-index.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { TokenHasher } from "../../tokens/block-hash.ts";
import type { PrefillRouter, RouterWorker, WorkerRank } from "../contracts.ts";
import type { FleetSettings } from "../fleet/fleet-settings.ts";
import { createSetIndex } from "../fleet/set-index.ts";
import { type RouterIndex, systemTimers } from "../plan/contracts.ts";
import { createPrefillRouter } from "../plan/prefill-router.ts";
import { hasQueue } from "../policy/policy-class.ts";
import { createWorkerStage } from "../stage/worker-stage.ts";
import type { WorkerStage } from "../stage.ts";
import { type DumpedRank, dumpEvents } from "./dump.ts";
import { LoggedIndex } from "./logged-index.ts";
import type { PromptScope } from "./prompt.ts";
import { WorkerFeeds } from "./worker-feeds.ts";
import { routerWorkerOf, type WorkerRecord } from "./worker-record.ts";

export interface PartitionOptions {
  readonly modelName: string;
  readonly routingGroup: string;
  readonly blockSize: number;
  readonly isEagle: boolean;
  readonly settings: FleetSettings;
  readonly hasher: TokenHasher;
  readonly log: Logger;
  readonly now: () => number;
  readonly random: () => number;
}

/** Blocks of the prompt that a rank holds, tier by tier, each counting on from the one before. */
export interface RankOverlap extends WorkerRank {
  readonly device: number;
  readonly host: number;
  readonly disk: number;
}

const noBusyThresholds = {
  activeDecodeBlocks: undefined,
  activePrefillTokens: undefined,
  activePrefillTokensFraction: undefined,
};

export class Partition {
  readonly modelName: string;
  readonly routingGroup: string;
  readonly blockSize: number;
  isEagle: boolean;
  /** A worker has stood in it: its kind of blocks is certain. What a peer's dump made is not settled yet. */
  isSettled = false;
  readonly router: PrefillRouter;
  readonly prefill: WorkerStage;
  readonly decode: WorkerStage;
  scope: PromptScope;
  readonly counters: EventCounters = createEventCounters();
  readonly #log: LoggedIndex | undefined;
  readonly #index: RouterIndex | undefined;
  readonly #feeds: WorkerFeeds | undefined;
  readonly #now: () => number;
  #matches: KvMatches = createKvMatches(0);
  /** The matches object is too small, or for other holders. */
  #isStale = true;
  #matchNumber = 0;

  constructor(options: PartitionOptions) {
    const { modelName, routingGroup, blockSize, isEagle, settings, hasher, log, now, random } = options;
    this.modelName = modelName;
    this.routingGroup = routingGroup;
    this.blockSize = blockSize;
    this.isEagle = isEagle;
    this.#now = now;
    // Callers of the service dispatch to workers themselves.
    const planConfig = { ...settings.planConfig(modelName, false), conditional: settings.conditional };
    const needsBatchedTokens = planConfig.profile.classes.some(hasQueue);
    const { prefillLoad } = settings;
    const shared = { blockSize, busyThresholds: noBusyThresholds, needsBatchedTokens, prefillLoad, now, random };
    const stage = (name: "prefill" | "decode"): WorkerStage => createWorkerStage({ stage: name, ...shared });
    this.prefill = stage("prefill");
    this.decode = stage("decode");
    const { router, fed } = createSetIndex(settings.config, random);
    this.#index = router;
    this.#log = fed === undefined ? undefined : new LoggedIndex(fed, random);
    this.router = createPrefillRouter({
      config: planConfig,
      settingsOf: settings.settingsOf,
      prefill: this.prefill,
      decode: this.decode,
      index: router,
      now,
      random,
      timers: systemTimers,
      log,
    });
    const track = settings.tracking?.of({ modelName, routingGroup, blockSize });
    this.scope = { blockSize, isEagle, hasher, track };
    if (this.#log !== undefined) {
      this.#feeds = new WorkerFeeds({
        index: this.#log,
        blockSize,
        hasher,
        counters: this.counters,
        log,
        now,
        holderChanged: (rank, holder) => this.#holderChanged(rank, holder),
      });
    }
  }

  settle(isEagle: boolean): void {
    this.isSettled = true;
    this.isEagle = isEagle;
    this.scope = { ...this.scope, isEagle };
  }

  /** As Dynamo writes it into messages. */
  get label(): string {
    return `model=${this.modelName} routing_group=${this.routingGroup}`;
  }

  get indexedBlocks(): number {
    return this.#log?.heldBlocks ?? 0;
  }

  get sizeBytes(): number {
    return (this.#log?.sizeBytes ?? 0) + this.prefill.sizeBytes + this.decode.sizeBytes;
  }

  async upsert(record: WorkerRecord): Promise<void> {
    await this.#feeds?.follow(record);
    this.router.upsertWorker(routerWorkerOf(record));
  }

  /** Its bookings end and its blocks are forgotten. */
  remove(workerId: bigint): void {
    this.router.removeWorker(workerId);
    this.#feeds?.forget(workerId);
  }

  /** Asks the index for a prompt. The answer holds until the next call, whose number differs. */
  match(chain: Uint32Array): { readonly matches: KvMatches | undefined; readonly number: number } {
    const number = ++this.#matchNumber;
    if (this.#index === undefined || chain.length === 0) return { matches: undefined, number };
    // Without events the router attaches the ranks itself, whenever workers change.
    if (this.#isStale || this.#feeds === undefined) this.#matches = this.#index.createMatches();
    this.#isStale = false;
    this.#index.match(chain, this.#matches, this.#now());
    return { matches: this.#matches, number };
  }

  get matchNumber(): number {
    return this.#matchNumber;
  }

  /** What each rank of these workers holds of the prompt that was matched last. */
  overlaps(workers: readonly RouterWorker[], matches: KvMatches | undefined): RankOverlap[] {
    return workers.flatMap(({ id, dataParallelStartRank, dataParallelSize }) =>
      Array.from({ length: dataParallelSize }, (_, offset) =>
        this.#overlap(id, dataParallelStartRank + offset, matches),
      ),
    );
  }

  get events(): AsyncGenerator<string> {
    const ranks: DumpedRank[] = [];
    for (const { rank, holder } of this.#feeds?.holders() ?? []) {
      ranks.push({ rank, logs: this.#log?.logsOf(holder) ?? [] });
    }
    return dumpEvents(ranks);
  }

  /** Where blocks that a peer tells of go; undefined where no events are followed. */
  get recovered(): { readonly index: LoggedIndex; readonly holderOf: (rank: WorkerRank) => number } | undefined {
    const [index, feeds] = [this.#log, this.#feeds];
    return index === undefined || feeds === undefined ? undefined : { index, holderOf: (rank) => feeds.holderOf(rank) };
  }

  async close(): Promise<void> {
    this.router.close();
    await this.#feeds?.close();
  }

  #overlap(workerId: bigint, dpRank: number, matches: KvMatches | undefined): RankOverlap {
    const holder = this.router.holderOf({ workerId, dpRank }) ?? -1;
    const device = matches?.device[holder] ?? 0;
    const host = device + (matches?.host[holder] ?? 0);
    return { workerId, dpRank, device, host, disk: host + (matches?.disk[holder] ?? 0) };
  }

  #holderChanged(rank: WorkerRank, holder: number | undefined): void {
    this.#isStale = true;
    this.router.setHolder(rank, holder);
  }
}
