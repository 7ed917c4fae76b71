/** Routing of one request: which model leaves, how important it is, whose flow it belongs to. The only layer that writes these fields. */
import type { PoolObjects } from "../data/manifests/pool-objects.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { Rejection } from "../request/rejection.ts";
import { routeFairness } from "./fairness.ts";
import { routeObjective } from "./objective.ts";
import { createRewriteCompiler, type RewriteCounter, routeModel } from "./rewrite.ts";

export type Route = (request: InferenceRequest) => Rejection | undefined;

export function createRoute(deps: {
  /** Current objects of the pool; replaced as a whole when they change. */
  objects(): PoolObjects;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly metrics: RewriteCounter;
  /** A request names an objective that is not there. Called for every such request. */
  readonly unknownObjective?: ((name: string) => void) | undefined;
}): Route {
  const rewriteTable = createRewriteCompiler();
  return (request) => {
    const objects = deps.objects();
    const rejection = routeModel(request, rewriteTable(objects), deps.random, deps.metrics);
    // Labels of a refused request are right too.
    routeObjective(request, objects.objectives, deps.unknownObjective);
    routeFairness(request);
    return rejection;
  };
}
