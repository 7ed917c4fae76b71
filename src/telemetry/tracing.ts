/**
 * Spans of requests through the OpenTelemetry SDK, which is only loaded when the environment asks for spans. Whether a request is traced is
 * decided before anything is made for it: one that is not costs a look at its traceparent and, without a parent, one random number.
 */
import type { Context, Span, Tracer } from "@opentelemetry/api";
import type { SpanExporter } from "@opentelemetry/sdk-trace-node";
import type { Logger } from "./log.ts";
import { encodeTraceparent, parseTraceparent, type RemoteContext } from "./trace-context.ts";
import { type TraceSettings, traceSettingsFrom } from "./trace-settings.ts";

export type SpanAttributes = Readonly<Record<string, string | number | boolean>>;

/** A span that is recorded. Times are milliseconds of performance.now(). */
export interface TraceSpan {
  child(name: string, startMs: number, attributes?: SpanAttributes): TraceSpan;
  set(attributes: SpanAttributes): void;
  /** At most once. `error`: a stable code, never text of a request. */
  end(atMs: number, error?: string): void;
}

/** The span of one request, and the headers that carry its context on. */
export interface TracedRequest {
  readonly span: TraceSpan;
  readonly headers: readonly (readonly [name: string, value: string])[];
}

type Headers = Pick<ReadonlyMap<string, string>, "get">;

export interface Tracing {
  /**
   * Undefined when the request is not traced: then its own trace headers pass through untouched. A traced one gets a new `traceparent`;
   * `tracestate` and `baggage` are not changed and so pass through as well.
   */
  start(headers: Headers, receivedAtMs: number): TracedRequest | undefined;
  /** Sends what is left, for at most a few seconds. */
  close(): Promise<void>;
}

export interface TracingOptions {
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly version: string;
  readonly log: Logger;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  /** In place of the exporter that the environment names. */
  readonly exporter?: SpanExporter;
}

/** Undefined where the environment asks for no spans. */
export async function createTracing(options: TracingOptions): Promise<Tracing | undefined> {
  const settings = traceSettingsFrom(options.environment);
  if (settings === undefined) return undefined;
  for (const warning of settings.warnings) options.log.warn({}, warning);
  const api = await import("@opentelemetry/api");
  const sdk = await import("@opentelemetry/sdk-trace-node");
  const { resourceFromAttributes } = await import("@opentelemetry/resources");
  api.diag.setLogger(diagnosticsTo(options.log), api.DiagLogLevel.WARN);
  const exporter = options.exporter ?? (await exporterOf(settings));
  const provider = new sdk.BasicTracerProvider({
    resource: resourceFromAttributes(settings.resource),
    spanLimits: { attributeValueLengthLimit: valueLimitOf(options.environment) },
    // Only requests that are to be traced get as far as the SDK.
    sampler: new sdk.AlwaysOnSampler(),
    spanProcessors: [new sdk.BatchSpanProcessor(exporter)],
  });
  const tracer = provider.getTracer("signalbox", options.version);
  const { random } = options;
  const parentOf = (remote: RemoteContext, state: string | undefined): Context =>
    api.trace.setSpanContext(api.ROOT_CONTEXT, {
      traceId: remote.traceId,
      spanId: remote.spanId,
      traceFlags: remote.isSampled ? api.TraceFlags.SAMPLED : api.TraceFlags.NONE,
      isRemote: true,
      ...(state === undefined ? {} : { traceState: api.createTraceState(state) }),
    });
  return {
    start(headers, receivedAtMs) {
      const remote = parseTraceparent(headers.get("traceparent"));
      const follows = remote !== undefined && settings.followsParent;
      if (follows ? !remote.isSampled : !(random() < settings.rootRatio)) return undefined;
      const state = headers.get("tracestate");
      const parent = remote === undefined ? api.ROOT_CONTEXT : parentOf(remote, state);
      const attributes = requestAttributes(headers);
      const started = { kind: api.SpanKind.SERVER, startTime: epochMs(receivedAtMs), attributes };
      const span = tracer.startSpan("gateway.request", started, parent);
      const { traceId, spanId } = span.spanContext();
      const traceparent = ["traceparent", encodeTraceparent(traceId, spanId)] as const;
      // A state without a valid parent belongs to nothing (Trace Context §3.3); an empty one is valid.
      const isOrphan = remote === undefined && state !== undefined;
      return {
        span: new SdkSpan(tracer, span, api.trace.setSpan(api.ROOT_CONTEXT, span), api),
        headers: isOrphan ? [traceparent, ["tracestate", ""]] : [traceparent],
      };
    },
    async close() {
      await withinMs(closeWithinMs, provider.shutdown()).catch((error: unknown) => {
        options.log.warn({ error }, "the last spans could not be sent");
      });
    },
  };
}

const closeWithinMs = 5_000;
/** Names that clients choose are attributes too, and a header may be 64 KiB. */
const maxValueLength = 512;

function valueLimitOf(environment: TracingOptions["environment"]): number {
  const given = Number(environment["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"] || Number.NaN);
  return Number.isSafeInteger(given) && given > 0 ? given : maxValueLength;
}

type Api = typeof import("@opentelemetry/api");

class SdkSpan implements TraceSpan {
  readonly #tracer: Tracer;
  readonly #span: Span;
  readonly #context: Context;
  readonly #api: Api;

  constructor(tracer: Tracer, span: Span, context: Context, api: Api) {
    this.#tracer = tracer;
    this.#span = span;
    this.#context = context;
    this.#api = api;
  }

  child(name: string, startMs: number, attributes: SpanAttributes = {}): TraceSpan {
    const span = this.#tracer.startSpan(name, { startTime: epochMs(startMs), attributes }, this.#context);
    return new SdkSpan(this.#tracer, span, this.#api.trace.setSpan(this.#context, span), this.#api);
  }

  set(attributes: SpanAttributes): void {
    this.#span.setAttributes(attributes);
  }

  end(atMs: number, error?: string): void {
    if (!this.#span.isRecording()) return;
    if (error !== undefined) {
      this.#span.setAttribute("error.type", error);
      this.#span.setStatus({ code: this.#api.SpanStatusCode.ERROR });
    }
    this.#span.end(epochMs(atMs));
  }
}

/** One anchor for every span, so that parents contain their children exactly. */
function epochMs(monotonicMs: number): number {
  return performance.timeOrigin + monotonicMs;
}

/** What the headers say of the request; the path without its query, which may hold anything. */
function requestAttributes(headers: Headers): SpanAttributes {
  const path = headers.get(":path") ?? "";
  const query = path.indexOf("?");
  const id = headers.get("x-request-id");
  return {
    "http.request.method": headers.get(":method") ?? "POST",
    "url.path": query < 0 ? path : path.slice(0, query),
    ...(id === undefined || id === "" ? {} : { "gateway.request.id": id }),
  };
}

async function exporterOf(settings: TraceSettings): Promise<SpanExporter> {
  if (settings.exporter === "console") {
    const { ConsoleSpanExporter } = await import("@opentelemetry/sdk-trace-node");
    return new ConsoleSpanExporter();
  }
  const { OTLPTraceExporter } = await import("@opentelemetry/exporter-trace-otlp-grpc");
  return new OTLPTraceExporter(settings.endpoint === undefined ? {} : { url: settings.endpoint });
}

const repeatAfterMs = 60_000;

/** A collector that is away fails every export: each message is written once a minute at most. */
function diagnosticsTo(log: Logger) {
  const writtenAt = new Map<string, number>();
  const write = (message: string, ...details: unknown[]): void => {
    const now = performance.now();
    // The SDK puts whole errors with stacks into the message.
    const short = message.slice(0, 200);
    if (now - (writtenAt.get(short) ?? Number.NEGATIVE_INFINITY) < repeatAfterMs) return;
    if (writtenAt.size >= 64) writtenAt.clear();
    writtenAt.set(short, now);
    log.warn({ message: message.slice(0, 2_000), details: details.map(String) }, "OpenTelemetry reports a fault");
  };
  const nothing = (): void => {};
  return { error: write, warn: write, info: nothing, debug: nothing, verbose: nothing };
}

async function withinMs(ms: number, promise: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms`)), ms);
  });
  try {
    await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
