/**
 * Conditional decode: a client that sends `prefer: if-available` wants an answer only from a worker that already holds the prefix
 * (a coordinator tries decode first and prefills elsewhere when it is refused).
 */
import type { PrefixMatch } from "../data/attributes.ts";
import { prefixMatchKey } from "../data/attributes.ts";
import type { Endpoint, Endpoints } from "../data/endpoint.ts";
import type { InferenceRequest } from "../request/inference-request.ts";
import type { SchedulingPlan } from "../scheduling/contracts.ts";

/** RFC 7240 §2: a comma-separated list of preferences, whose names are case-insensitive. */
export function prefersIfAvailable(request: InferenceRequest): boolean {
  const value = request.headers.get("prefer");
  if (value === undefined) return false;
  return value.split(",").some((preference) => {
    const end = preference.indexOf(";");
    return (end < 0 ? preference : preference.slice(0, end)).trim().toLowerCase() === "if-available";
  });
}

/** Values of the role label whose workers never decode (facts of the reference's decode-filter). */
const neverDecodes: ReadonlySet<string> = new Set(["prefill", "encode", "encode-prefill"]);

function decodes(endpoint: Endpoint): boolean {
  const role = endpoint.labels.get("llm-d.ai/role");
  return role === undefined || !neverDecodes.has(role);
}

function prefixMatches(request: InferenceRequest, plan: SchedulingPlan): PrefixMatch[] {
  const matches: PrefixMatch[] = [];
  for (const { name } of plan.producers) {
    const match = request.attribute(prefixMatchKey(name));
    if (match !== undefined) matches.push(match);
  }
  return matches;
}

/**
 * The decode workers among the candidates that hold a leading block of the prompt, by any producer of the plan. The choice is among them alone:
 * the reference schedules over all and refuses when the one it chose holds nothing.
 */
export function prefixHolders(request: InferenceRequest, plan: SchedulingPlan, candidates: Endpoints): Endpoints {
  const matches = prefixMatches(request, plan);
  return candidates.filter(
    (endpoint) => decodes(endpoint) && matches.some((match) => match.matchedBlocks(endpoint) > 0),
  );
}
