/** An index of Maps and strings: slow, obvious, and able to say what every holder holds. Small enough to be believed. */
import type { Holder, StorageTier, StoreOutcome } from "../../../../src/data/prefix-index/kv-index.ts";
import type { IngestIndex } from "../../../../src/prefill-router/indexer/event-applier.ts";

/** What a holder holds: by engine hash, the path of token hashes from the root, and the tiers. */
export interface HeldBlock {
  readonly path: string;
  readonly tiers: Set<StorageTier>;
}

export class PlainKvIndex implements IngestIndex {
  readonly holders: Map<Holder, Map<string, HeldBlock>>;
  calls: number;
  #next: number;

  constructor() {
    this.holders = new Map();
    this.calls = 0;
    this.#next = 0;
  }

  attach(): Holder {
    const holder = this.#next++;
    this.holders.set(holder, new Map());
    return holder;
  }

  detach(holder: Holder): void {
    if (!this.holders.delete(holder)) throw new Error(`holder ${holder} is not attached`);
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
    this.calls++;
    const blocks = this.#blocksOf(holder);
    const parent = hasParent ? blocks.get(wordsText(parentLow, parentHigh)) : undefined;
    if (hasParent && parent === undefined) return "unknown-parent";
    let path = parent?.path ?? "";
    for (let index = first; index < first + count; index++) {
      path += `/${hashText(tokensHashes, index)}`;
      const engine = hashText(engineHashes, index);
      const held = blocks.get(engine) ?? { path, tiers: new Set<StorageTier>() };
      held.tiers.add(tier);
      blocks.set(engine, held);
    }
    return "applied";
  }

  removed(holder: Holder, tier: StorageTier, engineHashes: Uint32Array, first: number, count: number): void {
    this.calls++;
    const blocks = this.#blocksOf(holder);
    for (let index = first; index < first + count; index++) {
      const engine = hashText(engineHashes, index);
      const held = blocks.get(engine);
      held?.tiers.delete(tier);
      if (held?.tiers.size === 0) blocks.delete(engine);
    }
  }

  cleared(holder: Holder): void {
    this.#blocksOf(holder).clear();
  }

  upkeep(): boolean {
    return false;
  }

  get heldBlocks(): number {
    let sum = 0;
    for (const blocks of this.holders.values()) sum += blocks.size;
    return sum;
  }

  /** The holder's blocks as sorted text, engine hashes left out: what two indices must agree on. */
  pathsOf(holder: Holder): string[] {
    return [...this.#blocksOf(holder).values()]
      .map(({ path, tiers }) => `${path} ${[...tiers].sort((one, other) => one - other).join(",")}`)
      .sort();
  }

  #blocksOf(holder: Holder): Map<string, HeldBlock> {
    const blocks = this.holders.get(holder);
    if (blocks === undefined) throw new Error(`holder ${holder} is not attached`);
    return blocks;
  }
}

function hashText(words: Uint32Array, index: number): string {
  return wordsText(words[2 * index] ?? 0, words[2 * index + 1] ?? 0);
}

function wordsText(low: number, high: number): string {
  return ((BigInt(high) << 32n) | BigInt(low)).toString(16);
}
