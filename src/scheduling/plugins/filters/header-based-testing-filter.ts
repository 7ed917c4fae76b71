/**
 * Keeps the endpoints that the header `test-epp-endpoint-selection` lists, in its order, so that a test can decide where a request goes.
 * Without the header nothing is kept: the request is refused.
 */
import type { Cycle, Endpoint, Endpoints, Filter, PluginDefinition } from "../../contracts.ts";

const header = "test-epp-endpoint-selection";

class HeaderBasedTestingFilter implements Filter {
  filter({ request }: Cycle, endpoints: Endpoints): Endpoints {
    const kept = new Set<Endpoint>();
    for (const entry of (request.headers.get(header) ?? "").split(",")) {
      const wanted = entry.trim();
      if (wanted === "") continue;
      const bare = withoutBrackets(wanted);
      for (const endpoint of endpoints) {
        if (endpoint.hostPort === wanted || endpoint.address === bare) kept.add(endpoint);
      }
    }
    return [...kept];
  }
}

/** "[fd00::2]" names an address as "fd00::2" does; "[fd00::2]:8000" is an address and a port and stays as it is. */
function withoutBrackets(entry: string): string {
  return entry.startsWith("[") && entry.endsWith("]") ? entry.slice(1, -1) : entry;
}

export const headerBasedTestingFilter: PluginDefinition<object, Filter> = {
  type: "header-based-testing-filter",
  kinds: ["filter"],
  summary:
    "For tests: keeps the endpoints that the request header test-epp-endpoint-selection lists as `ip` or `ip:port`, in its order.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => new HeaderBasedTestingFilter(),
};
