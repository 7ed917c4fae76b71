/** The codec on ts-proto's generated messages: the plain reading of the protocol that the hand-written one is held against. */
import {
  type BodyMutation as BodyMutationMessage,
  type CommonResponse,
  type HeaderMap,
  type HeaderMutation,
  HeaderValueOption_HeaderAppendAction,
  ProcessingRequest,
  ProcessingResponse,
} from "../../gen/external_processor.ts";
import {
  type BodyMutation,
  type BodyReply,
  type Codec,
  CodecError,
  type HeaderPair,
  type HeadersReply,
  type ImmediateReply,
  type Incoming,
} from "../messages.ts";
import { bodyModes } from "./body-modes.ts";

const noBytes = Buffer.alloc(0);

function decode(message: Buffer): Incoming {
  let request: ProcessingRequest;
  try {
    request = ProcessingRequest.decode(message);
  } catch (cause) {
    throw new CodecError("the bytes are no ProcessingRequest", { cause });
  }
  const headers = headersOf(request);
  const config = request.protocolConfig;
  return {
    kind: request.request?.$case ?? "unknown",
    endOfStream: endOfStreamOf(request),
    body: bodyOf(request),
    protocolConfig: config && {
      requestBodyMode: bodyModes[config.requestBodyMode] ?? "NONE",
      responseBodyMode: bodyModes[config.responseBodyMode] ?? "NONE",
    },
    observabilityMode: request.observabilityMode,
    headersSizeBytes: headers.sizeBytes,
    forEachHeader: (visit) => {
      for (const [name, value] of headers.pairs) visit(name, value);
    },
    header: (name) => headers.pairs.findLast((pair) => pair[0] === name)?.[1],
    metadata: (namespace, key) => metadataOf(request, namespace, key),
  };
}

function headersOf(request: ProcessingRequest): { readonly pairs: readonly HeaderPair[]; readonly sizeBytes: number } {
  const pairs: HeaderPair[] = [];
  let sizeBytes = 0;
  for (const { key, value, rawValue } of headerMapOf(request)?.headers ?? []) {
    const raw = rawValue.length > 0 ? rawValue : Buffer.from(value);
    pairs.push([key.toLowerCase(), raw.toString()]);
    sizeBytes += Buffer.byteLength(key) + raw.length;
  }
  return { pairs, sizeBytes };
}

function headerMapOf({ request }: ProcessingRequest): HeaderMap | undefined {
  switch (request?.$case) {
    case "requestHeaders":
    case "responseHeaders":
      return request.value.headers;
    case "requestTrailers":
    case "responseTrailers":
      return request.value.trailers;
    default:
      return undefined;
  }
}

function endOfStreamOf({ request }: ProcessingRequest): boolean {
  switch (request?.$case) {
    case "requestHeaders":
    case "responseHeaders":
      return request.value.endOfStream;
    case "requestBody":
    case "responseBody":
      return request.value.endOfStream || request.value.endOfStreamWithoutMessage;
    default:
      return false;
  }
}

function bodyOf({ request }: ProcessingRequest): Buffer {
  return request?.$case === "requestBody" || request?.$case === "responseBody" ? request.value.body : noBytes;
}

function metadataOf(
  request: ProcessingRequest,
  namespace: string,
  key: string,
): string | readonly string[] | undefined {
  const namespaces = request.metadataContext?.filterMetadata ?? {};
  const fields = Object.hasOwn(namespaces, namespace) ? namespaces[namespace] : undefined;
  const value: unknown = fields !== undefined && Object.hasOwn(fields, key) ? fields[key] : undefined;
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return undefined;
  return value.filter((item): item is string => typeof item === "string");
}

function encodeHeaders(reply: HeadersReply): readonly Uint8Array[] {
  return encode({
    response: {
      $case: reply.phase === "request" ? "requestHeaders" : "responseHeaders",
      value: { response: commonResponse(reply, undefined) },
    },
    dynamicMetadata: reply.dynamicMetadata,
  });
}

function encodeBody(reply: BodyReply): readonly Uint8Array[] {
  return encode({
    response: {
      $case: reply.phase === "request" ? "requestBody" : "responseBody",
      value: { response: commonResponse(reply.headers, bodyMutation(reply.mutation)) },
    },
    dynamicMetadata: reply.headers?.dynamicMetadata,
  });
}

function encodeTrailers(phase: "request" | "response"): readonly Uint8Array[] {
  return encode({
    response: {
      $case: phase === "request" ? "requestTrailers" : "responseTrailers",
      value: { headerMutation: undefined },
    },
  });
}

function encodeImmediate(reply: ImmediateReply): readonly Uint8Array[] {
  return encode({
    response: {
      $case: "immediateResponse",
      value: {
        status: { code: reply.status },
        headers: headerMutation(reply.setHeaders, []),
        body: Buffer.from(reply.body),
        grpcStatus: undefined,
        details: reply.details,
      },
    },
  });
}

function encode(response: ProcessingResponse): readonly Uint8Array[] {
  return [ProcessingResponse.encode(response).finish()];
}

function commonResponse(
  headers: Omit<HeadersReply, "phase"> | undefined,
  mutation: BodyMutationMessage | undefined,
): CommonResponse {
  return {
    status: 0,
    headerMutation: headers && headerMutation(headers.setHeaders, headers.removeHeaders),
    bodyMutation: mutation,
    trailers: undefined,
    clearRouteCache: headers?.clearRouteCache ?? false,
  };
}

function headerMutation(
  setHeaders: readonly HeaderPair[],
  removeHeaders: readonly string[],
): HeaderMutation | undefined {
  if (setHeaders.length === 0 && removeHeaders.length === 0) return undefined;
  return {
    setHeaders: setHeaders.map(([key, value]) => ({
      header: { key, value: "", rawValue: Buffer.from(value) },
      append: undefined,
      appendAction: HeaderValueOption_HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
      keepEmptyValue: false,
    })),
    removeHeaders: [...removeHeaders],
  };
}

function bodyMutation(mutation: BodyMutation): BodyMutationMessage | undefined {
  switch (mutation.kind) {
    case "streamed":
      return {
        mutation: {
          $case: "streamedResponse",
          value: { body: Buffer.concat(mutation.parts), endOfStream: mutation.endOfStream },
        },
      };
    case "replace":
      return { mutation: { $case: "body", value: Buffer.concat(mutation.parts) } };
    case "unchanged":
      return undefined;
  }
}

export const generatedCodec: Codec = { decode, encodeHeaders, encodeBody, encodeTrailers, encodeImmediate };
