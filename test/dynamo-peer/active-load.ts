/** ActiveLoad of topic kv_metrics: what a worker says of its own occupancy. */
import { encode } from "@msgpack/msgpack";

export interface PeerLoad {
  readonly dpRank?: number;
  readonly activeDecodeBlocks?: number;
  readonly activePrefillTokens?: number;
  readonly kvUsedBlocks?: number;
}

export function encodeActiveLoad(workerId: bigint, load: PeerLoad): Uint8Array {
  const value = {
    worker_id: workerId,
    dp_rank: load.dpRank ?? 0,
    active_decode_blocks: load.activeDecodeBlocks ?? null,
    active_prefill_tokens: load.activePrefillTokens ?? null,
    kv_used_blocks: load.kvUsedBlocks ?? null,
  };
  return encode(value, { useBigInt64: true });
}
