/**
 * The ext_proc messages as the session sees them, whichever codec decoded them. Views (`body`, header values) point into the received
 * message, which is valid for as long as someone holds it.
 */

export type BodyMode = "NONE" | "STREAMED" | "BUFFERED" | "BUFFERED_PARTIAL" | "FULL_DUPLEX_STREAMED" | "GRPC";

export type IncomingKind =
  | "requestHeaders"
  | "requestBody"
  | "requestTrailers"
  | "responseHeaders"
  | "responseBody"
  | "responseTrailers"
  /** No member of the oneof that this version knows. */
  | "unknown";

export interface Incoming {
  readonly kind: IncomingKind;
  /** end_of_stream of headers and bodies (end_of_stream_without_message counts too). */
  readonly endOfStream: boolean;
  /** Body bytes; empty for other kinds. A view into the message. */
  readonly body: Buffer;
  /** Modes of protocol_config, sent with the first message of a stream. */
  readonly protocolConfig: { readonly requestBodyMode: BodyMode; readonly responseBodyMode: BodyMode } | undefined;
  readonly observabilityMode: boolean;
  /** Calls back with every header, name lower-cased, raw_value preferred to value (decoded as UTF-8, invalid bytes replaced); in wire order. */
  forEachHeader(visit: (name: string, value: string) => void): void;
  /** One header by lower-case name, the last value; undefined when absent. */
  header(name: string): string | undefined;
  /** Sum of name and value bytes of all headers. */
  readonly headersSizeBytes: number;
  /**
   * filter_metadata[namespace][key] of metadata_context. A string value is a string; a list is the array of its string items (others are
   * skipped); anything else, and absence, is undefined.
   */
  metadata(namespace: string, key: string): string | readonly string[] | undefined;
}

export type HeaderPair = readonly [name: string, value: string];

/** `dynamic_metadata`: top-level keys are namespaces. Values: string, number, or a nested object of them. */
export type DynamicMetadata = { readonly [namespace: string]: { readonly [key: string]: MetadataValue } };
export type MetadataValue = string | number | { readonly [key: string]: MetadataValue };

/** How a body leaves: as FULL_DUPLEX_STREAMED chunk, as whole replacement (BUFFERED), or unchanged (no mutation). */
export type BodyMutation =
  | { readonly kind: "streamed"; readonly parts: readonly Uint8Array[]; readonly endOfStream: boolean }
  | { readonly kind: "replace"; readonly parts: readonly Uint8Array[] }
  | { readonly kind: "unchanged" };

export interface HeadersReply {
  readonly phase: "request" | "response";
  /** Written as raw_value. */
  readonly setHeaders: readonly HeaderPair[];
  readonly removeHeaders: readonly string[];
  readonly clearRouteCache: boolean;
  readonly dynamicMetadata: DynamicMetadata | undefined;
}

export interface BodyReply {
  readonly phase: "request" | "response";
  readonly mutation: BodyMutation;
  /** BUFFERED request mode: the header changes may ride on the body reply. Undefined otherwise. */
  readonly headers: Omit<HeadersReply, "phase"> | undefined;
}

export interface ImmediateReply {
  /** HTTP status. */
  readonly status: number;
  readonly setHeaders: readonly HeaderPair[];
  readonly body: Uint8Array;
  /** `details`, for Envoy's access log (%RESPONSE_CODE_DETAILS%). */
  readonly details: string;
}

/** Decodes received messages and encodes replies. Each encode returns one protobuf message, unframed, as parts that need no copy of body bytes. */
export interface Codec {
  /** Throws CodecError on malformed bytes; unknown fields are skipped. */
  decode(message: Buffer): Incoming;
  encodeHeaders(reply: HeadersReply): readonly Uint8Array[];
  encodeBody(reply: BodyReply): readonly Uint8Array[];
  encodeTrailers(phase: "request" | "response"): readonly Uint8Array[];
  encodeImmediate(reply: ImmediateReply): readonly Uint8Array[];
}

/** The bytes are no ProcessingRequest. */
export class CodecError extends Error {
  readonly code = "MALFORMED_MESSAGE";
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "CodecError";
  }
}
