/**
 * The index without events: a rank that is sent a prompt is believed to hold its blocks, for a time after they were last routed there (Dynamo's
 * router_ttl_secs, 120 s) or, without a time, until the rank's capacity pushes them out. All entries last equally long, so the order of last
 * touch is the order of expiry and needs no timer: time is an argument.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep
import { createAddressSecrets } from "./block-address.ts";
import { BlockHolders } from "./block-holders.ts";
import { HolderBlocks } from "./holder-blocks.ts";
import { createKvMatches, type Holder, type KvMatches, type RoutedKvMatcher } from "./kv-index.ts";

export interface ApproximateKvIndexOptions {
  /** Uniform in [0, 1); seeds where blocks lie in the tables and decides nothing else. */
  readonly random: () => number;
  /** How long a routed block is believed to be held; undefined: until the capacity is used up. */
  readonly ttlMs?: number | undefined;
  /** Blocks of one holder; beyond it the least recently routed give way. 28 to 34 bytes each, and 23 to 46 for each distinct block. */
  readonly blocksPerHolder?: number | undefined;
}

/** 4 million tokens of 16 a block. */
export const defaultBlocksPerHolder = 262_144;
/** Expiry is rounded up to these steps, as Dynamo's is. */
const tickMs = 100;
/** Blocks that one call removes beyond those it brings. */
const upkeepBlocks = 512;
const never = 0x7fff_ffff;

export interface ApproximateKvIndex extends RoutedKvMatcher {
  /** No events feed this index: its user attaches the ranks, with the blocks each has room for where its worker tells. */
  readonly ownHolders: { attach(capacityBlocks?: number): Holder; detach(holder: Holder): void };
}

export function createApproximateKvIndex(options: ApproximateKvIndexOptions): ApproximateKvIndex {
  return new RoutedBlocks(options);
}

class RoutedBlocks implements ApproximateKvIndex {
  readonly #table: BlockHolders;
  readonly #ttlMs: number | undefined;
  readonly #blocksPerHolder: number;
  /** By holder; undefined where the number is free. */
  readonly #holders: (HolderBlocks | undefined)[] = [];
  /** By bit: who uses it, leaving ones included. */
  readonly #bits: (HolderBlocks | undefined)[] = [];
  readonly #leaving: HolderBlocks[] = [];
  /** Tick 0, the first time seen. */
  #originMs: number | undefined;
  #lastTick = 1;
  /** The holder whose expired blocks are removed next. */
  #turn = 0;
  #alive = new Int32Array(2);
  #depths = new Int32Array(64);

  constructor(options: ApproximateKvIndexOptions) {
    this.#table = new BlockHolders(createAddressSecrets(options.random));
    this.#ttlMs = options.ttlMs;
    this.#blocksPerHolder = options.blocksPerHolder ?? defaultBlocksPerHolder;
  }

  get ownHolders(): this {
    return this;
  }

  get blocks(): number {
    return this.#table.blocks;
  }

  get heldBlocks(): number {
    let sum = 0;
    for (const blocks of this.#holders) sum += blocks?.size ?? 0;
    return sum;
  }

  get holderCount(): number {
    return this.#holders.length;
  }

  get sizeBytes(): number {
    let sum = this.#table.sizeBytes;
    for (const blocks of this.#bits) sum += blocks?.sizeBytes ?? 0;
    return sum;
  }

  attach(capacityBlocks?: number): Holder {
    let holder = this.#holders.indexOf(undefined);
    if (holder < 0) holder = this.#holders.length;
    this.#holders[holder] = this.#seat(Math.min(capacityBlocks ?? this.#blocksPerHolder, this.#blocksPerHolder));
    return holder;
  }

  detach(holder: Holder): void {
    this.#leave(holder);
    this.#holders[holder] = undefined;
    while (this.#holders.length > 0 && this.#holders.at(-1) === undefined) this.#holders.pop();
  }

  cleared(holder: Holder): void {
    const blocks = this.#holders[holder];
    if (blocks === undefined || blocks.size === 0) return;
    const { capacity } = blocks;
    this.#leave(holder);
    this.#holders[holder] = this.#seat(capacity);
  }

  blocksOf(holder: Holder): number {
    return this.#holders[holder]?.size ?? 0;
  }

  createMatches(): KvMatches {
    return createKvMatches(this.#holders.length);
  }

  routed(holder: Holder, sequenceHashes: Uint32Array, nowMs: number): void {
    const blocks = this.#holders[holder];
    if (blocks === undefined) return;
    const tick = this.#tickOf(nowMs);
    const words = signed(sequenceHashes);
    const stamp = this.#ttlMs === undefined ? never : this.#expiryTick(nowMs);
    const deepest = Math.min(words.length >> 1, blocks.capacity);
    for (let block = deepest - 1; block >= 0; block--) blocks.refresh(words[2 * block]!, words[2 * block + 1]!, stamp);
    blocks.expire(tick, deepest + upkeepBlocks);
    blocks.trim(deepest + upkeepBlocks);
    this.#expireNext(tick);
    this.#clearLeaving();
  }

  match(sequenceHashes: Uint32Array, matches: KvMatches, nowMs: number): void {
    const tick = this.#tickOf(nowMs);
    const words = signed(sequenceHashes);
    const { device, host, disk } = matches;
    host.fill(0);
    disk.fill(0);
    this.#scratch();
    this.#table.match(words, 0, words.length >> 1, this.#alive, this.#depths);
    const count = Math.min(device.length, this.#holders.length);
    for (let holder = 0; holder < count; holder++) {
      const blocks = this.#holders[holder];
      const depth = blocks === undefined ? 0 : this.#depths[blocks.holder]!;
      device[holder] = depth === 0 ? 0 : unexpired(blocks!, words, depth, tick);
    }
    device.fill(0, count);
    this.#expireNext(tick);
  }

  upkeep(nowMs: number): boolean {
    const tick = this.#tickOf(nowMs);
    this.#clearLeaving();
    for (let i = 0; i < this.#holders.length; i++) if (this.#expireNext(tick)) return true;
    for (const blocks of this.#holders) {
      if (blocks === undefined || blocks.size <= blocks.capacity) continue;
      blocks.trim(upkeepBlocks);
      return true;
    }
    return this.#leaving.length > 0;
  }

  #seat(capacity: number): HolderBlocks {
    let bit = this.#bits.indexOf(undefined);
    if (bit < 0) bit = this.#bits.length;
    const blocks = new HolderBlocks(this.#table, bit, capacity);
    this.#bits[bit] = blocks;
    return blocks;
  }

  #leave(holder: Holder): void {
    const blocks = this.#holders[holder];
    if (blocks === undefined) return;
    blocks.capacity = 0;
    this.#leaving.push(blocks);
    this.#clearLeaving();
  }

  #clearLeaving(): void {
    const blocks = this.#leaving[0];
    if (blocks === undefined) return;
    blocks.trim(upkeepBlocks);
    if (blocks.size > 0) return;
    this.#leaving.shift();
    this.#bits[blocks.holder] = undefined;
  }

  /** Time in ticks since the first time seen; it never goes back. */
  #tickOf(nowMs: number): number {
    this.#originMs ??= nowMs - tickMs;
    this.#lastTick = Math.max(this.#lastTick, Math.floor((nowMs - this.#originMs) / tickMs));
    return this.#lastTick;
  }

  /** The tick at which what is routed now has expired. */
  #expiryTick(nowMs: number): number {
    const lasts = (this.#ttlMs ?? 0) / tickMs;
    return Math.max(Math.ceil((nowMs - (this.#originMs ?? nowMs)) / tickMs + lasts), Math.ceil(this.#lastTick + lasts));
  }

  /** Removes expired blocks of the next holder; true when it may have more. */
  #expireNext(tick: number): boolean {
    if (this.#holders.length === 0) return false;
    this.#turn = (this.#turn + 1) % this.#holders.length;
    return (this.#holders[this.#turn]?.expire(tick, upkeepBlocks) ?? 0) === upkeepBlocks;
  }

  /** The mask of attached holders, and depths of 0. */
  #scratch(): void {
    const words = Math.max(2, (this.#bits.length + 31) >> 5);
    if (this.#alive.length < words) {
      this.#alive = new Int32Array(words);
      this.#depths = new Int32Array(32 * words);
    }
    this.#alive.fill(0);
    this.#depths.fill(0);
    for (let holder = 0; holder < this.#holders.length; holder++) {
      const bit = this.#holders[holder]?.holder ?? -1;
      if (bit >= 0) this.#alive[bit >>> 5]! |= 1 << (bit & 31);
    }
  }
}

/** The depth without blocks that have expired and are not removed yet. A block is touched whenever one below it is, so those are the deepest. */
function unexpired(blocks: HolderBlocks, words: Int32Array, depth: number, tick: number): number {
  if (blocks.oldestStamp > tick) return depth;
  let live = 0;
  let dead = depth;
  while (live < dead) {
    const middle = (live + dead) >> 1;
    if (blocks.stampOf(words[2 * middle]!, words[2 * middle + 1]!) > tick) live = middle + 1;
    else dead = middle;
  }
  return live;
}

/** The same words as the tables keep them. */
function signed(hashes: Uint32Array): Int32Array {
  return new Int32Array(hashes.buffer, hashes.byteOffset, hashes.length);
}
