/**
 * The response phase of one stream: answers every message at once, reads usage and restores the model's name on the way, and ends the
 * exchange exactly once. Which endings count as a finished answer depends on the body mode:
 *
 *   mode        finished when                                   otherwise
 *   NONE        stream ends after the response headers          client gone
 *   any other   the body's end of stream or trailers came       client gone
 *
 * With NONE a client that leaves half way cannot be told from a finished answer: both are the end of the stream.
 */

import type { GrpcStream, StreamCloseCause } from "../net/grpc/transport.ts";
import type { Exchange } from "../pipeline/contracts.ts";
import type { AnswerReader } from "../request/answer-reader.ts";
import type { BodyMode, HeaderPair, Incoming } from "./messages.ts";
import { destinationNamespace, isSystemHeader, servedKey } from "./names.ts";
import { encodeWholeBody, isEchoable, noNames, proofPair, sendChunks } from "./replies.ts";
import type { EndCause } from "./session-deps.ts";
import type { SessionShared } from "./session-shared.ts";

const noBytes = Buffer.alloc(0);
const contentLengthName: readonly string[] = ["content-length"];

export class AnswerPhase {
  readonly #stream: GrpcStream;
  readonly #shared: SessionShared;
  readonly #mode: BodyMode;
  /** Undefined where the stream has no request phase, and after the end. */
  #exchange: Exchange | undefined;
  #reader: AnswerReader | undefined;
  #readerMade: boolean;
  #headersSeen: boolean;
  #bodyEnded: boolean;
  #firstByteSeen: boolean;
  /** 0 until the response headers come, or when they do not say. */
  #status: number;
  #eventStream: boolean;
  #failure: string | undefined;

  constructor(stream: GrpcStream, shared: SessionShared, mode: BodyMode, exchange: Exchange | undefined) {
    this.#stream = stream;
    this.#shared = shared;
    this.#mode = mode;
    this.#exchange = exchange;
    this.#reader = undefined;
    this.#readerMade = false;
    this.#headersSeen = false;
    this.#bodyEnded = false;
    this.#firstByteSeen = false;
    this.#status = 0;
    this.#eventStream = exchange?.request.parsed.stream ?? false;
    this.#failure = undefined;
  }

  /** Kind of an end other than "completed". */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** True when ending the stream with OK changes nothing for the client. */
  get hidesBody(): boolean {
    return this.#mode === "NONE";
  }

  headers(incoming: Incoming): void {
    if (this.#headersSeen) return;
    this.#headersSeen = true;
    this.#status = statusOf(incoming.header(":status"));
    const contentType = incoming.header("content-type");
    // An engine may answer a streaming request with one JSON error: what it says it sends decides.
    if (contentType !== undefined) this.#eventStream = contentType.includes("text/event-stream");
    const exchange = this.#exchange;
    const added = exchange?.responseHeaders(this.#status, servedFrom(incoming), this.#eventStream) ?? noPairs;
    if (exchange !== undefined && !incoming.endOfStream && (this.#mode === "NONE" || this.#mode === "BUFFERED")) {
      this.#firstByteSeen = true;
      exchange.firstByte(true);
    }
    this.#replyToHeaders(incoming, added);
    if (incoming.endOfStream) this.#finish();
  }

  #replyToHeaders(incoming: Incoming, added: readonly HeaderPair[]): void {
    const shared = this.#shared;
    const echo = shared.deps.echoRequestHeaders;
    // A restored name changes the length; the gateway must not announce the engine's. BUFFERED corrects it on the body reply.
    const dropsLength =
      !incoming.endOfStream &&
      this.#mode !== "NONE" &&
      this.#mode !== "BUFFERED" &&
      this.#exchange !== undefined &&
      restoresModel(this.#exchange) &&
      incoming.header("content-length") !== undefined;
    if (added.length === 0 && !echo && !dropsLength) {
      this.#stream.send(shared.constants.responseHeaders);
      return;
    }
    const setHeaders: HeaderPair[] = [proofPair];
    for (const pair of added) setHeaders.push(pair);
    if (echo) echoAnswer(incoming, setHeaders);
    this.#stream.send(
      shared.deps.codec.encodeHeaders({
        phase: "response",
        setHeaders,
        removeHeaders: dropsLength ? contentLengthName : noNames,
        clearRouteCache: false,
        dynamicMetadata: undefined,
      }),
    );
  }

  /** One reply per message, at once. */
  body(incoming: Incoming): void {
    if (this.#bodyEnded) return;
    const mode = this.#mode;
    if (mode === "NONE") {
      this.#stream.send(this.#shared.constants.responseBodyUnchanged);
      return;
    }
    const chunk = incoming.body;
    const whole = mode === "BUFFERED" || mode === "BUFFERED_PARTIAL";
    // A buffered body is one message, without end of stream where trailers follow.
    const last = incoming.endOfStream || whole;
    const exchange = this.#exchange;
    if (exchange !== undefined && chunk.length > 0) {
      if (!this.#firstByteSeen) {
        this.#firstByteSeen = true;
        exchange.firstByte(false);
      }
      exchange.chunk(chunk.length);
    }
    if (!this.#readerMade) this.#makeReader();
    const reader = this.#reader;
    if (whole || mode === "STREAMED") this.#replyOneToOne(incoming, reader?.push(chunk, last), whole);
    else this.#replyStreamed(chunk, reader, last);
    if (last) {
      this.#bodyEnded = true;
      this.#finish();
    }
  }

  #replyStreamed(chunk: Buffer, reader: AnswerReader | undefined, last: boolean): void {
    const shared = this.#shared;
    const parts = reader === undefined ? [chunk] : reader.push(chunk, last);
    if (last && chunk.length === 0 && (parts.length === 0 || (parts.length === 1 && parts[0]?.length === 0))) {
      this.#stream.send(shared.constants.responseBodyEnd);
      return;
    }
    sendChunks(this.#stream, shared.deps.codec, "response", parts, last);
  }

  #replyOneToOne(incoming: Incoming, parts: readonly Buffer[] | undefined, whole: boolean): void {
    const shared = this.#shared;
    const chunk = incoming.body;
    if (
      parts === undefined ||
      (parts.length === 1 && parts[0] === chunk) ||
      (parts.length === 0 && chunk.length === 0)
    ) {
      this.#stream.send(shared.constants.responseBodyUnchanged);
      return;
    }
    let headers: Parameters<typeof encodeWholeBody>[3];
    if (whole) {
      let length = 0;
      for (let i = 0; i < parts.length; i++) length += parts[i]?.length ?? 0;
      // A buffered part is followed by bytes that the picker never sees: no length is right then.
      const cut = this.#mode === "BUFFERED_PARTIAL" && !incoming.endOfStream;
      headers = {
        setHeaders: cut ? noPairs : [["content-length", String(length)]],
        removeHeaders: cut ? contentLengthName : noNames,
        clearRouteCache: false,
        dynamicMetadata: undefined,
      };
    }
    this.#stream.send(encodeWholeBody(shared.deps.codec, "response", parts, headers));
  }

  /** Trailers end a body without an end-of-stream flag (gRPC answers depend on it). */
  trailers(): void {
    const duplex = this.#mode !== "NONE" && this.#mode !== "STREAMED" && this.#mode !== "BUFFERED";
    if (!this.#bodyEnded && duplex && this.#reader !== undefined) {
      const held = this.#reader.push(noBytes, true);
      if (held.some((part) => part.length > 0)) {
        sendChunks(this.#stream, this.#shared.deps.codec, "response", held, false);
      }
    }
    this.#bodyEnded = true;
    this.#stream.send(this.#shared.constants.responseTrailers);
    this.#finish();
  }

  /** The gateway half-closed or the stream is gone. */
  streamEnded(cause: "half-closed" | StreamCloseCause): void {
    if (this.#mode === "NONE" && this.#headersSeen && cause !== "connection-lost") this.#finish();
    else this.end({ kind: "client-gone" });
  }

  #finish(): void {
    const status = this.#status;
    const failed = status !== 0 && (status < 200 || status > 299);
    this.end(failed ? { kind: "failed", status } : { kind: "completed", status });
  }

  /** Idempotent. Reports what usage was seen, however the answer ended. */
  end(cause: EndCause): void {
    const exchange = this.#exchange;
    if (exchange === undefined) return;
    this.#exchange = undefined;
    if (cause.kind !== "completed") this.#failure = cause.kind;
    const reader = this.#reader;
    this.#reader = undefined;
    this.#readerMade = true;
    this.#shared.isolate(() => {
      const usage = reader?.usage();
      if (usage !== undefined) exchange.usage(usage);
    });
    exchange.end(cause);
  }

  #makeReader(): void {
    this.#readerMade = true;
    const exchange = this.#exchange;
    if (exchange === undefined) return;
    const { parsed, targetModel } = exchange.request;
    const restores = restoresModel(exchange);
    if (!parsed.readsResponse && !restores) return;
    this.#reader = this.#shared.deps.createAnswerReader({
      api: parsed.api,
      streaming: this.#eventStream,
      restoreModel: restores ? { from: targetModel, to: parsed.model } : undefined,
    });
  }
}

const noPairs: readonly HeaderPair[] = [];

export function restoresModel(exchange: Exchange): boolean {
  const { parsed, targetModel } = exchange.request;
  return parsed.model !== "" && targetModel !== parsed.model;
}

/** Of a repeated header the last value is echoed, as in the reference; what is set already stays. */
function echoAnswer(incoming: Incoming, setHeaders: HeaderPair[]): void {
  const first = setHeaders.length;
  incoming.forEachHeader((name, value) => {
    if (isSystemHeader(name) || !isEchoable(value)) return;
    const at = setHeaders.findIndex((pair) => pair[0] === name);
    if (at < 0) setHeaders.push([name, value]);
    else if (at >= first) setHeaders[at] = [name, value];
  });
}

/** 0 when the gateway says none: not known. */
function statusOf(value: string | undefined): number {
  const status = Number(value);
  return Number.isInteger(status) && status >= 100 && status <= 599 ? status : 0;
}

function servedFrom(incoming: Incoming): string | undefined {
  const served = incoming.metadata(destinationNamespace, servedKey);
  return typeof served === "string" ? served : served?.[0];
}
