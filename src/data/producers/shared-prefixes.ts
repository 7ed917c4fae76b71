/**
 * The approximate prefix cache, shared: what one replica learns of an endpoint's blocks, all learn, and what a failed request takes back is
 * taken back everywhere. Block hashes are the same in every replica, as they depend on model, salt and prompt alone.
 *
 *   0 kind │ 2 key length │ 4 stamp │ 8 block size │ 12 chains │ 16 ends of chains, 4 each │ hashes, 8 each │ key
 */
import type { Endpoint } from "../endpoint.ts";
import { maxBlockBytes } from "../prefix-index/block-hasher.ts";
import type { HolderBlocks } from "../prefix-index/holder-blocks.ts";
import {
  type ChangeSink,
  endpointByKey,
  endpointKeyOf,
  maxSharedPayloadBytes,
  type PeerId,
  type SharedKnowledge,
} from "../shared-state.ts";
import type { EndpointStoreView } from "../store-view.ts";
import type { ApproxPrefixState } from "./approx-prefix-state.ts";
import { bytesPerToken } from "./prompt-chains.ts";

const LEARNT = 1;
const FORGOTTEN = 2;
const KNOWN = 3;
const fixedBytes = 16;
const mostKeyBytes = 1024;
const mostChains = 256;
/** Blocks of one payload. */
const mostBlocks = Math.floor((maxSharedPayloadBytes - fixedBytes - mostKeyBytes - 4 * mostChains) / 8);
const knownBlocksPerPayload = 1024;
/** Of each endpoint, told to a peer that begins: 512 KiB. */
const mostKnownBlocks = 65_536;
/** Insertions of a peer that it can still take back: what is in flight there. */
const mostStamps = 8192;
/** Peers whose insertions are remembered. */
const mostPeers = 64;
const maxBlockSizeTokens = maxBlockBytes / bytesPerToken;

export interface SharedPrefixesInit {
  /** Name of the producer: the same in every replica. */
  readonly name: string;
  readonly state: Pick<ApproxPrefixState, "index" | "holders">;
  readonly endpoints: Pick<EndpointStoreView, "get" | "snapshot">;
  readonly capacityBlocks: (endpoint: Endpoint, blockSizeTokens: number) => number;
  readonly blockSizeTokens: () => number;
}

export class SharedPrefixes implements SharedKnowledge {
  readonly kind = "knowledge";
  readonly topic: string;
  readonly #init: SharedPrefixesInit;
  #changes: ChangeSink | undefined;
  /** Where payloads are written; made when there is somebody to write for. */
  #bytes = noBytes;
  #words = new Uint32Array(0);
  /** What a peer calls an insertion → what it is called here, oldest first. */
  readonly #stamps = new Map<PeerId, Map<number, number>>();

  constructor(init: SharedPrefixesInit) {
    this.#init = init;
    this.topic = `prefix/${init.name}`;
  }

  shareWith(changes: ChangeSink | undefined): void {
    this.#changes = changes;
    if (changes === undefined) {
      this.#stamps.clear();
    } else if (this.#bytes === noBytes) {
      this.#bytes = Buffer.allocUnsafeSlow(maxSharedPayloadBytes);
      this.#words = new Uint32Array(this.#bytes.buffer);
    }
  }

  learnt(
    endpoint: Endpoint,
    blockSizeTokens: number,
    stamp: number,
    hashes: Uint32Array,
    chainEnds: readonly number[],
  ): void {
    if (this.#changes !== undefined) this.#tell(LEARNT, endpoint, blockSizeTokens, stamp, hashes, chainEnds);
  }

  forgot(endpoint: Endpoint, stamp: number, hashes: Uint32Array, chainEnds: readonly number[]): void {
    if (this.#changes !== undefined) this.#tell(FORGOTTEN, endpoint, 1, stamp, hashes, chainEnds);
  }

  *known(): Iterable<Uint8Array> {
    const { endpoints, state, blockSizeTokens } = this.#init;
    for (const endpoint of endpoints.snapshot()) {
      const words = state.holders.of(endpoint)?.recent(mostKnownBlocks) ?? noWords;
      for (let from = 0; from < words.length; from += 2 * knownBlocksPerPayload) {
        const hashes = new Uint32Array(
          words.buffer,
          4 * from,
          Math.min(2 * knownBlocksPerPayload, words.length - from),
        );
        const length = this.#write(KNOWN, endpoint, blockSizeTokens(), 0, hashes, [hashes.length / 2]);
        if (length > 0) yield this.#bytes.subarray(0, length);
      }
    }
  }

  apply(peer: PeerId, payload: Buffer): boolean {
    const kind = payload[0];
    if (payload.length < fixedBytes + 4) return false;
    const keyBytes = payload.readUInt16LE(2);
    const stamp = payload.readInt32LE(4);
    const blockSizeTokens = payload.readUInt32LE(8);
    const chains = payload.readUInt32LE(12);
    const hashBytes = payload.length - fixedBytes - 4 * chains - keyBytes;
    if (chains < 1 || chains > mostChains || hashBytes < 8 || hashBytes % 8 !== 0) return false;
    if (blockSizeTokens < 1 || blockSizeTokens > maxBlockSizeTokens) return false;
    const chainEnds = endsOf(payload, chains, hashBytes / 8);
    if (chainEnds === undefined) return false;
    const endpoint = endpointByKey(this.#init.endpoints, payload.toString("utf8", payload.length - keyBytes));
    // One that this replica does not know yet, or no more: there is nobody to know it of.
    if (endpoint === undefined) return kind === LEARNT || kind === FORGOTTEN || kind === KNOWN;
    const hashes = new Uint32Array(hashBytes / 4);
    payload.copy(new Uint8Array(hashes.buffer), 0, fixedBytes + 4 * chains, payload.length - keyBytes);
    const { index, holders } = this.#init.state;
    if (kind === FORGOTTEN) {
      const ours = this.#stamps.get(peer)?.get(stamp);
      const blocks = holders.of(endpoint);
      if (ours !== undefined && blocks !== undefined) index.forget(blocks, ours, hashes);
      return true;
    }
    if (kind !== LEARNT && kind !== KNOWN) return false;
    const blocks: HolderBlocks | undefined = holders.claim(
      endpoint,
      this.#init.capacityBlocks(endpoint, blockSizeTokens),
    );
    if (blocks === undefined) return true;
    if (kind === KNOWN) index.fill(blocks, hashes);
    else this.#remember(peer, stamp, index.insert(blocks, hashes, chainEnds));
    return true;
  }

  #tell(
    kind: number,
    endpoint: Endpoint,
    blockSizeTokens: number,
    stamp: number,
    hashes: Uint32Array,
    chainEnds: readonly number[],
  ): void {
    const length = this.#write(kind, endpoint, blockSizeTokens, stamp, hashes, chainEnds);
    if (length > 0) this.#changes?.append(this.#bytes, length);
  }

  /** Of longer prompts the beginning, which is what others can share. 0 where there is nothing to be said. */
  #write(
    kind: number,
    endpoint: Endpoint,
    blockSizeTokens: number,
    stamp: number,
    hashes: Uint32Array,
    chainEnds: readonly number[],
  ): number {
    const blocks = Math.min(hashes.length / 2, mostBlocks);
    const words = this.#words;
    let chains = 0;
    for (let end = 0; end < blocks && chains < chainEnds.length && chains < mostChains; chains++) {
      end = Math.min(chainEnds[chains] as number, blocks);
      words[fixedBytes / 4 + chains] = end;
    }
    if (chains === 0) return 0;
    const told = words[fixedBytes / 4 + chains - 1] as number;
    words.set(hashes.length === 2 * told ? hashes : hashes.subarray(0, 2 * told), fixedBytes / 4 + chains);
    const hashEnd = fixedBytes + 4 * chains + 8 * told;
    const key = endpointKeyOf(endpoint);
    if (key.length > mostKeyBytes / 3) return 0;
    const keyBytes = this.#bytes.write(key, hashEnd);
    words[0] = kind | (keyBytes << 16);
    words[1] = stamp;
    words[2] = blockSizeTokens;
    words[3] = chains;
    return hashEnd + keyBytes;
  }

  #remember(peer: PeerId, stamp: number, ours: number): void {
    let stamps = this.#stamps.get(peer);
    if (stamps === undefined) {
      stamps = new Map();
      this.#stamps.set(peer, stamps);
      if (this.#stamps.size > mostPeers) dropOldest(this.#stamps);
    }
    stamps.set(stamp, ours);
    if (stamps.size > mostStamps) dropOldest(stamps);
  }
}

function endsOf(payload: Buffer, chains: number, blocks: number): readonly number[] | undefined {
  const ends: number[] = [];
  let before = 0;
  for (let i = 0; i < chains; i++) {
    const end = payload.readUInt32LE(fixedBytes + 4 * i);
    if (end < before || end > blocks) return undefined;
    ends.push(end);
    before = end;
  }
  return before === blocks ? ends : undefined;
}

function dropOldest(map: Map<unknown, unknown>): void {
  for (const oldest of map.keys()) {
    map.delete(oldest);
    return;
  }
}

const noWords = new Int32Array(0);
const noBytes = Buffer.alloc(0);
