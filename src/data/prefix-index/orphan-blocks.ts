/**
 * Blocks of one holder on lower tiers whose parent is not known yet: engines move blocks down child first, and their names may have gone from the
 * device by then. A block waits here until its parent is stored on any tier, or it is removed itself.
 */
import type { StorageTier } from "./kv-index.ts";

export interface OrphanBlock {
  readonly parent: bigint;
  readonly name: bigint;
  readonly tokensLow: number;
  readonly tokensHigh: number;
  /** Bit t: held on tier t. */
  tiers: number;
}

export class OrphanBlocks {
  readonly #byName = new Map<bigint, OrphanBlock>();
  readonly #byParent = new Map<bigint, OrphanBlock[]>();

  get size(): number {
    return this.#byName.size;
  }

  /** A name already here keeps its first parent, as Dynamo's lower tiers do. */
  add(tier: StorageTier, parent: bigint, name: bigint, tokensLow: number, tokensHigh: number): void {
    const known = this.#byName.get(name);
    if (known !== undefined) {
      known.tiers |= 1 << tier;
      return;
    }
    const block = { parent, name, tokensLow, tokensHigh, tiers: 1 << tier };
    this.#byName.set(name, block);
    const siblings = this.#byParent.get(parent);
    if (siblings === undefined) this.#byParent.set(parent, [block]);
    else siblings.push(block);
  }

  remove(tier: StorageTier, name: bigint): void {
    const block = this.#byName.get(name);
    if (block === undefined) return;
    block.tiers &= ~(1 << tier);
    if (block.tiers !== 0) return;
    this.#byName.delete(name);
    const siblings = this.#byParent.get(block.parent)?.filter((sibling) => sibling !== block) ?? [];
    if (siblings.length === 0) this.#byParent.delete(block.parent);
    else this.#byParent.set(block.parent, siblings);
  }

  /** The blocks that waited for this parent, which leave. */
  adopt(parent: bigint): readonly OrphanBlock[] {
    const children = this.#byParent.get(parent);
    if (children === undefined) return noBlocks;
    this.#byParent.delete(parent);
    for (const child of children) this.#byName.delete(child.name);
    return children;
  }
}

const noBlocks: readonly OrphanBlock[] = [];
