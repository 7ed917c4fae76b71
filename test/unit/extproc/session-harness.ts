/** A session factory over literal collaborators: messages go in as the generated code encodes them, replies come out as it decodes them. */
import type { Endpoint } from "../../../src/data/endpoint.ts";
import { endpointName, hostPortOf, noMetrics } from "../../../src/data/endpoint.ts";
import { viewsCodec } from "../../../src/extproc/codec/views.ts";
import type { BodyMode } from "../../../src/extproc/messages.ts";
import { defaultSessionLimits, type EndCause, type SessionDeps } from "../../../src/extproc/session-deps.ts";
import { createSessionFactory, type SessionFactory } from "../../../src/extproc/session-factory.ts";
import {
  type HeaderMap,
  ProcessingRequest,
  ProcessingResponse,
  ProtocolConfiguration_BodySendMode,
} from "../../../src/gen/external_processor.ts";
import type { GrpcStream, GrpcStreamHandler, StreamCloseCause } from "../../../src/net/grpc/transport.ts";
import type { Decision, Header, PendingDecision, Pipeline, Subset } from "../../../src/pipeline/contracts.ts";
import type { InferenceRequest } from "../../../src/request/inference-request.ts";
import type { ParsedBody } from "../../../src/request/parsed-body.ts";
import { type Rejection, reject } from "../../../src/request/rejection.ts";
import type { Usage } from "../../../src/request/usage.ts";
import type { Logger } from "../../../src/telemetry/log.ts";

export type Response = NonNullable<ProcessingResponse["response"]>;

export function endpoint(address: string, port = 8000): Endpoint {
  return {
    name: endpointName("default", `${address}-${port}`),
    namespace: "default",
    slot: 0,
    generation: 1,
    address,
    port,
    hostPort: hostPortOf(address, port),
    labels: new Map(),
    metrics: noMetrics,
    load: { requests: 0, tokens: 0 },
    attributes: new Map(),
  };
}

export const opaque: ParsedBody = {
  api: "openai-chat",
  parser: "openai-parser",
  model: "",
  modelRange: undefined,
  stream: false,
  maxOutputTokens: undefined,
  user: undefined,
  cacheSalt: undefined,
  nvextRange: undefined,
  prompt: { kind: "opaque" },
  readsResponse: true,
};

/** What happened to one exchange, in order. */
export type ExchangeEvent =
  | { readonly kind: "headers"; readonly status: number; readonly served: string | undefined }
  | { readonly kind: "firstByte"; readonly approximate: boolean }
  | { readonly kind: "chunk"; readonly sizeBytes: number }
  | { readonly kind: "usage"; readonly usage: Usage }
  | { readonly kind: "end"; readonly cause: EndCause };

export interface Decided {
  readonly request: InferenceRequest;
  readonly subset: Subset;
  readonly bodyLength: number;
  readonly bodyless: boolean;
  readonly exchange: ExchangeEvent[];
  /** Set once cancelled. */
  cancelled: EndCause | undefined;
  /** Decides a request that was left pending. */
  finish(): void;
}

export interface FakePipeline extends Pipeline {
  readonly decided: Decided[];
  readonly refusals: { readonly rejection: Rejection; readonly model: string }[];
}

export interface PipelineOptions {
  /** Leaves decisions pending until `finish`. */
  readonly pending?: boolean;
  readonly destinations?: readonly Endpoint[];
  readonly setHeaders?: readonly Header[];
  readonly responseHeaders?: readonly Header[];
  readonly scores?: ReadonlyMap<string, number>;
  /** Rewrites the model before it leaves. */
  readonly rewriteTo?: string;
  readonly rejection?: Rejection;
  readonly throws?: boolean;
  /** Breaks its contract: decides after a cancellation. */
  readonly ignoresCancel?: boolean;
}

export function fakePipeline(options: PipelineOptions = {}): FakePipeline {
  const decided: Decided[] = [];
  const refusals: { rejection: Rejection; model: string }[] = [];
  const destinations = options.destinations ?? [endpoint("10.0.0.1")];
  const decision = (request: InferenceRequest, events: ExchangeEvent[]): Decision => {
    if (options.rejection !== undefined) return { kind: "rejected", rejection: options.rejection };
    if (options.rewriteTo !== undefined) request.targetModel = options.rewriteTo;
    return {
      kind: "routed",
      destinations,
      setHeaders: options.setHeaders ?? [],
      scores: options.scores,
      exchange: {
        request,
        destination: destinations[0] ?? endpoint("10.0.0.1"),
        responseHeaders: (status, served) => {
          events.push({ kind: "headers", status, served });
          return options.responseHeaders ?? [];
        },
        firstByte: (approximate) => events.push({ kind: "firstByte", approximate }),
        chunk: (sizeBytes) => events.push({ kind: "chunk", sizeBytes }),
        usage: (usage) => events.push({ kind: "usage", usage }),
        end: (cause) => events.push({ kind: "end", cause }),
      },
    };
  };
  const begin = (request: InferenceRequest, subset: Subset, bodyless: boolean): Decided => {
    const entry: Decided = {
      request,
      subset,
      bodyLength: request.body.length,
      bodyless,
      exchange: [],
      cancelled: undefined,
      finish: () => {},
    };
    decided.push(entry);
    return entry;
  };
  return {
    decided,
    refusals,
    decide: (request, subset, done): PendingDecision => {
      if (options.throws === true) throw new Error("a plugin broke");
      const entry = begin(request, subset, false);
      let open = true;
      entry.finish = () => {
        if (!open) return;
        open = false;
        done(decision(request, entry.exchange));
      };
      if (options.pending !== true) entry.finish();
      return {
        cancel: (cause) => {
          if (!open) return;
          open = options.ignoresCancel === true;
          entry.cancelled = cause;
        },
      };
    },
    decideBodyless: (request, subset) => decision(request, begin(request, subset, true).exchange),
    refused: (rejection, model) => refusals.push({ rejection, model }),
  };
}

/** Knows JSON with a model and a stream flag; anything else is refused. */
export function parseJson(_method: string, _path: string, _headers: unknown, body: Buffer): ParsedBody | Rejection {
  try {
    const value = JSON.parse(body.toString()) as { model?: string; stream?: boolean };
    return { ...opaque, model: value.model ?? "", stream: value.stream === true };
  } catch {
    return reject("BadRequest", "the body is not valid JSON", { errorCode: "invalid_json" });
  }
}

function spliceModel(request: InferenceRequest): readonly Buffer[] {
  if (request.targetModel === request.parsed.model) return [request.body];
  const at = request.body.indexOf(`"${request.parsed.model}"`);
  return [
    request.body.subarray(0, at),
    Buffer.from(`"${request.targetModel}"`),
    request.body.subarray(at + request.parsed.model.length + 2),
  ];
}

/** Restores a model name within one push and reads `"usage":N`; the real reader is tested on its own. */
const createWordReader: SessionDeps["createAnswerReader"] = ({ restoreModel }) => {
  let seen = "";
  return {
    push: (chunk) => {
      const text = chunk.toString("latin1");
      seen += text;
      if (restoreModel === undefined || !text.includes(restoreModel.from)) return [chunk];
      return [Buffer.from(text.replaceAll(restoreModel.from, restoreModel.to), "latin1")];
    },
    usage: () => {
      const tokens = /"usage":(\d+)/.exec(seen)?.[1];
      if (tokens === undefined) return undefined;
      return {
        promptTokens: Number(tokens),
        completionTokens: undefined,
        totalTokens: undefined,
        cachedTokens: undefined,
      };
    },
  };
};

export interface LogLine {
  readonly level: string;
  readonly message: string;
}

function recordingLogger(lines: LogLine[]): Logger {
  const at =
    (level: string) =>
    (_fields: unknown, message: string): void => {
      lines.push({ level, message });
    };
  const logger: Logger = {
    error: at("error"),
    warn: at("warn"),
    info: at("info"),
    debug: at("debug"),
    trace: at("trace"),
    isLevelEnabled: () => true,
    child: () => logger,
  };
  return logger;
}

export type StreamEvent =
  | { readonly kind: "reply"; readonly reply: ProcessingResponse }
  | { readonly kind: "end"; readonly status: number }
  | { readonly kind: "reset" };

export class FakeStream implements GrpcStream {
  readonly events: StreamEvent[] = [];
  pendingBytes = 0;
  metadata(): undefined {
    return undefined;
  }
  send(parts: readonly Uint8Array[]): void {
    this.events.push({ kind: "reply", reply: ProcessingResponse.decode(Buffer.concat(parts)) });
  }
  end(status: number): void {
    this.events.push({ kind: "end", status });
  }
  reset(): void {
    this.events.push({ kind: "reset" });
  }
  get replies(): readonly ProcessingResponse[] {
    return this.events.flatMap((event) => (event.kind === "reply" ? [event.reply] : []));
  }
  /** The kinds of replies, and how the stream ended. */
  get shape(): readonly string[] {
    return this.events.map((event) => {
      if (event.kind === "reply") return event.reply.response?.$case ?? "none";
      return event.kind === "end" ? `end ${event.status}` : "reset";
    });
  }
}

export interface MessageOptions {
  readonly modes?: readonly [request: BodyMode, response: BodyMode];
  readonly metadata?: { readonly [namespace: string]: { readonly [key: string]: unknown } };
  readonly observability?: boolean;
}

export type HeaderList = Readonly<Record<string, string>> | readonly (readonly [name: string, value: string])[];

function headerMap(headers: HeaderList): HeaderMap {
  const pairs = Array.isArray(headers) ? headers : Object.entries(headers);
  return { headers: pairs.map(([key, value]) => ({ key, value: "", rawValue: Buffer.from(value) })) };
}

export function encodeMessage(
  request: NonNullable<ProcessingRequest["request"]>,
  options: MessageOptions = {},
): Buffer {
  const message: ProcessingRequest = {
    request,
    attributes: {},
    observabilityMode: options.observability ?? false,
    metadataContext: { filterMetadata: { ...options.metadata } },
    protocolConfig:
      options.modes === undefined
        ? undefined
        : {
            requestBodyMode: ProtocolConfiguration_BodySendMode[options.modes[0]],
            responseBodyMode: ProtocolConfiguration_BodySendMode[options.modes[1]],
            sendBodyWithoutWaitingForHeaderResponse: false,
          },
  };
  return Buffer.from(ProcessingRequest.encode(message).finish());
}

export const postHeaders = {
  ":method": "POST",
  ":path": "/v1/chat/completions?x=1",
  "content-type": "application/json",
  "x-request-id": "r-1",
};

export interface Opened {
  readonly stream: FakeStream;
  readonly handler: GrpcStreamHandler;
  readonly requestHeaders: (headers?: HeaderList, endOfStream?: boolean, options?: MessageOptions) => void;
  readonly requestBody: (body: string | Buffer, endOfStream: boolean, options?: MessageOptions) => void;
  readonly requestTrailers: () => void;
  readonly responseHeaders: (headers?: HeaderList, endOfStream?: boolean, options?: MessageOptions) => void;
  readonly responseBody: (body: string | Buffer, endOfStream: boolean) => void;
  readonly responseTrailers: () => void;
  /** Headers and body of a request that is then routed. */
  readonly post: (body?: string | Buffer, options?: MessageOptions) => void;
  readonly close: (cause: StreamCloseCause) => void;
}

export interface Harness {
  readonly factory: SessionFactory;
  readonly pipeline: FakePipeline;
  readonly log: LogLine[];
  readonly lacks: string[];
  /** Moves the clock and runs the sweep as the timer would. */
  readonly advance: (ms: number) => void;
  readonly open: () => Opened;
}

export interface HarnessOptions extends PipelineOptions {
  readonly deps?: Partial<SessionDeps>;
  readonly limits?: Partial<SessionDeps["limits"]>;
}

export function harness(options: HarnessOptions = {}): Harness {
  const pipeline = fakePipeline(options);
  const log: LogLine[] = [];
  const lacks: string[] = [];
  let nowMs = 1_000;
  let tick = (): void => {};
  const factory = createSessionFactory({
    codec: viewsCodec,
    pipeline,
    parse: parseJson,
    outgoingBody: spliceModel,
    createAnswerReader: createWordReader,
    logger: recordingLogger(log),
    onModeLacks: (what) => lacks.push(what),
    startTrace: undefined,
    limits: { ...defaultSessionLimits, ...options.limits },
    errorFormat: "openai",
    echoRequestHeaders: false,
    readSubset: true,
    clock: {
      now: () => nowMs,
      every: (_ms, run) => {
        tick = run;
        return () => {
          tick = () => {};
        };
      },
    },
    ...options.deps,
  });
  return {
    factory,
    pipeline,
    log,
    lacks,
    advance: (ms) => {
      nowMs += ms;
      tick();
    },
    open: () => openOn(factory),
  };
}

function openOn(factory: SessionFactory): Opened {
  const stream = new FakeStream();
  const handler = factory.handler(stream);
  const opened: Opened = {
    stream,
    handler,
    requestHeaders: (headers = postHeaders, endOfStream = false, options = {}) =>
      handler.message(
        encodeMessage({ $case: "requestHeaders", value: { headers: headerMap(headers), endOfStream } }, options),
      ),
    requestBody: (body, endOfStream, options = {}) =>
      handler.message(encodeMessage({ $case: "requestBody", value: bodyOf(body, endOfStream) }, options)),
    requestTrailers: () =>
      handler.message(encodeMessage({ $case: "requestTrailers", value: { trailers: headerMap({ "x-sum": "1" }) } })),
    responseHeaders: (
      headers = { ":status": "200", "content-type": "application/json" },
      endOfStream = false,
      options = {},
    ) =>
      handler.message(
        encodeMessage({ $case: "responseHeaders", value: { headers: headerMap(headers), endOfStream } }, options),
      ),
    responseBody: (body, endOfStream) =>
      handler.message(encodeMessage({ $case: "responseBody", value: bodyOf(body, endOfStream) })),
    responseTrailers: () =>
      handler.message(encodeMessage({ $case: "responseTrailers", value: { trailers: headerMap({}) } })),
    post: (body = '{"model":"llama"}', options = {}) => {
      opened.requestHeaders(postHeaders, false, options);
      opened.requestBody(body, true, options);
    },
    close: (cause) => handler.closed(cause),
  };
  return opened;
}

function bodyOf(body: string | Buffer, endOfStream: boolean) {
  return {
    body: Buffer.from(body as string),
    endOfStream,
    endOfStreamWithoutMessage: false,
    grpcMessageCompressed: false,
  };
}

/** Headers that a reply sets, by name. */
export function setHeadersOf(reply: ProcessingResponse | undefined): Record<string, string> {
  const response = reply?.response;
  const mutation =
    response?.$case === "immediateResponse"
      ? response.value.headers
      : response?.$case === "requestHeaders" ||
          response?.$case === "responseHeaders" ||
          response?.$case === "requestBody" ||
          response?.$case === "responseBody"
        ? response.value.response?.headerMutation
        : undefined;
  return Object.fromEntries(
    (mutation?.setHeaders ?? []).map((option) => [option.header?.key ?? "", option.header?.rawValue.toString() ?? ""]),
  );
}

export function removedHeadersOf(reply: ProcessingResponse | undefined): readonly string[] {
  const response = reply?.response;
  if (
    response?.$case !== "requestHeaders" &&
    response?.$case !== "responseHeaders" &&
    response?.$case !== "requestBody"
  )
    return [];
  return response.value.response?.headerMutation?.removeHeaders ?? [];
}

export interface SeenChunk {
  readonly body: string;
  readonly endOfStream: boolean;
}

/** Streamed body replies of one phase, in order. */
export function chunksOf(stream: FakeStream, phase: "requestBody" | "responseBody"): readonly SeenChunk[] {
  return stream.replies.flatMap((reply) => {
    const response = reply.response;
    if (response?.$case !== phase) return [];
    const mutation = response.value.response?.bodyMutation?.mutation;
    if (mutation?.$case !== "streamedResponse") return [];
    return [{ body: mutation.value.body.toString("latin1"), endOfStream: mutation.value.endOfStream }];
  });
}

export function immediateOf(stream: FakeStream) {
  const reply = stream.replies.find((candidate) => candidate.response?.$case === "immediateResponse");
  if (reply?.response?.$case !== "immediateResponse") return undefined;
  const value = reply.response.value;
  return { status: value.status?.code ?? 0, headers: setHeadersOf(reply), body: value.body.toString() };
}

export function endsOf(decided: Decided | undefined): readonly EndCause[] {
  return (decided?.exchange ?? []).flatMap((event) => (event.kind === "end" ? [event.cause] : []));
}
