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

  detach(holder: Holder): void {
    this.#logs.delete(holder);
    this.#index.detach(holder);
  }

  cleared(holder: Holder): void {
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
