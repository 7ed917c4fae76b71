/**
 * The scorer that brings its own precise prefix cache, from the time before scorer and producer were apart: matched / total blocks. Deprecated in the
 * reference in favour of the prefix-cache-scorer that names a precise-prefix-cache-producer.
 */
import type { InferenceRequest } from "../../request/inference-request.ts";
import { prefixMatchKey } from "../attributes.ts";
import type { Endpoint, Endpoints } from "../endpoint.ts";
import type { Closable, PluginContext, PluginDefinition } from "../plugin.ts";
import type { Assignment, DataProducer, EndCause, RequestObserver } from "../producer.ts";
import {
  type PrecisePrefixCacheParameters,
  preciseFaults,
  precisePrefixCacheSchema,
} from "./precise-prefix-cache-parameters.ts";
import { PrecisePrefixCacheProducer } from "./precise-prefix-cache-producer.ts";
import { tokenProducerType } from "./token-producer.ts";

export class PrecisePrefixCacheScorer implements DataProducer, RequestObserver, Closable {
  readonly after = [tokenProducerType];
  readonly producer: PrecisePrefixCacheProducer;
  readonly #key: ReturnType<typeof prefixMatchKey>;

  constructor(parameters: PrecisePrefixCacheParameters, context: PluginContext) {
    this.producer = new PrecisePrefixCacheProducer(parameters, context);
    this.#key = prefixMatchKey(context.name);
  }

  /** As a scorer of the scheduling contracts: writes the score of endpoints[i] into scores[i]. */
  score(cycle: { readonly request: InferenceRequest }, endpoints: Endpoints, scores: Float64Array): void {
    const match = cycle.request.attribute(this.#key);
    if (match === undefined || match.totalBlocks === 0) return;
    for (let i = 0; i < endpoints.length; i++) {
      scores[i] = match.matchedBlocks(endpoints[i] as Endpoint) / match.totalBlocks;
    }
  }

  produce(request: InferenceRequest, candidates: Endpoints): void {
    this.producer.produce(request, candidates);
  }

  assigned(request: InferenceRequest, assignment: Assignment): void {
    this.producer.assigned(request, assignment);
  }

  firstByte(request: InferenceRequest): void {
    this.producer.firstByte(request);
  }

  ended(request: InferenceRequest, assignment: Assignment, cause: EndCause): void {
    this.producer.ended(request, assignment, cause);
  }

  dumpState(): unknown {
    return this.producer.dumpState();
  }

  close(): Promise<void> {
    return this.producer.close();
  }
}

export const precisePrefixCacheScorerDefinition: PluginDefinition<
  PrecisePrefixCacheParameters,
  PrecisePrefixCacheScorer
> = {
  type: "precise-prefix-cache-scorer",
  kinds: ["scorer", "data-producer", "pre-request", "response"],
  summary: "A prefix-cache-scorer with a precise-prefix-cache-producer of its own.",
  parameters: precisePrefixCacheSchema,
  needs: [tokenProducerType],
  validate: preciseFaults,
  create: (parameters, context) => new PrecisePrefixCacheScorer(parameters, context),
};
