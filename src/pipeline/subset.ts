/**
 * Which endpoints the gateway's subset allows. An entry is "ip:port", which matches exactly, or a bare ip, which matches every port of it;
 * IPv6 with or without brackets. A comma-separated entry counts as several.
 */
import type { Endpoint, Endpoints } from "../data/endpoint.ts";
import type { Subset } from "./contracts.ts";

/** Entries in the spellings that endpoints are looked up by: "ip:port" with IPv6 in brackets, or the bare address. */
function parseSubset(entries: readonly string[]): ReadonlySet<string> {
  const allowed = new Set<string>();
  for (const entry of entries) {
    for (const part of entry.split(",")) {
      const trimmed = part.trim();
      if (trimmed === "") continue;
      const isBracketedAddress = trimmed.startsWith("[") && trimmed.endsWith("]");
      allowed.add((isBracketedAddress ? trimmed.slice(1, -1) : trimmed).toLowerCase());
    }
  }
  return allowed;
}

function isAllowed(endpoint: Endpoint, allowed: ReadonlySet<string>): boolean {
  return allowed.has(endpoint.hostPort) || allowed.has(endpoint.address);
}

/** Returns the argument itself where the subset is undefined; an empty subset allows nothing. */
export function allowedEndpoints(endpoints: Endpoints, subset: Subset): Endpoints {
  if (subset === undefined) return endpoints;
  const allowed = parseSubset(subset);
  if (allowed.size === 0) return [];
  return endpoints.filter((endpoint) => isAllowed(endpoint, allowed));
}
