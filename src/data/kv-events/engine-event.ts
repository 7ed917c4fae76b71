/**
 * One event as an engine (vLLM, SGLang) published it, before anything is decided about it. There is one such record a decoder, overwritten by
 * each event: whoever is handed it reads it during the call.
 */
import type { StorageTier } from "../prefix-index/kv-index.ts";

export type EngineEventKind = "stored" | "removed" | "cleared" | "ignored";

/** Whose attention the cache group serves, as far as it decides whether the event counts. */
export type CacheGroupKind = "main" | "other" | "unknown";

export class EngineEvent {
  kind: EngineEventKind = "ignored";
  /** Engine's block hashes: u64 as u32 pairs, low word first. `hashCount` of them are valid. */
  hashes = new Uint32Array(64);
  hashCount = 0;
  hasParent = false;
  parentLow = 0;
  parentHigh = 0;
  tokens = new Uint32Array(512);
  tokenCount = 0;
  /** Tokens came as pairs: blocks are windows of one token more. */
  isEagle = false;
  blockSize = 0;
  /** Undefined for a medium nobody knows. */
  tier: StorageTier | undefined = 0;
  /** Names another place than the worker itself. */
  isRemote = false;
  /** Owned by another component than the engine. */
  isForeign = false;
  loraName: string | undefined;
  /** Undefined where the event says nothing of it. */
  cacheSalt: string | undefined;
  /** -1 where the event names no cache group. */
  group = -1;
  groupKind: CacheGroupKind | undefined;
  /** By block, hashes of the media in it (images, audio), whose content is not in the tokens. */
  media: (bigint[] | undefined)[] | undefined;

  reset(kind: EngineEventKind): void {
    this.kind = kind;
    this.hashCount = 0;
    this.hasParent = false;
    this.tokenCount = 0;
    this.isEagle = false;
    this.blockSize = 0;
    this.tier = 0;
    this.isRemote = false;
    this.isForeign = false;
    this.loraName = undefined;
    this.cacheSalt = undefined;
    this.group = -1;
    this.groupKind = undefined;
    this.media = undefined;
  }

  /** Gives back what one huge event made it grow to. */
  trim(): void {
    if (this.hashes.length > keptWords) this.hashes = new Uint32Array(64);
    if (this.tokens.length > keptWords) this.tokens = new Uint32Array(512);
  }
}

const keptWords = 262_144;

const tiers: ReadonlyMap<string, StorageTier> = new Map<string, StorageTier>([
  ["", 0],
  ["GPU", 0],
  ["DEVICE", 0],
  ["CPU", 1],
  ["CPU_PINNED", 1],
  ["CPU_TIER1", 1],
  ["CPU_TIER2", 2],
  ["DISK", 2],
  ["NVME", 2],
  ["STORAGE", 2],
  ["EXTERNAL", 3],
  ["NETWORK", 3],
  ["REMOTE", 3],
  ["SHARED", 3],
]);

/** Of an event's medium, "" being the engine's way to say GPU. */
export function tierOfMedium(medium: string): StorageTier | undefined {
  return tiers.get(medium);
}

const groupKinds: ReadonlyMap<string, CacheGroupKind> = new Map<string, CacheGroupKind>([
  ["full_attention", "main"],
  ["mla_attention", "main"],
  ["sink_full_attention", "main"],
  ["sliding_window", "other"],
  ["sliding_window_mla", "other"],
  ["mamba", "other"],
  ["chunked_local_attention", "other"],
  ["encoder_only_attention", "other"],
  ["cross_attention", "other"],
]);

export function groupKindOf(specKind: string): CacheGroupKind {
  return groupKinds.get(specKind) ?? "unknown";
}
