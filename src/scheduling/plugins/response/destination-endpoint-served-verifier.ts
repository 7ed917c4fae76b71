/** For conformance tests: tells the client which endpoint the gateway says served its request. */
import type { Assignment, HeaderSink, InferenceRequest, PluginDefinition, RequestObserver } from "../../contracts.ts";

const header = "x-conformance-test-served-endpoint";

class DestinationEndpointServedVerifier implements Required<Pick<RequestObserver, "responseHeaders">> {
  responseHeaders(
    _request: InferenceRequest,
    _assignment: Assignment,
    { served }: { readonly status: number; readonly served: string | undefined },
    clientHeaders: HeaderSink,
  ): void {
    clientHeaders.set(header, served ?? "fail: missing destination endpoint served metadata");
  }
}

export const destinationEndpointServedVerifier: PluginDefinition<object, RequestObserver> = {
  type: "destination-endpoint-served-verifier",
  kinds: ["response"],
  summary: `For conformance tests: sets ${header} in the answer to the endpoint that the gateway says served it.`,
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => new DestinationEndpointServedVerifier(),
};
