/**
 * Affinity without memory: the answer carries the base64 of the endpoint's name, the client sends it back, and the request goes there again
 * while that endpoint is a candidate. A token that names none, or is no token, expresses no preference.
 */
import type {
  Assignment,
  Cycle,
  Endpoint,
  Endpoints,
  HeaderSink,
  InferenceRequest,
  RequestObserver,
} from "../../contracts.ts";
import type { SessionAffinityParameters } from "./parameters.ts";

/** Kubernetes names and namespaces make at most 253 + 63 characters; base64 of that is shorter. */
const longestToken = 512;

export class EndpointToken {
  readonly observer: RequestObserver;
  readonly shared = undefined;
  readonly #header: string;
  readonly #profileName: string;

  constructor({ encodedEndpointHeaderConfig, profileName }: SessionAffinityParameters) {
    this.#header = encodedEndpointHeaderConfig.header.trim().toLowerCase();
    this.#profileName = profileName;
    this.observer = {
      responseHeaders: (_request: InferenceRequest, assignment, { served }, clientHeaders) =>
        this.#write(assignment, served, clientHeaders),
    };
  }

  find({ request }: Cycle, endpoints: Endpoints): Endpoint | undefined {
    const token = request.headers.get(this.#header);
    if (token === undefined || token === "" || token.length > longestToken) return undefined;
    const name = Buffer.from(token, "base64").toString();
    for (const endpoint of endpoints) if (endpoint.name === name) return endpoint;
    return undefined;
  }

  /** The endpoint that really served, where the gateway says so and it was ours to name; else the one picked. */
  #write({ destinations, byProfile }: Assignment, served: string | undefined, clientHeaders: HeaderSink): void {
    const pinned =
      this.#profileName === ""
        ? (destinations.find(({ hostPort }) => hostPort === served) ?? destinations[0])
        : byProfile.get(this.#profileName)?.[0];
    if (pinned !== undefined) clientHeaders.set(this.#header, Buffer.from(pinned.name).toString("base64"));
  }
}
