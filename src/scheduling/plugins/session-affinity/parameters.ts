/** What the session-affinity filter and scorer are configured with: how a request names its session, and how long that is remembered. */
import { type AttributeKey, type JsonSchema, sessionIdKey } from "../../contracts.ts";

export interface SessionSource {
  readonly header?: string;
  readonly attribute?: string;
  readonly producer?: string;
}

export interface SessionIdConfig {
  /** In order of priority; the first that is not empty wins. */
  readonly sources: readonly SessionSource[];
  readonly evictionTtlSeconds: number;
  readonly evictionSweepSeconds: number;
}

export interface SessionAffinityParameters {
  readonly strategy: "encoded_endpoint_header" | "session_id";
  readonly encodedEndpointHeaderConfig: { readonly header: string };
  readonly sessionIdConfig: SessionIdConfig;
  /** Profile whose pick is pinned; "" for the destination. */
  readonly profileName: string;
}

/** Request attributes that can name a session, by the names the configuration may use (the second is the reference's). */
export const sessionAttributes: ReadonlyMap<string, AttributeKey<string>> = new Map([
  ["session-id", sessionIdKey],
  ["SessionIDDataKey", sessionIdKey],
]);

export const sessionAffinitySchema: JsonSchema = {
  type: "object",
  additionalProperties: false,
  properties: {
    strategy: {
      enum: ["encoded_endpoint_header", "session_id"],
      default: "encoded_endpoint_header",
      description:
        "encoded_endpoint_header: the answer carries a token that the client sends back. session_id: the picker remembers where a session went.",
    },
    profileName: {
      type: "string",
      default: "",
      description: "Profile whose endpoint is pinned; empty for the destination.",
    },
    encodedEndpointHeaderConfig: {
      type: "object",
      additionalProperties: false,
      default: {},
      description: "For the strategy encoded_endpoint_header.",
      properties: {
        header: {
          type: "string",
          minLength: 1,
          default: "x-session-token",
          description: "Header of request and answer that holds the base64 of namespace/name.",
        },
      },
    },
    sessionIdConfig: {
      type: "object",
      additionalProperties: false,
      default: {},
      description: "For the strategy session_id.",
      properties: {
        sources: {
          type: "array",
          minItems: 1,
          default: [{ header: "x-session-id" }],
          description: "Where the session's id is read, in order; the first that is not empty wins.",
          items: {
            type: "object",
            additionalProperties: false,
            properties: {
              header: { type: "string", minLength: 1, description: "Request header." },
              attribute: {
                type: "string",
                minLength: 1,
                "x-published-by": "session-id-producer",
                description: "Request attribute: session-id, which session-id-producer publishes.",
              },
              producer: { type: "string", "x-plugin": true, description: "Producer of the attribute." },
            },
          },
        },
        evictionTtlSeconds: {
          type: "number",
          exclusiveMinimum: 0,
          default: 300,
          description: "Seconds for which an unused session is remembered.",
        },
        evictionSweepSeconds: {
          type: "number",
          exclusiveMinimum: 0,
          default: 10,
          description:
            "Seconds between two sweeps of expired sessions, made as requests come; an expired one is never followed.",
        },
      },
    },
  },
};

export function sessionAffinityFaults({ strategy, sessionIdConfig }: SessionAffinityParameters): string[] {
  if (strategy !== "session_id") return [];
  return sessionIdConfig.sources.flatMap(({ header, attribute }, index) => {
    const path = `sessionIdConfig.sources[${index}]`;
    if ((header === undefined) === (attribute === undefined)) return [`${path}: exactly one of header and attribute`];
    if (attribute === "agent-identity") return [`${path}.attribute: agent-identity is not built yet`];
    if (attribute !== undefined && !sessionAttributes.has(attribute)) {
      return [`${path}.attribute: ${JSON.stringify(attribute)} is not session-id`];
    }
    return [];
  });
}
