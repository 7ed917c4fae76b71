/** A gateway's side of ext_proc for tests: messages as literals in, replies as plain readable values out. */
import { type ChannelCredentials, credentials, status } from "@grpc/grpc-js";
import {
  type BodyResponse,
  ExternalProcessorClient,
  type HeaderMutation,
  type HeadersResponse,
  type ProcessingRequest,
  type ProcessingResponse,
  type ProtocolConfiguration,
} from "../../src/gen/external_processor.ts";

type Pairs = Readonly<Record<string, string>>;

export interface MessageOptions {
  readonly endOfStream?: boolean;
  /** Entries of the subset hint; undefined sends none. */
  readonly subset?: readonly string[] | undefined;
  /** Header values in `raw_value`, as Envoy writes them, rather than in `value`. */
  readonly raw?: boolean;
  readonly protocolConfig?: ProtocolConfiguration;
}

function message(request: ProcessingRequest["request"], options: MessageOptions = {}): ProcessingRequest {
  const { subset, protocolConfig } = options;
  return {
    request,
    attributes: {},
    observabilityMode: false,
    ...(protocolConfig === undefined ? {} : { protocolConfig }),
    metadataContext: {
      filterMetadata:
        subset === undefined
          ? {}
          : { "envoy.lb.subset_hint": { "x-gateway-destination-endpoint-subset": [...subset] } },
    },
  };
}

function headerMap(pairs: Pairs, isRaw: boolean) {
  const headers = Object.entries(pairs).map(([key, text]) =>
    isRaw ? { key, value: "", rawValue: Buffer.from(text) } : { key, value: text, rawValue: Buffer.alloc(0) },
  );
  return { headers };
}

export function requestHeaders(pairs: Pairs, options: MessageOptions = {}): ProcessingRequest {
  const headers = headerMap(pairs, options.raw ?? false);
  return message({ $case: "requestHeaders", value: { headers, endOfStream: options.endOfStream ?? false } }, options);
}

export function responseHeaders(pairs: Pairs, options: MessageOptions = {}): ProcessingRequest {
  const headers = headerMap(pairs, options.raw ?? true);
  return message({ $case: "responseHeaders", value: { headers, endOfStream: options.endOfStream ?? false } }, options);
}

function body(bytes: string | Buffer, endOfStream: boolean) {
  return { body: Buffer.from(bytes), endOfStream, endOfStreamWithoutMessage: false, grpcMessageCompressed: false };
}

export function requestBody(bytes: string | Buffer, options: MessageOptions = {}): ProcessingRequest {
  return message({ $case: "requestBody", value: body(bytes, options.endOfStream ?? true) }, options);
}

export function responseBody(bytes: string | Buffer, options: MessageOptions = {}): ProcessingRequest {
  return message({ $case: "responseBody", value: body(bytes, options.endOfStream ?? false) }, options);
}

export const requestTrailers: ProcessingRequest = message({ $case: "requestTrailers", value: {} });
export const responseTrailers: ProcessingRequest = message({ $case: "responseTrailers", value: {} });

export interface StreamedBody {
  readonly kind: "requestBody" | "responseBody";
  readonly body: string;
  readonly endOfStream: boolean;
}

/** What a reply says. Header values must have come in `raw_value`: the reference writes nothing else. */
export type Reply =
  | {
      readonly kind: "requestHeaders" | "responseHeaders";
      readonly set: Pairs;
      readonly remove: readonly string[];
      readonly clearRouteCache: boolean;
      readonly metadata: unknown;
    }
  | StreamedBody
  /** A body reply that is no stream: of a buffered body, replaced or (undefined) left alone. */
  | {
      readonly kind: "wholeRequestBody" | "wholeResponseBody";
      readonly set: Pairs;
      readonly body: string | undefined;
      readonly metadata: unknown;
    }
  | { readonly kind: "requestTrailers" | "responseTrailers" | "none" }
  | { readonly kind: "immediate"; readonly status: number; readonly set: Pairs; readonly body: string };

function pairsOf(mutation: HeaderMutation | undefined): Pairs {
  const pairs: Record<string, string> = {};
  for (const { header } of mutation?.setHeaders ?? []) {
    if (header === undefined) throw new Error("a header option without a header");
    if (header.value !== "") throw new Error(`${header.key} is in value, not in raw_value`);
    if (header.key in pairs) throw new Error(`${header.key} is set twice`);
    pairs[header.key] = header.rawValue.toString("utf8");
  }
  return pairs;
}

function headersReply(kind: "requestHeaders" | "responseHeaders", value: HeadersResponse, metadata: unknown): Reply {
  const common = value.response;
  return {
    kind,
    set: pairsOf(common?.headerMutation),
    remove: common?.headerMutation?.removeHeaders ?? [],
    clearRouteCache: common?.clearRouteCache ?? false,
    metadata,
  };
}

function bodyReply(kind: "requestBody" | "responseBody", value: BodyResponse, metadata: unknown): Reply {
  const mutation = value.response?.bodyMutation?.mutation;
  if (mutation?.$case === "streamedResponse") {
    return { kind, body: mutation.value.body.toString("utf8"), endOfStream: mutation.value.endOfStream };
  }
  return {
    kind: kind === "requestBody" ? "wholeRequestBody" : "wholeResponseBody",
    set: pairsOf(value.response?.headerMutation),
    body: mutation?.$case === "body" ? mutation.value.toString("utf8") : undefined,
    metadata,
  };
}

function replyOf({ response, dynamicMetadata }: ProcessingResponse): Reply {
  switch (response?.$case) {
    case undefined:
      return { kind: "none" };
    case "requestHeaders":
    case "responseHeaders":
      return headersReply(response.$case, response.value, dynamicMetadata);
    case "requestBody":
    case "responseBody":
      return bodyReply(response.$case, response.value, dynamicMetadata);
    case "requestTrailers":
    case "responseTrailers":
      return { kind: response.$case };
    case "immediateResponse": {
      const { status: http, headers, body: bytes } = response.value;
      return { kind: "immediate", status: http?.code ?? 0, set: pairsOf(headers), body: bytes.toString("utf8") };
    }
  }
}

function streamedSizeOf({ response }: ProcessingResponse): readonly number[] {
  if (response?.$case !== "requestBody" && response?.$case !== "responseBody") return [];
  const mutation = response.value.response?.bodyMutation?.mutation;
  return mutation?.$case === "streamedResponse" ? [mutation.value.body.length] : [];
}

export interface Conversation {
  readonly replies: readonly Reply[];
  /** Bytes of each streamed body reply, in order. */
  readonly bodySizes: readonly number[];
  /** gRPC status the picker ended the stream with; undefined while it is open. */
  readonly status: number | undefined;
  send(...messages: readonly ProcessingRequest[]): void;
  /** Resolves when so many replies are there or the stream is over; fails at its deadline. */
  replied(count: number): Promise<readonly Reply[]>;
  ended(): Promise<number>;
  halfClose(): void;
  cancel(): void;
}

export interface ExtProc {
  open(): Conversation;
  /** Sends the messages, waits for `count` replies or the end, and resets the stream, as Envoy does when an answer is over. */
  exchange(messages: readonly ProcessingRequest[], count: number): Promise<readonly Reply[]>;
  /** Sends one message of these bytes; resolves with the status that the call ends with. */
  garbage(bytes: Buffer, path?: string): Promise<number>;
  close(): void;
}

const processPath = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
const replyDeadlineMs = 10_000;

export function connectExtProc(port: number, isTls: boolean, host = "127.0.0.1"): ExtProc {
  const client = new ExternalProcessorClient(
    `${host}:${port}`,
    isTls ? anyCertificate() : credentials.createInsecure(),
    {
      "grpc.max_receive_message_length": -1,
      "grpc.max_send_message_length": -1,
      "grpc.ssl_target_name_override": "localhost",
    },
  );
  const open = (): Conversation => converse(client);
  return {
    open,
    async exchange(messages, count) {
      const conversation = open();
      try {
        conversation.send(...messages);
        return await conversation.replied(count);
      } finally {
        conversation.cancel();
      }
    },
    garbage: (bytes, path = processPath) => {
      const same = (value: Buffer): Buffer => value;
      const call = client.makeBidiStreamRequest(path, same, same);
      call.on("data", () => {});
      call.on("error", () => {});
      call.write(bytes);
      return new Promise((resolve) => call.on("status", ({ code }) => resolve(code)));
    },
    close: () => client.close(),
  };
}

/** Gateways do not verify the picker's self-signed certificate either. */
function anyCertificate(): ChannelCredentials {
  return credentials.createSsl(null, null, null, { rejectUnauthorized: false });
}

function converse(client: ExternalProcessorClient): Conversation {
  const call = client.process();
  const replies: Reply[] = [];
  const bodySizes: number[] = [];
  let ended: number | undefined;
  let failure: unknown;
  let wake = (): void => {};
  call.on("data", (response: ProcessingResponse) => {
    try {
      replies.push(replyOf(response));
      bodySizes.push(...streamedSizeOf(response));
    } catch (error) {
      failure = error;
    }
    wake();
  });
  call.on("error", () => {});
  call.on("status", ({ code }) => {
    ended = code;
    wake();
  });
  const until = async (what: string, done: () => boolean): Promise<void> => {
    const deadline = performance.now() + replyDeadlineMs;
    while (!done() && failure === undefined) {
      const leftMs = deadline - performance.now();
      if (leftMs <= 0)
        throw new Error(`${what} did not come within ${replyDeadlineMs} ms; replies: ${JSON.stringify(replies)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs);
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    if (failure !== undefined) throw failure;
  };
  return {
    replies,
    bodySizes,
    get status() {
      return ended;
    },
    send(...messages) {
      for (const one of messages) call.write(one);
    },
    async replied(count) {
      await until(`reply ${count}`, () => replies.length >= count || ended !== undefined);
      return replies;
    },
    async ended() {
      await until("the end of the stream", () => ended !== undefined);
      return ended ?? status.UNKNOWN;
    },
    halfClose: () => call.end(),
    cancel: () => call.cancel(),
  };
}
