/**
 * The replies of a session as values, and the encoded form of those that never vary. Invariants: a body reply in duplex mode is always a
 * streamed_response of at most 62,000 bytes, and only the last of a body ends the stream.
 */

import type { GrpcStream } from "../net/grpc/transport.ts";
import type { Decision } from "../pipeline/contracts.ts";
import type { BodyMutation, BodyReply, Codec, DynamicMetadata, HeaderPair, HeadersReply } from "./messages.ts";
import {
  contentLengthHeader,
  destinationHeader,
  destinationNamespace,
  isSystemHeader,
  proofHeader,
  requestIdHeader,
  scoresKey,
} from "./names.ts";
import type { RequestHeaders } from "./request-headers.ts";
import type { RequestTrace } from "./session-deps.ts";

export type Phase = "request" | "response";
export type Routed = Extract<Decision, { readonly kind: "routed" }>;
export type HeaderChanges = Omit<HeadersReply, "phase">;

/** Some proxies cap a message at 64 KiB; the reference's limit (pkg/common/envoy/chunking.go). */
export const maxChunkBytes = 62_000;

export const proofPair: HeaderPair = [proofHeader, "true"];

const noBytes = new Uint8Array(0);
const noParts: readonly Uint8Array[] = [];
const unchanged: BodyMutation = { kind: "unchanged" };
const lastChunk: BodyMutation = { kind: "streamed", parts: noParts, endOfStream: true };
export const noNames: readonly string[] = [];

const noChanges: HeaderChanges = {
  setHeaders: [],
  removeHeaders: noNames,
  clearRouteCache: false,
  dynamicMetadata: undefined,
};

/** Encoded once; a transport never writes into the parts it sends. */
export interface ConstantReplies {
  /** BUFFERED request mode: lets the body come. */
  readonly requestHeadersUnchanged: readonly Uint8Array[];
  /** The proof header alone. */
  readonly responseHeaders: readonly Uint8Array[];
  readonly requestBodyUnchanged: readonly Uint8Array[];
  readonly responseBodyUnchanged: readonly Uint8Array[];
  /** An empty chunk that ends the stream. */
  readonly responseBodyEnd: readonly Uint8Array[];
  readonly requestTrailers: readonly Uint8Array[];
  readonly responseTrailers: readonly Uint8Array[];
}

export function encodeConstantReplies(codec: Codec): ConstantReplies {
  return {
    requestHeadersUnchanged: codec.encodeHeaders({ phase: "request", ...noChanges }),
    responseHeaders: codec.encodeHeaders({ phase: "response", ...noChanges, setHeaders: [proofPair] }),
    requestBodyUnchanged: codec.encodeBody({ phase: "request", mutation: unchanged, headers: undefined }),
    responseBodyUnchanged: codec.encodeBody({ phase: "response", mutation: unchanged, headers: undefined }),
    responseBodyEnd: codec.encodeBody({ phase: "response", mutation: lastChunk, headers: undefined }),
    requestTrailers: codec.encodeTrailers("request"),
    responseTrailers: codec.encodeTrailers("response"),
  };
}

/** What the picker changes on a request: header and metadata name the same destination, always. */
export function requestChanges(
  decision: Routed,
  headers: RequestHeaders,
  /** -1 sets none. */
  contentLength: number,
  trace: RequestTrace | undefined,
  echo: boolean,
): HeaderChanges {
  const destination = destinationOf(decision);
  const setHeaders: HeaderPair[] = [[destinationHeader, destination]];
  if (contentLength >= 0) setHeaders.push([contentLengthHeader, String(contentLength)]);
  if (trace !== undefined) {
    for (const pair of trace.headers) setHeaders.push(pair);
  }
  if (headers.idMinted) setHeaders.push([requestIdHeader, headers.id]);
  for (const pair of decision.setHeaders) setHeaders.push(pair);
  if (echo) echoInto(setHeaders, headers.lookup);
  return {
    setHeaders,
    removeHeaders: headers.steering === undefined ? noNames : withoutSet(headers.steering, decision.setHeaders),
    clearRouteCache: true,
    dynamicMetadata: destinationMetadata(destination, decision.scores),
  };
}

function destinationOf(decision: Routed): string {
  const destinations = decision.destinations;
  let joined = destinations[0]?.hostPort ?? "";
  for (let i = 1; i < destinations.length; i++) joined += `,${destinations[i]?.hostPort}`;
  return joined;
}

function destinationMetadata(destination: string, scores: ReadonlyMap<string, number> | undefined): DynamicMetadata {
  if (scores === undefined) return { [destinationNamespace]: { [destinationHeader]: destination } };
  return { [destinationNamespace]: { [destinationHeader]: destination, [scoresKey]: Object.fromEntries(scores) } };
}

/** A header is never both set and removed: gateways differ in which of the two they do first. */
function withoutSet(names: readonly string[], set: readonly HeaderPair[]): readonly string[] {
  return set.length === 0 ? names : names.filter((name) => !set.some((pair) => pair[0] === name));
}

/** A value whose bytes were not UTF-8 cannot be given back as it came: it stays out of the echo, and so unchanged on its way. */
export function isEchoable(value: string): boolean {
  return !value.includes("\ufffd");
}

/** The reference's echo: every header that is not the picker's own, pseudo headers included, unless it is set already. */
function echoInto(setHeaders: HeaderPair[], lookup: ReadonlyMap<string, string>): void {
  const set = new Set(setHeaders.map((pair) => pair[0].toLowerCase()));
  for (const pair of lookup) {
    if (!set.has(pair[0]) && !isSystemHeader(pair[0]) && isEchoable(pair[1])) setHeaders.push(pair);
  }
}

/** Scratch for the reply that a streaming answer is made of; encode calls are synchronous and keep nothing of it. */
const chunkMutation = { kind: "streamed" as const, parts: noParts, endOfStream: false };
const chunkReply: { phase: Phase; readonly mutation: BodyMutation; readonly headers: undefined } = {
  phase: "response",
  mutation: chunkMutation,
  headers: undefined,
};

function encodeChunk(
  codec: Codec,
  phase: Phase,
  parts: readonly Uint8Array[],
  endOfStream: boolean,
): readonly Uint8Array[] {
  chunkReply.phase = phase;
  chunkMutation.parts = parts;
  chunkMutation.endOfStream = endOfStream;
  const encoded = codec.encodeBody(chunkReply);
  chunkMutation.parts = noParts;
  return encoded;
}

/** Sends a body as duplex chunks, without a copy; an empty one is a single empty chunk. The last carries endOfStream. */
export function sendChunks(
  stream: GrpcStream,
  codec: Codec,
  phase: Phase,
  parts: readonly Uint8Array[],
  endOfStream: boolean,
): void {
  let left = 0;
  for (let i = 0; i < parts.length; i++) left += parts[i]?.length ?? 0;
  if (left <= maxChunkBytes) {
    stream.send(encodeChunk(codec, phase, parts, endOfStream));
    return;
  }
  let chunk: Uint8Array[] = [];
  let room = maxChunkBytes;
  for (let i = 0; i < parts.length; i++) {
    let part = parts[i] ?? noBytes;
    while (part.length > 0) {
      const piece = part.length <= room ? part : part.subarray(0, room);
      chunk.push(piece);
      part = part.subarray(piece.length);
      room -= piece.length;
      left -= piece.length;
      if (room === 0 || left === 0) {
        stream.send(encodeChunk(codec, phase, chunk, endOfStream && left === 0));
        chunk = [];
        room = maxChunkBytes;
      }
    }
  }
}

/** A whole body in one reply, for BUFFERED and STREAMED modes. Undefined parts leave it unchanged. */
export function encodeWholeBody(
  codec: Codec,
  phase: Phase,
  parts: readonly Uint8Array[] | undefined,
  headers: HeaderChanges | undefined,
): readonly Uint8Array[] {
  const reply: BodyReply = {
    phase,
    mutation: parts === undefined ? unchanged : { kind: "replace", parts },
    headers,
  };
  return codec.encodeBody(reply);
}
