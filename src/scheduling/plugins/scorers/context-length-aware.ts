/**
 * Prefers, or requires, endpoints whose labelled range of context lengths holds the prompt: tighter ranges with more room above the prompt
 * first. Filter and scorer in one; ranges are parsed once per label value.
 */
import type { Cycle, Endpoint, Endpoints, Filter, PluginDefinition, Scorer } from "../../contracts.ts";

interface Parameters {
  readonly label: string;
  readonly enableFiltering: boolean;
}

interface LengthRange {
  readonly min: number;
  readonly max: number;
}

/** Label values remembered; a pool has a handful. */
const mostRanges = 1024;
/** Score of the best endpoint out of range; every one in range scores more. */
const highestOutside = 0.3;

class ContextLengthAware implements Filter, Scorer {
  readonly #label: string;
  readonly #enableFiltering: boolean;
  readonly #ranges = new Map<string, LengthRange | null>();

  constructor({ label, enableFiltering }: Parameters) {
    this.#label = label;
    this.#enableFiltering = enableFiltering;
  }

  /** Without the label an endpoint takes any length; with one that cannot be read, none. */
  filter({ request }: Cycle, endpoints: Endpoints): Endpoints {
    if (!this.#enableFiltering) return endpoints;
    const length = request.promptTokens;
    const kept: Endpoint[] = [];
    for (const endpoint of endpoints) {
      const range = this.#rangeOf(endpoint);
      if (range === undefined || (range !== null && holds(range, length))) kept.push(endpoint);
    }
    return kept.length === endpoints.length ? endpoints : kept;
  }

  score({ request }: Cycle, endpoints: Endpoints, scores: Float64Array): void {
    let i = 0;
    for (const endpoint of endpoints) {
      const range = this.#rangeOf(endpoint);
      if (range === undefined) scores[i] = 0.5;
      else if (range !== null) scores[i] = scoreOf(request.promptTokens, range);
      i += 1;
    }
  }

  /** Undefined without the label, null where it is no range. */
  #rangeOf({ labels }: Endpoint): LengthRange | null | undefined {
    const text = labels.get(this.#label);
    if (text === undefined) return undefined;
    let range = this.#ranges.get(text);
    if (range === undefined) {
      if (this.#ranges.size >= mostRanges) this.#ranges.clear();
      range = parseRange(text);
      this.#ranges.set(text, range);
    }
    return range;
  }
}

function parseRange(text: string): LengthRange | null {
  const match = /^\s*(\d+)\s*-\s*(\d+)\s*$/.exec(text);
  const min = Number(match?.[1]);
  const max = Number(match?.[2]);
  return min <= max ? { min, max } : null;
}

function holds({ min, max }: LengthRange, length: number): boolean {
  return length >= min && length <= max;
}

/** The reference's formula (contextlengthaware/context_length_aware.go). */
function scoreOf(length: number, range: LengthRange): number {
  if (!holds(range, length)) {
    const distance = length > range.max ? length - range.max : range.min - length;
    return highestOutside / (1 + distance / 1000);
  }
  const width = range.max - range.min;
  if (width === 0) return 1;
  const fit = 0.7 / (1 + width / 10000) + (0.3 * (range.max - length)) / width;
  return highestOutside + fit * (1 - highestOutside);
}

export const contextLengthAware: PluginDefinition<Parameters, Filter & Scorer> = {
  type: "context-length-aware",
  kinds: ["filter", "scorer"],
  summary:
    "Prefers, or with enableFiltering requires, endpoints whose labelled range of context lengths holds the prompt.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      label: {
        type: "string",
        minLength: 1,
        default: "llm-d.ai/context-length-range",
        description: 'Label that holds the range as "min-max" in tokens.',
      },
      enableFiltering: {
        type: "boolean",
        default: false,
        description: "Also drop endpoints whose range does not hold the prompt.",
      },
    },
  },
  needs: ["token-producer"],
  create: (parameters) => new ContextLengthAware(parameters),
};
