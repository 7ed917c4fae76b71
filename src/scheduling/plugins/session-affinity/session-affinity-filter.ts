/** Sends a session back to the endpoint that served it, as a hard constraint while that endpoint is a candidate. Never empties the candidates. */
import type { Filter, PluginDefinition, RequestObserver, Shareable } from "../../contracts.ts";
import { type SessionAffinityParameters, sessionAffinityFaults, sessionAffinitySchema } from "./parameters.ts";
import { sessionPin } from "./session-pin.ts";

export const sessionAffinityFilter: PluginDefinition<SessionAffinityParameters, Filter & RequestObserver & Shareable> =
  {
    type: "session-affinity-filter",
    kinds: ["filter", "pre-request", "response"],
    summary: "Keeps only the endpoint that served the request's session before, while it is a candidate.",
    parameters: sessionAffinitySchema,
    validate: sessionAffinityFaults,
    create: (parameters, { name }) => {
      const pin = sessionPin(name, parameters);
      return {
        filter: (cycle, endpoints) => {
          const pinned = pin.find(cycle, endpoints);
          return pinned === undefined ? endpoints : [pinned];
        },
        ...pin.observer,
        shared: pin.shared,
      };
    },
  };
