/** A registered worker as the router knows it. */
import type { SetWorker } from "../../dynamo/worker-sets/worker-set.ts";
import type { RouterWorker } from "../contracts.ts";

export function routerWorkerOf({ id, role, card, loras }: SetWorker): RouterWorker {
  const { runtime } = card;
  return {
    id,
    role,
    dataParallelStartRank: runtime.dataParallelStartRank,
    dataParallelSize: runtime.dataParallelSize,
    totalKvBlocks: runtime.totalKvBlocks,
    maxNumBatchedTokens: runtime.maxNumBatchedTokens,
    taints: runtime.taints,
    stableRoutingId: runtime.stableRoutingId,
    topologyDomains: runtime.topologyDomains,
    kvTransferDomain: runtime.kvTransferDomain,
    kvTransferEnforcement: runtime.kvTransferEnforcement,
    kvTransferPreferredWeight: runtime.kvTransferPreferredWeight,
    loras: new Set(loras.keys()),
  };
}
