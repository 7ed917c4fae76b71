/** The objective a request names and the priority it gives: an InferenceObjective is looked up by its object name. */
import type { Objective } from "../data/manifests/pool-objects.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import { controlHeader, objectiveHeader } from "./control-headers.ts";

/** Longest name a Kubernetes object can have: a longer one names nothing and is not kept. */
const maxNameLength = 253;

/** An unknown name is told, is kept on the request and has priority 0, as has none. */
export function routeObjective(
  request: InferenceRequest,
  objectives: ReadonlyMap<string, Objective>,
  unknown?: (name: string) => void,
): void {
  const name = controlHeader(request.headers, objectiveHeader);
  if (name === undefined || name === "" || name.length > maxNameLength) return;
  request.objective = name;
  const objective = objectives.get(name);
  if (objective === undefined) unknown?.(name);
  request.priority = objective?.priority ?? 0;
}
