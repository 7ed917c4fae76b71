/**
 * One rank of one engine: decides which of its events count, by the rules of Dynamo's worker (dynamo-kv-router 1.6.1, zmq_wire), and keeps the index
 * as the engine says its cache is. The rank owns its holder in the index; a block leaves it when it was removed as often as it was stored.
 */
import { completeBlocks, type TokenHasher } from "../../tokens/block-hash.ts";
import { addressOf, createAddressSecrets } from "../prefix-index/block-address.ts";
import type { Holder, KvIndex, StorageTier } from "../prefix-index/kv-index.ts";
import { ambiguousSalt, BlockReferences } from "./block-references.ts";
import { CacheSalts } from "./cache-salts.ts";
import type { CacheGroupKind, EngineEvent } from "./engine-event.ts";
import type { EventCounters } from "./event-counters.ts";

export interface EngineRankOptions {
  readonly index: KvIndex;
  /** A holder the rank takes over, with the blocks it has; undefined: it attaches its own. */
  readonly holder?: Holder | undefined;
  readonly hasher: TokenHasher;
  /** Tokens per block: events of another size are left out. */
  readonly blockSize: number;
  /** Distinct blocks a rank may name before further ones are left out: an engine's own capacity many times over. */
  readonly maxBlocks: number;
  readonly counters: EventCounters;
  /** Adapters that engines named: their blocks are hashed under the name. Bounded. */
  readonly adapters: Set<string>;
  /** Told of each event whose blocks have another size. */
  readonly onBlockSize: (reported: number) => void;
}

const maxAdapters = 10_000;
/** Cache groups a rank may teach; engines have a handful. */
const maxGroups = 256;

export class EngineRank {
  readonly holder: Holder;
  readonly #options: EngineRankOptions;
  readonly #references: BlockReferences;
  readonly #salts = new CacheSalts();
  readonly #groups = new Map<number, CacheGroupKind>();
  #isClosed = false;

  constructor(options: EngineRankOptions) {
    this.#options = options;
    this.#references = new BlockReferences(options.maxBlocks);
    this.holder = options.holder ?? options.index.attach();
  }

  /** Distinct blocks the engine holds on any tier. */
  get blocks(): number {
    return this.#references.size;
  }

  get sizeBytes(): number {
    return this.#references.sizeBytes;
  }

  apply(event: EngineEvent): void {
    if (this.#isClosed) return;
    const { counters } = this.#options;
    if (event.isForeign) counters.filtered += 1;
    else if (event.kind === "cleared") this.clear();
    else if (event.kind === "ignored" || event.isRemote || event.tier === undefined) counters.filtered += 1;
    else if (event.tier <= 1 && !this.#isMainGroup(event)) counters.filtered += 1;
    else if (event.kind === "removed") this.#removed(event, event.tier);
    else this.#stored(event, event.tier);
  }

  /** The engine holds nothing any more, or began anew. */
  clear(): void {
    if (this.#isClosed) return;
    this.#options.counters.cleared += 1;
    this.#references.clear();
    this.#salts.clear();
    this.#groups.clear();
    this.#options.index.cleared(this.holder);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#references.clear();
    this.#options.index.detach(this.holder);
  }

  /** Models with several kinds of attention cache each in a group of its own; the full one stands for the prompt. */
  #isMainGroup({ kind, group, groupKind }: EngineEvent): boolean {
    if (groupKind !== undefined) {
      if (kind === "stored" && group >= 0 && (this.#groups.size < maxGroups || this.#groups.has(group))) {
        this.#groups.set(group, groupKind);
      }
      return groupKind === "main";
    }
    if (group < 0) return true;
    const known = this.#groups.get(group);
    return known === undefined ? group === 0 : known === "main";
  }

  #stored(event: EngineEvent, tier: StorageTier): void {
    const { counters, blockSize, index, hasher } = this.#options;
    if (event.hashCount === 0) return;
    if (event.blockSize !== blockSize) {
      counters.otherBlockSize += 1;
      this.#options.onBlockSize(event.blockSize);
      return;
    }
    const salt = this.#saltOf(event);
    if (salt === undefined || repeatsHash(event)) {
      counters.filtered += 1;
      return;
    }
    const count = Math.min(event.hashCount, completeBlocks(event.tokenCount, blockSize, event.isEagle));
    if (count < event.hashCount) counters.withoutTokens += 1;
    if (count === 0) return;
    if (!this.#references.hasRoom(count)) {
      counters.full += 1;
      return;
    }
    const { blockHashes } = hasher.hash(event.tokens.subarray(0, event.tokenCount), {
      blockSize,
      loraName: event.loraName,
      cacheSalt: salt,
      isEagle: event.isEagle,
      mmHashes: event.media,
    });
    const { hashes, parentLow, parentHigh, hasParent } = event;
    switch (index.stored(this.holder, tier, parentLow, parentHigh, hasParent, hashes, blockHashes, 0, count)) {
      case "applied":
        counters.stored += count;
        this.#reference(event, tier, count, salt);
        this.#noteAdapter(event.loraName);
        break;
      case "unknown-parent":
        counters.unknownParent += 1;
        break;
      case "invalid":
        counters.filtered += 1;
        break;
      case "full":
        counters.full += 1;
    }
  }

  /** The salt the event's blocks belong to, "" for none; undefined where it cannot be told. Only the first block of a chain says it. */
  #saltOf(event: EngineEvent): string | undefined {
    if (event.cacheSalt !== undefined && event.cacheSalt !== "") return event.cacheSalt;
    if (!event.hasParent) return "";
    const id = this.#references.saltOf(event.parentLow, event.parentHigh);
    return id === ambiguousSalt ? undefined : this.#salts.nameOf(id);
  }

  #noteAdapter(name: string | undefined): void {
    const { adapters } = this.#options;
    if (name !== undefined && name !== "" && adapters.size < maxAdapters) adapters.add(name);
  }

  #reference(event: EngineEvent, tier: StorageTier, count: number, salt: string): void {
    const { hashes } = event;
    const id = this.#salts.idOf(salt);
    for (let i = 0; i < count; i++) {
      this.#references.add(hashes[2 * i] as number, hashes[2 * i + 1] as number, tier, id);
    }
  }

  /** Hashes that are still held are taken out of the event in place; the others go, unknown ones too. */
  #removed(event: EngineEvent, tier: StorageTier): void {
    const { hashes, hashCount } = event;
    let gone = 0;
    for (let i = 0; i < hashCount; i++) {
      const low = hashes[2 * i] as number;
      const high = hashes[2 * i + 1] as number;
      if (this.#references.remove(low, high, tier) > 0) continue;
      hashes[2 * gone] = low;
      hashes[2 * gone + 1] = high;
      gone += 1;
    }
    if (gone === 0) return;
    this.#options.counters.removed += gone;
    this.#options.index.removed(this.holder, tier, hashes, 0, gone);
  }
}

const secrets = createAddressSecrets(Math.random);

/** Slots of `repeatsHash`, as index + 1 of a hash; cleared after each use. */
let seen = new Int32Array(256);

/** A chain that names a block twice, or its own parent, would hang from itself. */
function repeatsHash({ hashes, hashCount, hasParent, parentLow, parentHigh }: EngineEvent): boolean {
  const slots = 2 ** Math.ceil(Math.log2(2 * hashCount + 2));
  if (slots > seen.length) seen = new Int32Array(slots);
  const mask = slots - 1;
  let isRepeated = false;
  for (let i = 0; i < hashCount && !isRepeated; i++) {
    const low = hashes[2 * i] as number;
    const high = hashes[2 * i + 1] as number;
    if (hasParent && low === parentLow && high === parentHigh) isRepeated = true;
    let slot = addressOf(secrets, low, high) & mask;
    for (let at = seen[slot] as number; at !== 0 && !isRepeated; at = seen[slot] as number) {
      isRepeated = hashes[2 * at - 2] === low && hashes[2 * at - 1] === high;
      slot = (slot + 1) & mask;
    }
    seen[slot] = i + 1;
  }
  seen.fill(0, 0, slots);
  return isRepeated;
}
