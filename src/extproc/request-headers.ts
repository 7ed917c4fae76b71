/** What a session reads from the request's header message: the lookup that every layer sees, path, id, and the gateway's subset. */
import { randomUUID } from "node:crypto";
import type { Subset } from "../pipeline/contracts.ts";
import type { HeaderLookup } from "../request/inference-request.ts";
import type { Incoming } from "./messages.ts";
import { isSteeringHeader, requestIdHeader, subsetKey, subsetNamespace } from "./names.ts";

export interface RequestHeaders {
  readonly lookup: HeaderLookup;
  /** A client's own control headers, to be removed before the request leaves; undefined when it sent none. */
  readonly steering: readonly string[] | undefined;
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly id: string;
  /** The id is ours and must be set upstream. */
  readonly idMinted: boolean;
  /** -1 when absent or no number. */
  readonly contentLength: number;
}

export function requestHeadersFrom(incoming: Incoming): RequestHeaders {
  const lookup = new Map<string, string>();
  let steering: string[] | undefined;
  incoming.forEachHeader((name, value) => {
    lookup.set(name, value);
    if (name.charCodeAt(0) === 0x78 /* x */ && isSteeringHeader(name)) {
      if (steering === undefined) steering = [name];
      else if (!steering.includes(name)) steering.push(name);
    }
  });
  const kept = lookup.get(requestIdHeader);
  const idMinted = kept === undefined || kept === "";
  return {
    lookup,
    steering,
    method: lookup.get(":method") ?? "POST",
    path: pathOf(lookup),
    id: idMinted ? randomUUID() : kept,
    idMinted,
    contentLength: contentLengthOf(lookup.get("content-length")),
  };
}

/** A request whose gateway sends no header message (request_header_mode SKIP). */
export function absentRequestHeaders(): RequestHeaders {
  const lookup: HeaderLookup = new Map();
  return {
    lookup,
    steering: undefined,
    method: "POST",
    path: pathOf(lookup),
    id: randomUUID(),
    idMinted: true,
    contentLength: -1,
  };
}

/** The first non-empty of what gateways call the path, as in the reference (pkg/epp/util/request/headers.go). */
function pathOf(lookup: HeaderLookup): string {
  const path =
    lookup.get(":path") || lookup.get("x-original-path") || lookup.get("x-forwarded-path") || "/v1/completions";
  const query = path.indexOf("?");
  return query < 0 ? path : path.slice(0, query);
}

function contentLengthOf(value: string | undefined): number {
  if (value === undefined || value === "") return -1;
  const length = Number(value);
  return Number.isSafeInteger(length) && length >= 0 ? length : -1;
}

/** The endpoints a gateway allows: a list, or one comma-separated string. Present but empty allows none (proposal 004). */
export function subsetFrom(incoming: Incoming): Subset {
  const value = incoming.metadata(subsetNamespace, subsetKey);
  if (value === undefined) return undefined;
  const entries = typeof value === "string" ? value.split(",") : value;
  return entries.map((entry) => entry.trim()).filter((entry) => entry !== "");
}
