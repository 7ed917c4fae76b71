/** The endpoint that a request's session is pinned to, by either strategy, and what must be observed to know it next time. */
import type { Cycle, Endpoint, Endpoints, RequestObserver, Shareable } from "../../contracts.ts";
import { EndpointToken } from "./endpoint-token.ts";
import type { SessionAffinityParameters } from "./parameters.ts";
import { SessionBindings } from "./session-bindings.ts";

export interface SessionPin {
  /** Undefined when the request has no session, or its endpoint is not a candidate. */
  find(cycle: Cycle, endpoints: Endpoints): Endpoint | undefined;
  readonly observer: RequestObserver;
  /** What replicas share; undefined where the client carries it all. */
  readonly shared: Shareable["shared"];
}

/** `name` is the plugin's. */
export function sessionPin(name: string, parameters: SessionAffinityParameters): SessionPin {
  return parameters.strategy === "session_id" ? new SessionBindings(name, parameters) : new EndpointToken(parameters);
}
