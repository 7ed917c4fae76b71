/** The endpoints of `--endpoints`: a fixed list that is in the store from the start. */
import { hostPortOf } from "../endpoint.ts";
import type { EndpointSpec } from "../endpoint-store.ts";
import type { Discovery } from "./discovery.ts";
import { parseHostPort } from "./endpoint-address.ts";

/**
 * Parses "10.0.0.1:8000,[fd00::1]:8000". An endpoint is named for its address, so its name is the same wherever it stands in the list. All
 * faults are reported at once.
 */
export function parseEndpointList(
  text: string,
  namespace: string,
): { readonly endpoints: readonly EndpointSpec[]; readonly faults: readonly string[] } {
  const endpoints = new Map<string, EndpointSpec>();
  const faults: string[] = [];
  for (const entry of text.split(",").map((part) => part.trim())) {
    if (entry === "") {
      faults.push("empty entry: expected ip:port, separated by commas");
      continue;
    }
    const parsed = parseHostPort(entry);
    if ("fault" in parsed) {
      faults.push(parsed.fault);
      continue;
    }
    const name = hostPortOf(parsed.address, parsed.port);
    if (endpoints.has(name)) faults.push(`"${entry}" is named twice`);
    endpoints.set(name, { namespace, name, address: parsed.address, port: parsed.port, labels: new Map() });
  }
  return { endpoints: [...endpoints.values()], faults };
}

export function createStaticDiscovery(endpoints: readonly EndpointSpec[]): Discovery {
  return {
    async start(store) {
      store.replaceAll("static", endpoints);
      store.markSynced();
    },
    async close() {},
  };
}
