/** Keeps the endpoints that stay within every cap; a metric that was never scraped counts as 0 and passes. */
import type { Cycle, Endpoint, Endpoints, Filter, PluginDefinition } from "../../contracts.ts";
import { type EndpointTest, keptBy } from "./kept.ts";

type Metric = "active-requests" | "running-requests" | "waiting-queue" | "kv-cache-utilization";

interface Condition {
  readonly metric: Metric;
  readonly maxValue: number;
}

interface Parameters {
  readonly conditions: readonly Condition[];
  readonly fallbackOnEmpty: boolean;
}

class UtilizationFilter implements Filter, EndpointTest {
  readonly #conditions: readonly Condition[];
  readonly #fallbackOnEmpty: boolean;

  constructor({ conditions, fallbackOnEmpty }: Parameters) {
    this.#conditions = conditions;
    this.#fallbackOnEmpty = fallbackOnEmpty;
  }

  filter(cycle: Cycle, endpoints: Endpoints): Endpoints {
    const kept = keptBy(this, cycle.request, endpoints);
    return kept.length === 0 && this.#fallbackOnEmpty ? endpoints : kept;
  }

  accepts(endpoint: Endpoint): boolean {
    for (const { metric, maxValue } of this.#conditions) if (levelOf(metric, endpoint) > maxValue) return false;
    return true;
  }
}

function levelOf(metric: Metric, { load, metrics }: Endpoint): number {
  switch (metric) {
    case "active-requests":
      return load.requests;
    case "running-requests":
      return metrics.runningRequests;
    case "waiting-queue":
      return metrics.waitingRequests;
    case "kv-cache-utilization":
      return metrics.kvCacheUsage;
    default:
      return metric satisfies never;
  }
}

export const utilizationFilter: PluginDefinition<Parameters, Filter> = {
  type: "utilization-filter",
  kinds: ["filter"],
  summary: "Keeps the endpoints whose load stays within every configured cap.",
  parameters: {
    type: "object",
    additionalProperties: false,
    required: ["conditions"],
    properties: {
      conditions: {
        type: "array",
        minItems: 1,
        description: "Caps that must all hold.",
        items: {
          type: "object",
          additionalProperties: false,
          required: ["metric", "maxValue"],
          properties: {
            metric: {
              enum: ["active-requests", "running-requests", "waiting-queue", "kv-cache-utilization"],
              description:
                "active-requests counts what this picker has sent and has not ended; the others are the engine's own figures.",
            },
            maxValue: {
              type: "number",
              minimum: 0,
              description: "Highest value that is kept; a fraction of 1 for kv-cache-utilization.",
            },
          },
        },
      },
      fallbackOnEmpty: {
        type: "boolean",
        default: false,
        description: "Keep every endpoint when none stays within the caps; otherwise the request is refused with 429.",
      },
      inFlightLoadProducerName: {
        type: "string",
        "x-producer": "inflight-load-producer",
        description: "Name of the producer that counts active requests.",
      },
    },
  },
  needs: ["inflight-load-producer"],
  validate: ({ conditions }) =>
    conditions.flatMap(({ metric, maxValue }, index) =>
      metric === "kv-cache-utilization" && maxValue > 1
        ? [`conditions[${index}].maxValue: kv-cache-utilization is a fraction and must be at most 1, not ${maxValue}`]
        : [],
    ),
  create: (parameters) => new UtilizationFilter(parameters),
};
