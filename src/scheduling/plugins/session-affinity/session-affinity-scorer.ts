/** Prefers the endpoint that served the request's session before: 1 for it, 0 for the others. */
import type { PluginDefinition, RequestObserver, Scorer, Shareable } from "../../contracts.ts";
import { type SessionAffinityParameters, sessionAffinityFaults, sessionAffinitySchema } from "./parameters.ts";
import { sessionPin } from "./session-pin.ts";

export const sessionAffinityScorer: PluginDefinition<SessionAffinityParameters, Scorer & RequestObserver & Shareable> =
  {
    type: "session-affinity-scorer",
    kinds: ["scorer", "pre-request", "response"],
    summary: "Scores 1 for the endpoint that served the request's session before, 0 for the others.",
    parameters: sessionAffinitySchema,
    validate: sessionAffinityFaults,
    create: (parameters, { name }) => {
      const pin = sessionPin(name, parameters);
      return {
        score: (cycle, endpoints, scores) => {
          const pinned = pin.find(cycle, endpoints);
          if (pinned !== undefined) scores[endpoints.indexOf(pinned)] = 1;
        },
        ...pin.observer,
        shared: pin.shared,
      };
    },
  };
