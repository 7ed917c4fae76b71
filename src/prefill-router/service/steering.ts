/** Where a request's own words send it: a pin, which nothing overrules, or a target, which is followed where it can be. */
import type { PlanRequest } from "../contracts.ts";
import { BadRequest } from "./body.ts";
import type { Partition } from "./partition.ts";
import type { SelectionRequest } from "./requests.ts";

export function steering(
  { pinned, affinityTarget }: SelectionRequest,
  partition: Partition,
  allowed: ReadonlySet<bigint> | undefined,
): Pick<PlanRequest, "pinned" | "preferred"> {
  const { prefill } = partition;
  const stage = (workerId: bigint): "prefill" | "decode" => (prefill.workers.has(workerId) ? "prefill" : "decode");
  if (pinned !== undefined) {
    if (allowed !== undefined && !allowed.has(pinned.workerId)) {
      throw new BadRequest(400, `pinned worker ${pinned.workerId} is not in allowed worker set`);
    }
    return { pinned: { [stage(pinned.workerId)]: pinned } };
  }
  if (affinityTarget === undefined) return {};
  const { workerId, dpRank } = affinityTarget;
  if (dpRank !== undefined) return { preferred: { [stage(workerId)]: { workerId, dpRank } } };
  const isThere = partition.decode.workers.has(workerId) || prefill.workers.has(workerId);
  return isThere && allowed?.has(workerId) !== false ? { pinned: { [stage(workerId)]: affinityTarget } } : {};
}
