/**
 * Counts requests and tokens in flight per endpoint: booked when a request is assigned, its prompt released at the first byte, the rest at the end,
 * whatever the end. The bookings of a request have one owner, which lives as long as the request does.
 */
import { AttributeKey, type InferenceRequest } from "../../request/inference-request.ts";
import { type PrefixMatch, prefixMatchKey, type UncachedTokens, uncachedTokensKey } from "../attributes.ts";
import type { Endpoint } from "../endpoint.ts";
import type { PluginContext, PluginDefinition } from "../plugin.ts";
import type { Assignment, DataProducer, RequestObserver } from "../producer.ts";
import type { EndpointStoreView, LoadBooking } from "../store-view.ts";
import { approxPrefixCacheProducerType } from "./approx-prefix-cache-producer.ts";
import { precisePrefixCacheProducerType } from "./precise-prefix-cache-producer.ts";
import { tokenProducerType } from "./token-producer.ts";

export interface InflightLoadParameters {
  readonly addEstimatedOutputTokens: boolean;
  readonly outputRatio: number;
  readonly maxEstimatedOutputTokens?: number;
  readonly prefixMatchInfoProducerName?: string;
}

/** What one request holds; the prefill endpoint's booking is separate only where prefill and decode are. */
interface Bookings {
  destination: LoadBooking;
  endpoint: Endpoint;
  /** Prompt tokens in `destination` that the first byte releases. */
  promptTokens: number;
  readonly outputTokens: number;
  /** Until the first byte. */
  prefill: { readonly booking: LoadBooking; readonly endpoint: Endpoint; readonly tokens: number } | undefined;
}

export class InflightLoadProducer implements DataProducer, RequestObserver {
  readonly after = [approxPrefixCacheProducerType, precisePrefixCacheProducerType, tokenProducerType];
  readonly #parameters: InflightLoadParameters;
  readonly #endpoints: Pick<EndpointStoreView, "book">;
  readonly #matchKey: ReturnType<typeof prefixMatchKey>;
  /** Undefined once they are released. */
  readonly #bookings = new AttributeKey<Bookings | undefined>("inflight-load/bookings");

  constructor(parameters: InflightLoadParameters, endpoints: Pick<EndpointStoreView, "book">) {
    this.#parameters = parameters;
    this.#endpoints = endpoints;
    this.#matchKey = prefixMatchKey(parameters.prefixMatchInfoProducerName ?? approxPrefixCacheProducerType);
  }

  produce(request: InferenceRequest): void {
    request.setAttribute(uncachedTokensKey, new Uncached(request.promptTokens, request.attribute(this.#matchKey)));
  }

  assigned(request: InferenceRequest, assignment: Assignment): void {
    const destination = assignment.destinations[0];
    if (destination === undefined || request.attribute(this.#bookings) !== undefined) return;
    const outputTokens = this.#estimateOutput(request);
    const prefill = assignment.byProfile.get("prefill")?.[0];
    const isSplit = prefill !== undefined && prefill !== destination;
    const promptTokens = isSplit ? 0 : uncachedTokens(request, destination);
    request.setAttribute(this.#bookings, {
      destination: this.#endpoints.book(destination, promptTokens + outputTokens),
      endpoint: destination,
      promptTokens,
      outputTokens,
      prefill: isSplit ? this.#bookPrefill(request, prefill) : undefined,
    });
  }

  /** What an open request holds now, endpoint by endpoint; nothing for one that this producer did not book. */
  visitBookings(request: InferenceRequest, visit: (endpoint: Endpoint, tokens: number) => void): void {
    const bookings = request.attribute(this.#bookings);
    if (bookings === undefined) return;
    visit(bookings.endpoint, bookings.promptTokens + bookings.outputTokens);
    if (bookings.prefill !== undefined) visit(bookings.prefill.endpoint, bookings.prefill.tokens);
  }

  #bookPrefill(request: InferenceRequest, endpoint: Endpoint): Bookings["prefill"] {
    const tokens = uncachedTokens(request, endpoint);
    return { booking: this.#endpoints.book(endpoint, tokens), endpoint, tokens };
  }

  /** A fallback that served the request carries its load instead of the destination. */
  responseHeaders(
    request: InferenceRequest,
    assignment: Assignment,
    response: { readonly status: number; readonly served: string | undefined },
  ): void {
    const { served } = response;
    if (served === undefined || served === assignment.destinations[0]?.hostPort) return;
    const fallback = assignment.destinations.find((endpoint) => endpoint.hostPort === served);
    const bookings = request.attribute(this.#bookings);
    if (fallback === undefined || bookings === undefined) return;
    bookings.destination.release();
    bookings.promptTokens = bookings.prefill === undefined ? uncachedTokens(request, fallback) : 0;
    bookings.destination = this.#endpoints.book(fallback, bookings.promptTokens + bookings.outputTokens);
    bookings.endpoint = fallback;
  }

  /** An approximate first byte counts too: response headers follow the prefill in every engine that streams. */
  firstByte(request: InferenceRequest): void {
    const bookings = request.attribute(this.#bookings);
    if (bookings === undefined) return;
    bookings.destination.releaseTokens(bookings.promptTokens);
    bookings.promptTokens = 0;
    bookings.prefill?.booking.release();
    bookings.prefill = undefined;
  }

  ended(request: InferenceRequest): void {
    const bookings = request.attribute(this.#bookings);
    if (bookings === undefined) return;
    request.setAttribute(this.#bookings, undefined);
    bookings.destination.release();
    bookings.prefill?.booking.release();
  }

  #estimateOutput(request: InferenceRequest): number {
    const { addEstimatedOutputTokens, outputRatio, maxEstimatedOutputTokens } = this.#parameters;
    if (!addEstimatedOutputTokens) return 0;
    const asked = request.parsed.maxOutputTokens;
    return Math.min(
      Math.ceil(request.promptTokens * outputRatio),
      maxEstimatedOutputTokens ?? Number.POSITIVE_INFINITY,
      asked !== undefined && asked > 0 ? asked : Number.POSITIVE_INFINITY,
    );
  }
}

class Uncached implements UncachedTokens {
  readonly #promptTokens: number;
  readonly #match: PrefixMatch | undefined;

  constructor(promptTokens: number, match: PrefixMatch | undefined) {
    this.#promptTokens = promptTokens;
    this.#match = match;
  }

  uncachedTokens(endpoint: Endpoint): number {
    if (this.#match === undefined) return this.#promptTokens;
    return Math.max(0, this.#promptTokens - this.#match.matchedBlocks(endpoint) * this.#match.blockSizeTokens);
  }
}

/** The whole prompt where the producer was skipped or gave up. */
function uncachedTokens(request: InferenceRequest, endpoint: Endpoint): number {
  return request.attribute(uncachedTokensKey)?.uncachedTokens(endpoint) ?? request.promptTokens;
}

export const inflightLoadProducerDefinition: PluginDefinition<InflightLoadParameters, InflightLoadProducer> = {
  type: "inflight-load-producer",
  kinds: ["data-producer", "pre-request", "response"],
  summary: "Counts requests and uncached prompt tokens in flight per endpoint, without scrape lag.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      addEstimatedOutputTokens: {
        type: "boolean",
        default: false,
        description: "Count the expected answer as well, until the request ends.",
      },
      outputRatio: {
        type: "number",
        minimum: 0,
        default: 1.5,
        description: "Expected output tokens per prompt token; never more than the request's own limit.",
      },
      maxEstimatedOutputTokens: {
        type: "integer",
        minimum: 0,
        description: "Most output tokens expected of one request.",
      },
      prefixMatchInfoProducerName: {
        type: "string",
        "x-producer": approxPrefixCacheProducerType,
        description: "Name of the producer whose prefix match is taken off the prompt (approx-prefix-cache-producer).",
      },
    },
  },
  needs: [tokenProducerType],
  create: (parameters, context: PluginContext) => new InflightLoadProducer(parameters, context.endpoints),
};
