/**
 * The exact index: one block → holders table a tier, keyed by the rolling sequence hash, which is computed here from parent and tokens hash, so
 * that blocks of different engines meet whatever the engines call them. An engine whose own hash is the sequence hash (Dynamo's mocker) costs
 * nothing beside the tables; what another calls its blocks is kept by holder (engine-names.ts).
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import { type TokenHasher, tokenHasher } from "../../tokens/block-hash.ts";
import { type AddressSecrets, addressOf, createAddressSecrets } from "./block-address.ts";
import { BlockHolders, maxHolders } from "./block-holders.ts";
import { EngineNames } from "./engine-names.ts";
import { HolderSeats } from "./holder-seats.ts";
import { HolderSweep } from "./holder-sweep.ts";
import {
  createKvMatches,
  type Holder,
  type KvIndex,
  type KvIndexRefusals,
  type KvMatches,
  type StorageTier,
  type StoreOutcome,
} from "./kv-index.ts";
import { type OrphanBlock, OrphanBlocks } from "./orphan-blocks.ts";
import { TierMatcher, tierCount } from "./tier-matcher.ts";

export interface KvIndexOptions {
  /** Uniform in [0, 1); seeds where blocks lie in the tables and decides nothing else. */
  readonly random: () => number;
  /** Distinct blocks, names and waiting blocks together: beyond it nothing more is stored. About 23 to 46 bytes each, a waiting one 300. */
  readonly maxBlocks?: number;
}

/** 20 million: under 1 GB with up to 64 holders. */
export const defaultMaxBlocks = 20_000_000;
/** About what one waiting block takes in two maps. */
const orphanBytes = 300;
const chunkBlocks = 4096;
const device: StorageTier = 0;

export function createKvIndex(options: KvIndexOptions): KvIndex {
  return new ExactKvIndex(options);
}

class ExactKvIndex implements KvIndex {
  readonly #secrets: AddressSecrets;
  readonly #maxBlocks: number;
  readonly #hasher: TokenHasher = tokenHasher();
  readonly #seats = new HolderSeats();
  /** By tier; the lower ones exist once something was stored there. */
  readonly #tables: (BlockHolders | undefined)[];
  readonly #device: BlockHolders;
  /** By holder. */
  readonly #names: (EngineNames | undefined)[] = [];
  readonly #orphans: (OrphanBlocks | undefined)[] = [];
  readonly #refusals = { unknownParent: 0, invalid: 0, full: 0 };
  #nameCount = 0;
  #heldBlocks = 0;
  /** Sequence hashes of the event at hand: the words, and the same words as the tables take them. */
  readonly #chained = new Uint32Array(2 * chunkBlocks);
  readonly #chain = new Int32Array(this.#chained.buffer);
  /** The parent of the event at hand. */
  #parentLow = 0;
  #parentHigh = 0;
  readonly #matcher: TierMatcher;
  readonly #sweep: HolderSweep;

  constructor(options: KvIndexOptions) {
    this.#secrets = createAddressSecrets(options.random);
    this.#maxBlocks = options.maxBlocks ?? defaultMaxBlocks;
    this.#device = new BlockHolders(this.#secrets);
    this.#tables = [this.#device, undefined, undefined, undefined];
    this.#matcher = new TierMatcher(this.#seats, this.#device, this.#tables);
    this.#sweep = new HolderSweep(this.#seats, this.#tables);
  }

  get blocks(): number {
    let sum = 0;
    for (const table of this.#tables) sum += table?.blocks ?? 0;
    return sum;
  }

  get heldBlocks(): number {
    return this.#heldBlocks;
  }

  get holderCount(): number {
    return this.#seats.holderCount;
  }

  get sizeBytes(): number {
    let sum = this.#chained.byteLength;
    for (const table of this.#tables) sum += table?.sizeBytes ?? 0;
    for (const names of this.#names) sum += names?.sizeBytes ?? 0;
    for (const orphans of this.#orphans) sum += (orphans?.size ?? 0) * orphanBytes;
    return sum;
  }

  get refusals(): KvIndexRefusals {
    return this.#refusals;
  }

  attach(): Holder {
    if (this.#seats.seatCount >= maxHolders) throw new RangeError(`more than ${maxHolders} holders`);
    return this.#seats.attach();
  }

  detach(holder: Holder): void {
    const seat = this.#seats.of(holder);
    if (seat < 0) return;
    this.#heldBlocks -= this.#seats.held(seat);
    this.#forgetNames(holder);
    this.#seats.detach(holder);
  }

  cleared(holder: Holder): void {
    this.#heldBlocks -= this.#seats.renew(holder);
    this.#forgetNames(holder);
  }

  blocksOf(holder: Holder): number {
    const seat = this.#seats.of(holder);
    return seat < 0 ? 0 : this.#seats.held(seat);
  }

  createMatches(): KvMatches {
    return createKvMatches(this.#seats.holderCount);
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
    this.#sweep.some();
    const seat = this.#seats.of(holder);
    if (seat < 0) return this.#refuse("unknown-parent");
    if (count === 0) return "applied";
    if (hasParent && names(engineHashes, first, count, parentLow, parentHigh)) return this.#refuse("invalid");
    if (this.#used() + count > this.#maxBlocks) return this.#refuse("full");
    if (hasParent && !this.#findParent(holder, seat, tier, parentLow | 0, parentHigh | 0)) {
      if (tier === device) return this.#refuse("unknown-parent");
      if (!this.#provesParent(parentLow, parentHigh, engineHashes, tokensHashes, first)) {
        this.#wait(holder, tier, bigintOf(parentLow, parentHigh), engineHashes, tokensHashes, first, count);
        return "applied";
      }
    }
    const table = this.#table(tier);
    for (let done = 0; done < count; done += chunkBlocks) {
      const chunk = Math.min(chunkBlocks, count - done);
      this.#hasher.chain(
        this.#parentLow,
        this.#parentHigh,
        hasParent || done > 0,
        tokensHashes,
        first + done,
        chunk,
        this.#chained,
        0,
      );
      this.#parentLow = this.#chain[2 * chunk - 2]!;
      this.#parentHigh = this.#chain[2 * chunk - 1]!;
      this.#name(holder, seat, tier, engineHashes, first + done, chunk);
      this.#hold(seat, table.addRun(this.#chain, 0, chunk, seat));
    }
    if (this.#orphans[holder] !== undefined) this.#adopt(holder, seat, engineHashes, first, count);
    return "applied";
  }

  removed(holder: Holder, tier: StorageTier, engineHashes: Uint32Array, first: number, count: number): void {
    const seat = this.#seats.of(holder);
    const table = this.#tables[tier];
    if (seat < 0) return;
    const known = this.#names[holder];
    const orphans = this.#orphans[holder];
    let removed = 0;
    for (let block = first; block < first + count; block++) {
      const engineLow = engineHashes[2 * block]! | 0;
      const engineHigh = engineHashes[2 * block + 1]! | 0;
      let low = engineLow;
      let high = engineHigh;
      const isNamed = known?.find(engineLow, engineHigh) === true;
      if (isNamed) {
        low = known.low;
        high = known.high;
      }
      const address = addressOf(this.#secrets, low, high);
      if (table?.remove(address, low, high, seat)) removed++;
      if (isNamed) {
        if (this.#holdsAnywhere(address, low, high, seat)) continue;
        known.delete(engineLow, engineHigh);
        this.#nameCount--;
      } else if (orphans !== undefined) {
        const before = orphans.size;
        orphans.remove(tier, bigintOf(engineLow, engineHigh));
        this.#nameCount -= before - orphans.size;
      }
    }
    this.#hold(seat, -removed);
  }

  match(sequenceHashes: Uint32Array, matches: KvMatches): void {
    this.#matcher.match(sequenceHashes, matches);
  }

  upkeep(): boolean {
    this.#sweep.slice();
    return this.#sweep.isPending;
  }

  #refuse(outcome: Exclude<StoreOutcome, "applied">): StoreOutcome {
    if (outcome === "full") this.#refusals.full++;
    else if (outcome === "invalid") this.#refusals.invalid++;
    else this.#refusals.unknownParent++;
    return outcome;
  }

  #used(): number {
    let sum = this.#nameCount + this.#device.blocks;
    for (let tier = 1; tier < tierCount; tier++) sum += this.#tables[tier]?.blocks ?? 0;
    return sum;
  }

  #table(tier: StorageTier): BlockHolders {
    const table = this.#tables[tier] ?? new BlockHolders(this.#secrets);
    this.#tables[tier] = table;
    return table;
  }

  #hold(seat: number, blocks: number): void {
    this.#seats.count(seat, blocks);
    this.#heldBlocks += blocks;
  }

  /** Leaves the parent's sequence hash in #parentLow and #parentHigh. A parent on the device is sought there only: so does Dynamo. */
  #findParent(holder: Holder, seat: number, tier: StorageTier, engineLow: number, engineHigh: number): boolean {
    const known = this.#names[holder];
    this.#parentLow = engineLow;
    this.#parentHigh = engineHigh;
    if (known?.find(engineLow, engineHigh)) {
      this.#parentLow = known.low;
      this.#parentHigh = known.high;
      if (tier !== device) return true;
    }
    const address = addressOf(this.#secrets, this.#parentLow, this.#parentHigh);
    return tier === device
      ? this.#device.has(address, this.#parentLow, this.#parentHigh, seat)
      : this.#holdsAnywhere(address, this.#parentLow, this.#parentHigh, seat);
  }

  #holdsAnywhere(address: number, low: number, high: number, seat: number): boolean {
    for (let tier = 0; tier < tierCount; tier++) {
      if (this.#tables[tier]?.has(address, low, high, seat) === true) return true;
    }
    return false;
  }

  /** An engine whose first block is called by the sequence hash that follows from the parent's name calls the parent so too. */
  #provesParent(
    parentLow: number,
    parentHigh: number,
    engineHashes: Uint32Array,
    tokensHashes: Uint32Array,
    first: number,
  ): boolean {
    this.#hasher.chain(parentLow, parentHigh, true, tokensHashes, first, 1, this.#chained, 0);
    return this.#chained[0] === engineHashes[2 * first] && this.#chained[1] === engineHashes[2 * first + 1];
  }

  /** Keeps what the engine calls each block of the chunk where that is not its sequence hash. */
  #name(
    holder: Holder,
    seat: number,
    tier: StorageTier,
    engineHashes: Uint32Array,
    first: number,
    chunk: number,
  ): void {
    const chain = this.#chain;
    for (let block = 0; block < chunk; block++) {
      const engineLow = engineHashes[2 * (first + block)]! | 0;
      const engineHigh = engineHashes[2 * (first + block) + 1]! | 0;
      const low = chain[2 * block]!;
      const high = chain[2 * block + 1]!;
      if ((engineLow === low && engineHigh === high) || (low | high) === 0) continue;
      const known = this.#names[holder] ?? new EngineNames(this.#secrets);
      this.#names[holder] = known;
      const before = known.size;
      if (known.set(engineLow, engineHigh, low, high)) this.#unhold(seat, tier, known.low, known.high);
      this.#nameCount += known.size - before;
    }
  }

  /** The engine's name has gone to another block: the one it meant is no longer there. */
  #unhold(seat: number, tier: StorageTier, low: number, high: number): void {
    if (this.#tables[tier]?.remove(addressOf(this.#secrets, low, high), low, high, seat) === true) this.#hold(seat, -1);
  }

  #wait(
    holder: Holder,
    tier: StorageTier,
    parent: bigint,
    engineHashes: Uint32Array,
    tokensHashes: Uint32Array,
    first: number,
    count: number,
  ): void {
    const orphans = this.#orphans[holder] ?? new OrphanBlocks();
    this.#orphans[holder] = orphans;
    const before = orphans.size;
    let name = parent;
    for (let block = first; block < first + count; block++) {
      const child = bigintOf(engineHashes[2 * block]!, engineHashes[2 * block + 1]!);
      orphans.add(tier, name, child, tokensHashes[2 * block]!, tokensHashes[2 * block + 1]!);
      name = child;
    }
    this.#nameCount += orphans.size - before;
  }

  /** Takes in what waited for the blocks just stored, and what waited for that. */
  #adopt(holder: Holder, seat: number, engineHashes: Uint32Array, first: number, count: number): void {
    const orphans = this.#orphans[holder]!;
    const arrived: bigint[] = [];
    for (let block = first; block < first + count; block++) {
      arrived.push(bigintOf(engineHashes[2 * block]!, engineHashes[2 * block + 1]!));
    }
    while (arrived.length > 0 && orphans.size > 0) {
      const parent = arrived.pop()!;
      for (const child of orphans.adopt(parent)) {
        this.#nameCount--;
        this.#place(holder, seat, child);
        arrived.push(child.name);
      }
    }
    if (orphans.size === 0) this.#orphans[holder] = undefined;
  }

  #place(holder: Holder, seat: number, block: OrphanBlock): void {
    const engine = wordsOf(block.name);
    const parent = wordsOf(block.parent);
    if (!this.#findParent(holder, seat, 1, parent[0]! | 0, parent[1]! | 0)) return;
    const tokens = Uint32Array.of(block.tokensLow, block.tokensHigh);
    this.#hasher.chain(this.#parentLow, this.#parentHigh, true, tokens, 0, 1, this.#chained, 0);
    for (let tier = 1; tier < tierCount; tier++) {
      if (((block.tiers >>> tier) & 1) === 0) continue;
      this.#name(holder, seat, tier as StorageTier, engine, 0, 1);
      this.#hold(seat, this.#table(tier as StorageTier).addRun(this.#chain, 0, 1, seat));
    }
  }

  #forgetNames(holder: Holder): void {
    this.#nameCount -= (this.#names[holder]?.size ?? 0) + (this.#orphans[holder]?.size ?? 0);
    this.#names[holder] = undefined;
    this.#orphans[holder] = undefined;
  }
}

/** Whether one of the blocks has this name. */
function names(engineHashes: Uint32Array, first: number, count: number, low: number, high: number): boolean {
  for (let block = first; block < first + count; block++) {
    if (engineHashes[2 * block] === low >>> 0 && engineHashes[2 * block + 1] === high >>> 0) return true;
  }
  return false;
}

function bigintOf(low: number, high: number): bigint {
  return (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
}

function wordsOf(hash: bigint): Uint32Array {
  return Uint32Array.of(Number(hash & 0xffff_ffffn), Number(hash >> 32n));
}
