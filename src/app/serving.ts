/** The port that gateways talk to: ext-proc of one pool over the chosen transport. */
import { logVerbosity, setLogVerbosity } from "@grpc/grpc-js";
import type { EppSettings } from "../commands/epp-flags.ts";
import { parseBytes } from "../data/duration.ts";
import { generatedCodec } from "../extproc/codec/generated.ts";
import { viewsCodec } from "../extproc/codec/views.ts";
import { systemClock } from "../extproc/session-deps.ts";
import { createSessionFactory, processPath, type SessionFactory } from "../extproc/session-factory.ts";
import { createGrpcJsTransport } from "../net/grpc/grpc-js-transport.ts";
import { healthCheckMethod, healthCheckPath } from "../net/grpc/health-on-transport.ts";
import { createHttp2Transport } from "../net/grpc/http2-transport.ts";
import type { GrpcTransport, GrpcTransportOptions, TlsMaterial } from "../net/grpc/transport.ts";
import { createSelfSigned, loadCertificates } from "../net/tls.ts";
import type { Pipeline } from "../pipeline/contracts.ts";
import { createAnswerReader } from "../request/answer/reader.ts";
import { createParserSet, type ParserSet } from "../request/parser-set.ts";
import { outgoingBody } from "../request/splice.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Tracing } from "../telemetry/tracing.ts";
import { watchCertificates } from "./certificate-watch.ts";
import type { Configuration } from "./configuration.ts";
import { extProcService, type HealthStatus } from "./health.ts";
import { startTraceWith } from "./request-trace.ts";
import { countingStreams } from "./stream-metrics.ts";

export interface Serving {
  readonly grpcPort: number;
  /** ext_proc streams that are open, of them those that still owe a decision, and the request bytes they hold. */
  streams(): { readonly open: number; readonly waiting: number; readonly bufferedBytes: number };
  /** No new stream; streams without a response body are released; the others have graceMs to end. */
  drain(graceMs: number): Promise<void>;
  close(): Promise<void>;
}

export interface ServingOptions {
  readonly settings: EppSettings;
  /** 0 picks a free one. */
  readonly grpcPort: number;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly configuration: Configuration;
  readonly pipeline: Pipeline;
  /** Undefined: no spans. */
  readonly tracing?: Tracing | undefined;
  /** What the health port says. */
  readonly health: HealthStatus;
}

/** Room for the headers and protobuf framing of a message that carries a whole body (BUFFERED mode). */
const messageOverheadBytes = 64 * 1024;

export async function startServing(options: ServingOptions): Promise<Serving> {
  const { settings, grpcPort, log, health } = options;
  // The library writes plain lines to stderr otherwise; what matters of them reaches onError.
  setLogVerbosity(logVerbosity.NONE);
  const sessions = createSessions(options);
  const tls = settings["secure-serving"] ? await tlsMaterial(settings) : undefined;
  const create = settings.transport === "grpc-js" ? createGrpcJsTransport : createHttp2Transport;
  const openSession = settings["enable-grpc-stream-metrics"]
    ? countingStreams(sessions.handler, options.metrics.families, () => systemClock.now())
    : sessions.handler;
  const { receiveAllowance, sendAllowance } = sessions;
  const transport = await create({
    ...transportOptions(settings, grpcPort, openSession, tls, log, health),
    receiveAllowance,
    sendAllowance,
  }).catch((error: unknown) => {
    const flag = grpcPort === settings["grpc-port"] ? "--grpc-port" : "--pool-name";
    throw new Error(`port ${grpcPort} (${flag}) cannot be bound`, { cause: error });
  });
  const certificates = await watchTls(settings, tls, transport, log);
  return {
    grpcPort: transport.port,
    streams: () => ({ open: sessions.open, waiting: sessions.waiting, bufferedBytes: sessions.bufferedBytes }),
    drain: (graceMs) => drain(transport, sessions, graceMs, log),
    async close() {
      await certificates?.close();
      sessions.close();
      await transport.close();
    },
  };
}

function createSessions({ settings, log, metrics, configuration, pipeline, tracing }: ServingOptions): SessionFactory {
  let parsers: { readonly types: readonly string[]; readonly set: ParserSet } | undefined;
  const parserSet = (): ParserSet => {
    const types = configuration.current.config.parsers;
    if (parsers?.types !== types) {
      parsers = { types, set: createParserSet(types) };
      for (const parser of parsers.set.skipped)
        log.warn({ parser }, "a parser after the fallback or named twice is skipped");
    }
    return parsers.set;
  };
  return createSessionFactory({
    codec: settings.transport === "grpc-js" ? generatedCodec : viewsCodec,
    pipeline,
    parse: (method, path, headers, body) => parserSet().parse(method, path, headers, body),
    outgoingBody,
    createAnswerReader,
    logger: log,
    onModeLacks: (what) => metrics.families.modeLacks.series(what).add(1),
    startTrace: tracing === undefined ? undefined : startTraceWith(tracing),
    limits: {
      maxRequestBodyBytes: settings["max-request-body-bytes"],
      maxBufferedBytes: settings["max-buffered-bytes"],
      maxHeaderBytes: settings["max-header-bytes"],
      maxPendingReplyBytes: Math.max(16 * 1024 * 1024, 2 * settings["max-request-body-bytes"]),
      requestTimeoutMs: settings["request-timeout"],
    },
    errorFormat: settings["error-format"] === "text" ? "text" : "openai",
    echoRequestHeaders: settings["echo-request-headers"],
    readSubset: !settings["disable-endpoint-subset-filter"],
    clock: systemClock,
  });
}

function transportOptions(
  settings: EppSettings,
  port: number,
  openSession: SessionFactory["handler"],
  tls: TlsMaterial | undefined,
  log: Logger,
  health: HealthStatus,
): GrpcTransportOptions {
  const send = settings["grpc-max-send-msg-size"];
  const receive = settings["grpc-max-recv-msg-size"];
  return {
    host: settings["bind-address"],
    port,
    tls,
    maxMessageBytes: parseBytes(receive) ?? settings["max-request-body-bytes"] + messageOverheadBytes,
    maxSendMessageBytes: parseBytes(send),
    maxStreamsPerConnection: settings["max-streams-per-connection"],
    maxHeaderBytes: settings["max-header-bytes"],
    idleTimeoutMs: 0,
    methods: new Map([
      [processPath, openSession],
      ...(settings["health-checking"] ? [[healthCheckPath, healthCheckMethod(statusHere(health))] as const] : []),
    ]),
    onError: (error, what) => log.warn({ error, what }, "the transport reports a fault"),
  };
}

/** As the reference, the ext-proc port says SERVING of itself; asked for another name, it answers as the health port does. */
function statusHere(health: HealthStatus): HealthStatus {
  return (service) => (service === extProcService ? "SERVING" : health(service));
}

function tlsOptions(settings: EppSettings): Pick<TlsMaterial, "minVersion" | "ciphers"> {
  return {
    ...(settings["tls-min-version"] === "VersionTLS13" ? { minVersion: "TLSv1.3" as const } : {}),
    ...(settings["tls-cipher-suites"].length === 0 ? {} : { ciphers: settings["tls-cipher-suites"].join(":") }),
  };
}

async function tlsMaterial(settings: EppSettings): Promise<TlsMaterial> {
  const folder = settings["cert-path"];
  const material = folder === "" ? await createSelfSigned() : await loadCertificates(folder);
  return { ...material, ...tlsOptions(settings) };
}

async function watchTls(
  settings: EppSettings,
  current: TlsMaterial | undefined,
  transport: GrpcTransport,
  log: Logger,
) {
  const folder = settings["cert-path"];
  if (current === undefined || folder === "" || !settings["enable-cert-reload"]) return undefined;
  return await watchCertificates(
    folder,
    (material) => {
      transport.setTls({ ...material, ...tlsOptions(settings) });
      log.info({ folder }, "the certificate was replaced");
    },
    (error) => log.error({ error, folder }, "the new certificate is refused; the last good one stays"),
    { current, ...tlsOptions(settings) },
  );
}

/** How long the refusals of the end may take to reach gateways. */
const refusalsLeaveMs = 1_000;

async function drain(transport: GrpcTransport, sessions: SessionFactory, graceMs: number, log: Logger): Promise<void> {
  const drained = transport.drain();
  sessions.releaseBodyless();
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<"expired">((resolve) => {
    timer = setTimeout(() => resolve("expired"), graceMs);
  });
  const outcome = await Promise.race([drained.then(() => "drained" as const), expired]);
  clearTimeout(timer);
  if (outcome === "drained") return;
  log.warn({ streams: sessions.open, graceMs }, "the drain grace is over; open streams are ended");
  sessions.close();
  // What waited has its refusal in the socket's buffer: connections closed now would take it with them.
  await Promise.race([drained, new Promise((resolve) => setTimeout(resolve, refusalsLeaveMs).unref())]);
}
