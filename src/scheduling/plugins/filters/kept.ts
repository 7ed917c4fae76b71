/** The endpoints that a test accepts, in their order; the argument itself when all are, so that a filter that drops nothing allocates nothing. */
import type { Endpoint, Endpoints, InferenceRequest } from "../../contracts.ts";

export interface EndpointTest {
  accepts(endpoint: Endpoint, request: InferenceRequest): boolean;
}

export function keptBy(test: EndpointTest, request: InferenceRequest, endpoints: Endpoints): Endpoints {
  let kept: Endpoint[] | undefined;
  let seen = 0;
  for (const endpoint of endpoints) {
    if (test.accepts(endpoint, request)) kept?.push(endpoint);
    else kept ??= endpoints.slice(0, seen);
    seen += 1;
  }
  return kept ?? endpoints;
}
