/** An index of KV blocks that can say again what it was told: every event goes to the index, and what it accepted into the logs of its holder. */
import { type AddressSecrets, createAddressSecrets } from "../../data/prefix-index/block-address.ts";
import {
  type Holder,
  type KvIndex,
  type KvIndexRefusals,
  type KvMatches,
  type StorageTier,
  type StoreOutcome,
  storageTiers,
} from "../../data/prefix-index/kv-index.ts";
import { BlockLog } from "./block-log.ts";

export class LoggedIndex implements KvIndex {
  readonly #index: KvIndex;
  readonly #secrets: AddressSecrets;
  /** By holder, then by tier. */
  readonly #logs = new Map<Holder, (BlockLog | undefined)[]>();
  /** What was taken back while a peer's blocks are taken over; undefined while none are. */
  #takenBack: TakenBack | undefined;

  constructor(index: KvIndex, random: () => number) {
    this.#index = index;
    this.#secrets = createAddressSecrets(random);
  }

  /** By tier; undefined where the holder has nothing there. */
  logsOf(holder: Holder): readonly (BlockLog | undefined)[] {
    return this.#logs.get(holder) ?? [];
  }

  get holderCount(): number {
    return this.#index.holderCount;
  }

  get blocks(): number {
    return this.#index.blocks;
  }

  get heldBlocks(): number {
    return this.#index.heldBlocks;
  }

  get sizeBytes(): number {
    let sum = this.#index.sizeBytes;
    for (const logs of this.#logs.values()) for (const log of logs) sum += log?.sizeBytes ?? 0;
    return sum;
  }

  get refusals(): KvIndexRefusals {
    return this.#index.refusals;
  }

  attach(): Holder {
    return this.#index.attach();
  }

  /**
   * Where blocks go that a peer tells of while engines tell of theirs: what an engine has taken back since the beginning stays away, for the peer's
   * word is older. One at a time, to be ended.
   */
  beginTakeover(): { readonly index: Pick<KvIndex, "stored">; end(): void } {
    this.#takenBack = new TakenBack();
    return {
      index: { stored: (...stored) => this.#takeOver(...stored) },
      end: () => {
        this.#takenBack = undefined;
      },
    };
  }

  #takeOver(...[holder, tier, low, high, hasParent, engine, tokens, first, count]: Parameters<KvIndex["stored"]>) {
    const valid = this.#takenBack?.validOf(holder, tier, engine, first, count) ?? count;
    if (valid === 0) return "invalid";
    return this.stored(holder, tier, low, high, hasParent, engine, tokens, first, valid);
  }

  detach(holder: Holder): void {
    this.#logs.delete(holder);
    this.#index.detach(holder);
  }

  cleared(holder: Holder): void {
    this.#takenBack?.cleared(holder);
    this.#logs.delete(holder);
    this.#index.cleared(holder);
  }

  match(sequenceHashes: Uint32Array, matches: KvMatches, nowMs?: number): void {
    this.#index.match(sequenceHashes, matches, nowMs);
  }

  createMatches(): KvMatches {
    return this.#index.createMatches();
  }

  blocksOf(holder: Holder): number {
    return this.#index.blocksOf(holder);
  }

  upkeep(nowMs?: number): boolean {
    return this.#index.upkeep(nowMs);
  }

  stored(
    holder: Holder,
    tier: StorageTier,
    parentLow: number,
    parentHigh: number,
    hasParent: boolean,
    engineHashes: Uint32Array,
    tokensHashes: Uint32Array,
    first: number,
    count: number,
  ): StoreOutcome {
    const outcome = this.#index.stored(
      holder,
      tier,
      parentLow,
      parentHigh,
      hasParent,
      engineHashes,
      tokensHashes,
      first,
      count,
    );
    if (outcome !== "applied") return outcome;
    const log = this.#logOf(holder, tier);
    let parent = { low: parentLow, high: parentHigh, isThere: hasParent };
    for (let at = 2 * first; at < 2 * (first + count); at += 2) {
      const low = engineHashes[at] ?? 0;
      const high = engineHashes[at + 1] ?? 0;
      log.set(low, high, tokensHashes[at] ?? 0, tokensHashes[at + 1] ?? 0, parent);
      parent = { low, high, isThere: true };
    }
    return outcome;
  }

  removed(holder: Holder, tier: StorageTier, engineHashes: Uint32Array, first: number, count: number): void {
    this.#index.removed(holder, tier, engineHashes, first, count);
    this.#takenBack?.removed(holder, tier, engineHashes, first, count);
    const log = this.#logs.get(holder)?.[tier];
    if (log === undefined) return;
    for (let at = 2 * first; at < 2 * (first + count); at += 2) {
      log.delete(engineHashes[at] ?? 0, engineHashes[at + 1] ?? 0);
    }
  }

  #logOf(holder: Holder, tier: StorageTier): BlockLog {
    let logs = this.#logs.get(holder);
    if (logs === undefined) {
      logs = storageTiers.map(() => undefined);
      this.#logs.set(holder, logs);
    }
    const log = logs[tier] ?? new BlockLog(this.#secrets);
    logs[tier] = log;
    return log;
  }
}

/** Blocks that engines have taken back, and engines that have taken back everything. */
class TakenBack {
  readonly #cleared = new Set<Holder>();
  readonly #removed = new Map<Holder, Set<string>>();

  cleared(holder: Holder): void {
    this.#cleared.add(holder);
  }

  removed(holder: Holder, tier: StorageTier, hashes: Uint32Array, first: number, count: number): void {
    let removed = this.#removed.get(holder);
    if (removed === undefined) {
      removed = new Set();
      this.#removed.set(holder, removed);
    }
    for (let at = first; at < first + count; at++) removed.add(blockKey(tier, hashes, at));
  }

  /** How many blocks of a chain count, from its first. */
  validOf(holder: Holder, tier: StorageTier, hashes: Uint32Array, first: number, count: number): number {
    if (this.#cleared.has(holder)) return 0;
    const removed = this.#removed.get(holder);
    if (removed === undefined) return count;
    let valid = 0;
    while (valid < count && !removed.has(blockKey(tier, hashes, first + valid))) valid++;
    return valid;
  }
}

function blockKey(tier: StorageTier, hashes: Uint32Array, index: number): string {
  return `${tier}:${hashes[2 * index]}:${hashes[2 * index + 1]}`;
}
