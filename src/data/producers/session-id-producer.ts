/** Reads the client's session from a header or a cookie and publishes it; without one it publishes nothing. */
import type { InferenceRequest } from "../../request/inference-request.ts";
import { sessionIdKey } from "../attributes.ts";
import type { PluginDefinition } from "../plugin.ts";
import type { DataProducer } from "../producer.ts";

export interface SessionIdParameters {
  readonly headerName?: string;
  readonly cookieName?: string;
}

export class SessionIdProducer implements DataProducer {
  readonly #header: string;
  readonly #cookie: string;

  constructor({ headerName = "", cookieName = "" }: SessionIdParameters) {
    this.#header = headerName.trim().toLowerCase();
    this.#cookie = cookieName.trim();
  }

  produce(request: InferenceRequest): void {
    const header = request.headers.get(this.#header === "" ? "cookie" : this.#header);
    if (header === undefined) return;
    const value = this.#header === "" ? cookieValue(header, this.#cookie) : header;
    const session = value?.trim() ?? "";
    if (session !== "")
      request.setAttribute(sessionIdKey, session.length === header.length ? session : copied(session));
  }
}

/** A part of a string keeps the whole alive for as long as somebody remembers the part: 64 KiB of cookies for an id of 20 letters. */
function copied(part: string): string {
  return Buffer.from(part).toString();
}

/** The first cookie of that name (RFC 6265 §4.2.1: pairs separated by "; "), as it is written. */
function cookieValue(header: string, name: string): string | undefined {
  for (let start = 0; start < header.length; ) {
    const semicolon = header.indexOf(";", start);
    const end = semicolon < 0 ? header.length : semicolon;
    const equals = header.indexOf("=", start);
    if (equals >= 0 && equals < end && header.slice(start, equals).trim() === name)
      return header.slice(equals + 1, end);
    start = end + 1;
  }
  return undefined;
}

export const sessionIdProducerDefinition: PluginDefinition<SessionIdParameters, SessionIdProducer> = {
  type: "session-id-producer",
  kinds: ["data-producer"],
  summary: "Publishes the client's session, taken from a header or a cookie.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      headerName: { type: "string", description: "Request header that names the session." },
      cookieName: { type: "string", description: "Cookie that names the session." },
    },
  },
  validate({ headerName = "", cookieName = "" }) {
    const named = [headerName, cookieName].filter((name) => name.trim() !== "").length;
    return named === 1 ? [] : ["exactly one of headerName and cookieName is needed"];
  },
  create: (parameters) => new SessionIdProducer(parameters),
};
