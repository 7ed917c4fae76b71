/** Reads token counts out of a usage object in any dialect. */
import type { Usage } from "../usage.ts";

/** The counts as the object spells them. */
export interface UsageCounts {
  readonly prompt: number | undefined;
  readonly completion: number | undefined;
  readonly total: number | undefined;
  readonly cached: number | undefined;
  /** Anthropic's cache_read and cache_creation tokens, which its input_tokens leaves out. */
  readonly besideInput: number | undefined;
}

/** The counts of a usage object, or of SGLang's meta_info; undefined when the text holds none. */
export function parseCounts(json: string): UsageCounts | undefined {
  const object = objectFrom(json);
  if (object === undefined) return undefined;
  const cacheRead = count(object["cache_read_input_tokens"]);
  const cacheCreation = count(object["cache_creation_input_tokens"]);
  const counts: UsageCounts = {
    prompt: count(object["prompt_tokens"]) ?? count(object["input_tokens"]),
    completion: count(object["completion_tokens"]) ?? count(object["output_tokens"]),
    total: count(object["total_tokens"]),
    cached:
      cachedIn(object["prompt_tokens_details"]) ??
      cachedIn(object["input_tokens_details"]) ??
      count(object["cached_tokens"]) ??
      cacheRead,
    besideInput:
      cacheRead === undefined && cacheCreation === undefined ? undefined : (cacheRead ?? 0) + (cacheCreation ?? 0),
  };
  return counts.prompt === undefined && counts.completion === undefined && counts.total === undefined
    ? undefined
    : counts;
}

/** What is known after `later` too: Anthropic spreads one usage over message_start and message_delta. */
export function mergeCounts(earlier: UsageCounts, later: UsageCounts): UsageCounts {
  return {
    prompt: later.prompt ?? earlier.prompt,
    completion: later.completion ?? earlier.completion,
    total: later.total ?? earlier.total,
    cached: later.cached ?? earlier.cached,
    besideInput: later.besideInput ?? earlier.besideInput,
  };
}

export function usageFrom(counts: UsageCounts): Usage {
  return {
    promptTokens: counts.prompt === undefined ? undefined : counts.prompt + (counts.besideInput ?? 0),
    completionTokens: counts.completion,
    totalTokens: counts.total,
    cachedTokens: counts.cached,
  };
}

function objectFrom(json: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const parsed: unknown = JSON.parse(json);
    return isRecord(parsed) ? parsed : undefined;
  } catch {
    // an engine's answer is not ours to judge: no usage is read
    return undefined;
  }
}

function cachedIn(details: unknown): number | undefined {
  return isRecord(details) ? count(details["cached_tokens"]) : undefined;
}

function count(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : undefined;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
