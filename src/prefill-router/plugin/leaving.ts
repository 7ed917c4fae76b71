/** What leaves with a planned request: the headers by which a frontend in direct mode serves it on the workers that were chosen. */
import type { HeaderSink } from "../../scheduling/contracts.ts";
import type { Plan } from "../contracts.ts";

/** Names that frontends before 1.2 read. */
const legacyNames: ReadonlyMap<string, readonly string[]> = new Map([
  ["x-dynamo-worker-instance-id", ["x-worker-instance-id"]],
  ["x-dynamo-prefill-instance-id", ["x-prefill-instance-id"]],
  ["x-dynamo-dp-rank", ["x-dp-rank", "x-data-parallel-rank"]],
  ["x-dynamo-prefill-dp-rank", ["x-prefill-dp-rank"]],
]);

export function setWorkerHeaders(plan: Plan, headers: HeaderSink, withLegacyNames: boolean): void {
  const set = (name: string, value: string): void => {
    headers.set(name, value);
    if (withLegacyNames) for (const legacy of legacyNames.get(name) ?? []) headers.set(legacy, value);
  };
  set("x-dynamo-worker-instance-id", plan.decode.worker.id.toString());
  set("x-dynamo-dp-rank", String(plan.decode.dpRank));
  set("x-dynamo-routing-mode", plan.mode);
  if (plan.mode === "disaggregated") {
    set("x-dynamo-prefill-instance-id", plan.prefill.worker.id.toString());
    set("x-dynamo-prefill-dp-rank", String(plan.prefill.dpRank));
  }
  // A UUID: the frontend takes it for its own id of the request, in its logs and in the answer.
  set("x-dynamo-request-id", plan.booking.id);
}
