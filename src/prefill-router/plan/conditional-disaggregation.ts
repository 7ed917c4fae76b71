/**
 * Whether a request of a disaggregated set is better computed on its decode worker: its prompt is short or cached there, or the prefill
 * workers are busy. Pure (dynamo-kv-router 1.6.1, conditional_disagg.rs; dynamo-llm, prefill_router/conditional_bypass.rs).
 */

export interface ConditionalDisaggregation {
  readonly policy: "isl_bounding" | "prefill_load" | "isl_or_load";
  /** Tokens left to compute on the decode worker must be below both: the number, and the share of the prompt. */
  readonly effIslThreshold: number;
  readonly effIslRatioThreshold: number;
  /** Share of max_num_batched_tokens above which the chosen prefill worker is busy. Undefined: its load is unknown and never a reason. */
  readonly prefillBusyThreshold: number | undefined;
  /** Share of its KV blocks above which the chosen decode worker takes no prompt. Undefined: it always may. */
  readonly decodeBusyThreshold: number | undefined;
}

export interface BypassSignals {
  readonly promptTokens: number;
  /** Cached on the chosen decode worker, weighted. */
  readonly cachedTokens: number;
  /** Undefined: not known. */
  readonly isPrefillBusy: boolean | undefined;
  readonly isDecodeBusy: boolean | undefined;
}

/** The decision in the words of the decision log. */
export type BypassDecision =
  | "bypassed"
  | "declined by the policy"
  | "denied: decode worker busy"
  | "denied: decode load unknown";

export function needsPrefillLoad(settings: ConditionalDisaggregation): boolean {
  return settings.policy !== "isl_bounding" && settings.prefillBusyThreshold !== undefined;
}

export function decideBypass(settings: ConditionalDisaggregation, signals: BypassSignals): BypassDecision {
  if (!isWanted(settings, signals)) return "declined by the policy";
  if (settings.decodeBusyThreshold === undefined || signals.isDecodeBusy === false) return "bypassed";
  return signals.isDecodeBusy === undefined ? "denied: decode load unknown" : "denied: decode worker busy";
}

function isWanted(settings: ConditionalDisaggregation, signals: BypassSignals): boolean {
  const isBusy = signals.isPrefillBusy === true;
  switch (settings.policy) {
    case "isl_bounding":
      return isShort(settings, signals);
    case "prefill_load":
      return isBusy;
    case "isl_or_load":
      return isBusy || isShort(settings, signals);
    default:
      return settings.policy satisfies never;
  }
}

function isShort(settings: ConditionalDisaggregation, signals: BypassSignals): boolean {
  const left = Math.max(0, signals.promptTokens - signals.cachedTokens);
  return left < settings.effIslThreshold && left / Math.max(1, signals.promptTokens) < settings.effIslRatioThreshold;
}
