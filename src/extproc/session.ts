/**
 * One ext_proc stream as a phase machine. It answers a request only when the whole request phase is decided, sends header reply, body
 * replies and trailers reply in that order and in one go, and gives back everything it holds exactly once, whatever ends the stream.
 *
 *   opened ──headers──▶ collecting ──body ended──▶ deciding ──routed──▶ forwarded ──▶ over
 *     │                     │                         │                    ▲
 *     │                     └────────refusal──────────┴──▶ over            │
 *     └──────────────a response message (no request phase)─────────────────┘
 */
import {
  type GrpcStream,
  type GrpcStreamHandler,
  grpcStatus,
  type StreamCloseCause,
  type UnreadableCause,
} from "../net/grpc/transport.ts";
import type { Decision, PendingDecision, Subset } from "../pipeline/contracts.ts";
import type { MemberList, Place } from "../pipeline/member-list.ts";
import { InferenceRequest } from "../request/inference-request.ts";
import { opaqueBody, type ParsedBody } from "../request/parsed-body.ts";
import { type Rejection, reject } from "../request/rejection.ts";
import { AnswerPhase, restoresModel } from "./answer-phase.ts";
import { type BodyMode, CodecError, type Incoming } from "./messages.ts";
import { immediateReplyFrom } from "./refusal.ts";
import { encodeWholeBody, type HeaderChanges, type Routed, requestChanges, sendChunks } from "./replies.ts";
import { RequestBuffer } from "./request-buffer.ts";
import { absentRequestHeaders, type RequestHeaders, requestHeadersFrom, subsetFrom } from "./request-headers.ts";
import type { EndCause, RequestTrace } from "./session-deps.ts";
import type { SessionShared, Waiting } from "./session-shared.ts";

type State =
  | "opened"
  | "collecting"
  | "deciding"
  /** All replies of the request phase are sent, or the stream has none. */
  | "forwarded"
  /** Observability mode: the gateway reads no replies. */
  | "observing"
  /** Nothing is sent any more. */
  | "over";

/** How the request's body came to its end. */
type BodyEnd =
  /** There is none. */
  | "headers"
  | "body"
  | "trailers"
  /** BUFFERED_PARTIAL: more than the gateway's buffer holds, or trailers follow. */
  | "cut"
  /** The mode does not show it in time. */
  | "hidden";

const noBody = Buffer.alloc(0);
const noRoom = reject("ServiceUnavailable", "too many request bytes are waiting; try again", {
  errorCode: "overloaded",
  retryAfterSeconds: 1,
});

export class Session implements GrpcStreamHandler, Waiting {
  readonly deadlineMs: number;
  readonly #stream: GrpcStream;
  readonly #shared: SessionShared;
  /** Among the open sessions, until the stream is gone. */
  readonly #place: Place<Session>;
  /** Among those that owe their request an answer. */
  readonly #waiting: Place<Waiting>;
  readonly #buffer: RequestBuffer;
  #state: State;
  #requestMode: BodyMode;
  #responseMode: BodyMode;
  #headers: RequestHeaders | undefined;
  #receivedAtMs: number;
  #subset: Subset;
  #bodyEnd: BodyEnd;
  /** Bytes taken from the shared budget: the body, from its first chunk until the answer begins. */
  #heldBytes: number;
  #request: InferenceRequest | undefined;
  #pending: PendingDecision | undefined;
  #answer: AnswerPhase | undefined;
  #trace: RequestTrace | undefined;
  /** Any reply was sent: the stream is reset rather than ended when it must be failed. */
  #replied: boolean;
  /** The reply that names the destination was sent: too late for a refusal. */
  #routed: boolean;
  /** Messages of the request that came before the header reply and want a reply of their own after it. */
  #owedBodyReplies: number;
  #owesTrailersReply: boolean;
  #trailersReplied: boolean;
  /** What the trace is told, unless the answer knows better. */
  #failure: string | undefined;

  constructor(stream: GrpcStream, shared: SessionShared, open: MemberList<Session>) {
    this.#stream = stream;
    this.#shared = shared;
    this.#buffer = new RequestBuffer();
    this.#state = "opened";
    this.#requestMode = "FULL_DUPLEX_STREAMED";
    this.#responseMode = "FULL_DUPLEX_STREAMED";
    this.#headers = undefined;
    this.#receivedAtMs = shared.deps.clock.now();
    this.#subset = undefined;
    this.#bodyEnd = "body";
    this.#heldBytes = 0;
    this.#request = undefined;
    this.#pending = undefined;
    this.#answer = undefined;
    this.#trace = undefined;
    this.#replied = false;
    this.#routed = false;
    this.#owedBodyReplies = 0;
    this.#owesTrailersReply = false;
    this.#trailersReplied = false;
    this.#failure = undefined;
    this.deadlineMs = this.#receivedAtMs + shared.deps.limits.requestTimeoutMs;
    this.#place = open.enter(this);
    this.#waiting = shared.waiting.enter(this);
  }

  message(bytes: Buffer): void {
    if (this.#state === "over" || this.#state === "observing") return;
    let incoming: Incoming;
    try {
      incoming = this.#shared.deps.codec.decode(bytes);
    } catch (error) {
      this.#malformed(error);
      return;
    }
    try {
      this.#receive(incoming);
    } catch (error) {
      this.#broken(error);
    }
  }

  /** A message that cannot be taken is a body, as long as one is awaited: the client is told what it would be told of a body that came. */
  unreadable(why: UnreadableCause): boolean {
    if (this.#state !== "collecting") return false;
    this.#refuseUnseen(why === "too-large" ? bodyTooLarge(this.#shared.deps.limits.maxRequestBodyBytes) : noRoom);
    return true;
  }

  /** The gateway sends no more: the client is gone, or the answer whose body is hidden has ended. */
  halfClosed(): void {
    if (this.#state === "over") return;
    this.#abandon("half-closed");
    this.#stream.end(grpcStatus.ok);
  }

  closed(cause: StreamCloseCause): void {
    if (this.#state !== "over") this.#abandon(cause);
    const trace = this.#trace;
    this.#trace = undefined;
    if (trace !== undefined) this.#shared.isolate(() => trace.end(this.#failure ?? this.#answer?.failure));
    this.#place.leave();
  }

  /** The deadline of the request phase has passed. */
  expire(): void {
    const state = this.#state;
    if (state === "opened") {
      this.#over();
      this.#stream.end(grpcStatus.deadlineExceeded, "no request came");
    } else if (state === "collecting" || state === "deciding") {
      const seconds = this.#shared.deps.limits.requestTimeoutMs / 1_000;
      if (state === "deciding") {
        this.#cancel({ kind: "timeout" });
        this.#refuse(
          reject("GatewayTimeout", `the request was not routed within ${seconds} s`, {
            errorCode: "request_timeout",
            droppedReason: "rejected-ttl-expired",
          }),
        );
      } else {
        this.#refuseUnseen(
          reject("GatewayTimeout", `the request body did not arrive within ${seconds} s`, {
            errorCode: "request_timeout",
          }),
        );
      }
    }
  }

  /** Draining: ends the stream with OK where that cuts no answer. */
  release(): void {
    if (this.#state !== "forwarded" || this.#answer?.hidesBody !== true) return;
    this.#answer.end({ kind: "shutdown" });
    this.#over();
    this.#stream.end(grpcStatus.ok);
  }

  /** The process stops now: what waits is refused, what is being answered is cut unless its body is hidden. */
  shutDown(): void {
    switch (this.#state) {
      case "opened":
        this.#over();
        this.#stream.end(grpcStatus.unavailable, "shutting down");
        break;
      case "collecting":
      case "deciding": {
        const rejection = reject("ServiceUnavailable", "the endpoint picker is shutting down", {
          retryAfterSeconds: 1,
          droppedReason: "rejected-shutting-down",
        });
        if (this.#state === "collecting") {
          this.#refuseUnseen(rejection);
        } else {
          this.#cancel({ kind: "shutdown" });
          this.#refuse(rejection);
        }
        break;
      }
      case "forwarded":
        if (this.#answer?.hidesBody === true) {
          this.release();
        } else {
          this.#answer?.end({ kind: "shutdown" });
          this.#over();
          this.#stream.reset();
        }
        break;
      case "observing":
        this.#over();
        this.#stream.end(grpcStatus.ok);
        break;
      case "over":
        break;
    }
  }

  #receive(incoming: Incoming): void {
    if (this.#state === "opened" && !this.#begin(incoming)) return;
    switch (incoming.kind) {
      case "responseBody":
        if (this.#stream.pendingBytes > this.#shared.deps.limits.maxPendingReplyBytes) this.#overrun();
        else this.#answering().body(incoming);
        return;
      case "responseHeaders":
        this.#answering().headers(incoming);
        return;
      case "responseTrailers":
        this.#answering().trailers();
        return;
      case "requestHeaders":
        this.#requestHeaders(incoming);
        return;
      case "requestBody":
        this.#requestBody(incoming);
        return;
      case "requestTrailers":
        this.#requestTrailers();
        return;
      case "unknown":
        return;
    }
  }

  /** Reads the modes, which come with the first message. False when the gateway only watches. */
  #begin(incoming: Incoming): boolean {
    if (incoming.observabilityMode) {
      this.#over();
      this.#state = "observing";
      return false;
    }
    const modes = incoming.protocolConfig;
    if (modes !== undefined) {
      this.#requestMode = modes.requestBodyMode;
      this.#responseMode = modes.responseBodyMode;
    }
    return true;
  }

  #requestHeaders(incoming: Incoming): void {
    if (this.#state !== "opened") return;
    const { clock, limits, pipeline, startTrace } = this.#shared.deps;
    this.#receivedAtMs = clock.now();
    this.#state = "collecting";
    if (incoming.headersSizeBytes > limits.maxHeaderBytes) {
      this.#refuseUnseen(reject("HeadersTooLarge", `request headers exceed ${limits.maxHeaderBytes} bytes`));
      return;
    }
    const headers = requestHeadersFrom(incoming);
    this.#headers = headers;
    this.#trace = startTrace?.(headers.lookup, this.#receivedAtMs);
    this.#readSubset(incoming);
    if (incoming.endOfStream) {
      this.#bodyEnd = "headers";
      this.#state = "deciding";
      this.#decided(pipeline.decideBodyless(this.#requestOf(headers, opaqueBody, noBody), this.#subset));
      return;
    }
    if (hidesRequestBody(this.#requestMode)) {
      this.#shared.lacks("request-body");
      this.#bodyEnd = "hidden";
      this.#decide(headers, opaqueBody, noBody);
      return;
    }
    if (headers.contentLength > limits.maxRequestBodyBytes) {
      this.#refuseUnseen(bodyTooLarge(limits.maxRequestBodyBytes));
      return;
    }
    // A buffering gateway sends the body only after this reply; the destination rides on the body reply.
    if (isBuffered(this.#requestMode)) this.#send(this.#shared.constants.requestHeadersUnchanged);
  }

  #requestBody(incoming: Incoming): void {
    if (this.#state === "opened" && !this.#beginWithoutHeaders()) return;
    if (this.#state !== "collecting") {
      // Only a mode that hides the body has replies left to give; any other body message here repeats an end of stream.
      if (this.#bodyEnd !== "hidden") return;
      if (this.#state === "deciding") this.#owedBodyReplies++;
      else if (this.#routed) this.#send(this.#shared.constants.requestBodyUnchanged);
      return;
    }
    this.#readSubset(incoming);
    const { limits } = this.#shared.deps;
    const size = incoming.body.length;
    if (this.#buffer.length + size > limits.maxRequestBodyBytes) {
      this.#refuseUnseen(bodyTooLarge(limits.maxRequestBodyBytes));
      return;
    }
    if (!this.#shared.budget.take(size)) {
      this.#refuseUnseen(noRoom);
      return;
    }
    this.#heldBytes += size;
    this.#buffer.append(incoming.body);
    // A buffered body is one message, without end of stream where trailers follow.
    if (incoming.endOfStream || isBuffered(this.#requestMode)) {
      const mayBeCut = this.#requestMode === "BUFFERED_PARTIAL" && !incoming.endOfStream;
      this.#bodyEnded(mayBeCut ? "cut" : "body");
    }
  }

  /** A gateway that skips the header message can be told a destination on a buffered body's reply only. */
  #beginWithoutHeaders(): boolean {
    this.#state = "collecting";
    this.#headers = absentRequestHeaders();
    if (isBuffered(this.#requestMode)) return true;
    this.#refuseUnseen(reject("Internal", "the gateway must send request headers (request_header_mode: SEND)"));
    return false;
  }

  #requestTrailers(): void {
    if (this.#state === "collecting") {
      this.#bodyEnded("trailers");
    } else if (this.#state === "deciding") {
      this.#owesTrailersReply = this.#bodyEnd !== "trailers";
    } else if (this.#routed && !this.#trailersReplied) {
      this.#replyToTrailers();
    }
  }

  #bodyEnded(how: BodyEnd): void {
    const headers = this.#headers;
    if (headers === undefined) return;
    this.#bodyEnd = how;
    const body = this.#buffer.take();
    const parsed = this.#shared.deps.parse(headers.method, headers.path, headers.lookup, body);
    if (!("code" in parsed)) {
      this.#decide(headers, parsed, body);
    } else if (how === "cut") {
      this.#shared.lacks("request-body");
      this.#decide(headers, opaqueBody, noBody);
    } else {
      this.#refuseUnseen(parsed);
    }
  }

  #requestOf(headers: RequestHeaders, parsed: ParsedBody, body: Buffer): InferenceRequest {
    const request = new InferenceRequest({
      id: headers.id,
      method: headers.method,
      path: headers.path,
      headers: headers.lookup,
      body,
      parsed,
      receivedAtMs: this.#receivedAtMs,
    });
    this.#request = request;
    this.#trace?.begin?.(request);
    return request;
  }

  #decide(headers: RequestHeaders, parsed: ParsedBody, body: Buffer): void {
    this.#state = "deciding";
    const request = this.#requestOf(headers, parsed, body);
    const pending = this.#shared.deps.pipeline.decide(request, this.#subset, (decision) => {
      this.#pending = undefined;
      try {
        this.#decided(decision);
      } catch (error) {
        this.#broken(error);
      }
    });
    if (this.#state === "deciding") this.#pending = pending;
  }

  #decided(decision: Decision): void {
    if (this.#state !== "deciding") {
      // A decision after its cancellation breaks the contract; its reservations are given back all the same.
      if (decision.kind === "routed") decision.exchange.end({ kind: "client-gone" });
      return;
    }
    if (decision.kind === "rejected") this.#refuse(decision.rejection);
    else this.#forward(decision);
  }

  /** Header reply, body replies, trailers reply, in one go: a stream that ends between them corrupts the request silently. */
  #forward(decision: Routed): void {
    const shared = this.#shared;
    const headers = this.#headers;
    const request = this.#request;
    if (headers === undefined || request === undefined) return;
    const answer = new AnswerPhase(this.#stream, shared, this.#responseMode, decision.exchange);
    this.#answer = answer;
    this.#waiting.leave();
    this.#state = "forwarded";
    if (this.#bodyEnd === "headers" || this.#bodyEnd === "hidden") {
      const changes = this.#changes(decision, headers, -1);
      this.#routed = true;
      this.#send(shared.deps.codec.encodeHeaders({ phase: "request", ...changes }));
    } else {
      this.#forwardBody(decision, headers, request);
    }
    for (; this.#owedBodyReplies > 0; this.#owedBodyReplies--) this.#send(shared.constants.requestBodyUnchanged);
    if (this.#owesTrailersReply || this.#bodyEnd === "trailers") this.#replyToTrailers();
    if (answer.hidesBody && restoresModel(decision.exchange)) shared.lacks("model-restore");
    if (shared.releasing) this.release();
  }

  #forwardBody(decision: Routed, headers: RequestHeaders, request: InferenceRequest): void {
    const { codec, outgoingBody } = this.#shared.deps;
    const parts = outgoingBody(request);
    const same = parts.length === 0 || (parts.length === 1 && parts[0] === request.body);
    let length = 0;
    for (let i = 0; i < parts.length; i++) length += parts[i]?.length ?? 0;
    if (isBuffered(this.#requestMode)) {
      const announces = length > 0 && this.#bodyEnd === "body" && (!same || headers.contentLength < 0);
      const announced = announces ? length : -1;
      const changes = this.#changes(decision, headers, announced);
      const reply = encodeWholeBody(codec, "request", same ? undefined : parts, changes);
      this.#routed = true;
      this.#send(reply);
      return;
    }
    // In duplex mode the gateway drops the client's length, and without one the engine gets chunked encoding. A body with trailers needs that.
    const announced = length > 0 && this.#bodyEnd === "body" ? length : -1;
    const reply = codec.encodeHeaders({ phase: "request", ...this.#changes(decision, headers, announced) });
    this.#routed = true;
    this.#send(reply);
    if (this.#bodyEnd === "body") sendChunks(this.#stream, codec, "request", parts, true);
    else if (length > 0) sendChunks(this.#stream, codec, "request", parts, false);
  }

  #changes(decision: Routed, headers: RequestHeaders, contentLength: number): HeaderChanges {
    // The reference echoes nothing of a request without a body.
    const echo = this.#shared.deps.echoRequestHeaders && this.#bodyEnd !== "headers";
    return requestChanges(decision, headers, contentLength, this.#trace, echo);
  }

  #replyToTrailers(): void {
    this.#trailersReplied = true;
    this.#send(this.#shared.constants.requestTrailers);
  }

  /** The response phase. It may come without a request phase, or before a decision: then the gateway answered by itself. */
  #answering(): AnswerPhase {
    if (this.#request !== undefined || this.#heldBytes > 0) {
      if (this.#state !== "forwarded") this.#cancel({ kind: "client-gone" });
      this.#dropBody();
    }
    let answer = this.#answer;
    if (answer === undefined) {
      answer = new AnswerPhase(this.#stream, this.#shared, this.#responseMode, undefined);
      this.#answer = answer;
      this.#waiting.leave();
      this.#state = "forwarded";
    }
    this.#replied = true;
    return answer;
  }

  #readSubset(incoming: Incoming): void {
    if (!this.#shared.deps.readSubset) return;
    const subset = subsetFrom(incoming);
    if (subset !== undefined) this.#subset = subset;
  }

  #send(parts: readonly Uint8Array[]): void {
    this.#replied = true;
    this.#stream.send(parts);
  }

  /** A refusal that the pipeline has not seen. */
  #refuseUnseen(rejection: Rejection): void {
    this.#shared.isolate(() => this.#shared.deps.pipeline.refused(rejection, ""));
    this.#refuse(rejection);
  }

  #refuse(rejection: Rejection): void {
    const { codec, errorFormat, logger } = this.#shared.deps;
    this.#failure = rejection.code;
    const id = this.#headers?.id;
    this.#over();
    this.#stream.send(codec.encodeImmediate(immediateReplyFrom(rejection, errorFormat)));
    this.#stream.end(grpcStatus.ok);
    if (logger.isLevelEnabled("debug")) logger.debug({ requestId: id, code: rejection.code }, "request refused");
  }

  /** The gateway does not take the replies it asks for. */
  #overrun(): void {
    this.#shared.deps.logger.warn(
      { requestId: this.#headers?.id, pendingBytes: this.#stream.pendingBytes },
      "stream reset: its replies are not read",
    );
    this.#failWith({ kind: "error" });
    this.#stream.reset();
  }

  #malformed(error: unknown): void {
    const fields = { requestId: this.#headers?.id, error };
    if (error instanceof CodecError) this.#shared.deps.logger.debug(fields, "malformed message");
    else this.#shared.deps.logger.error(fields, "the codec threw");
    this.#failWith({ kind: "error" });
    if (this.#replied) this.#stream.reset();
    else this.#stream.end(grpcStatus.invalidArgument, "malformed ProcessingRequest");
  }

  /** A collaborator threw: this request is refused while that is possible, and no other notices. */
  #broken(error: unknown): void {
    this.#shared.deps.logger.error({ error, requestId: this.#headers?.id }, "request processing failed");
    if (this.#state === "over") return;
    const canRefuse =
      this.#headers !== undefined && !this.#routed && (this.#answer === undefined || this.#request !== undefined);
    this.#failWith({ kind: "error" });
    if (canRefuse) this.#shared.isolate(() => this.#refuseUnseen(reject("Internal", "the endpoint picker failed")));
    else this.#stream.reset();
  }

  #failWith(cause: EndCause): void {
    this.#failure = cause.kind;
    this.#cancel(cause);
    const answer = this.#answer;
    if (answer !== undefined) this.#shared.isolate(() => answer.end(cause));
    this.#over();
  }

  #abandon(how: "half-closed" | StreamCloseCause): void {
    this.#cancel({ kind: "client-gone" });
    const answer = this.#answer;
    if (answer === undefined) this.#failure = "client-gone";
    else this.#shared.isolate(() => answer.streamEnded(how));
    this.#over();
  }

  #cancel(cause: EndCause): void {
    const pending = this.#pending;
    this.#pending = undefined;
    if (pending !== undefined) this.#shared.isolate(() => pending.cancel(cause));
  }

  #over(): void {
    this.#state = "over";
    this.#waiting.leave();
    this.#dropBody();
  }

  #dropBody(): void {
    this.#buffer.clear();
    this.#request?.releaseBody();
    this.#request = undefined;
    this.#shared.budget.give(this.#heldBytes);
    this.#heldBytes = 0;
  }
}

function isBuffered(mode: BodyMode): boolean {
  return mode === "BUFFERED" || mode === "BUFFERED_PARTIAL";
}

/** STREAMED shows the body only after the headers have left, too late to route by. */
function hidesRequestBody(mode: BodyMode): boolean {
  return mode === "NONE" || mode === "STREAMED";
}

function bodyTooLarge(limitBytes: number): Rejection {
  return reject("PayloadTooLarge", `the request body exceeds ${limitBytes} bytes`, { errorCode: "request_too_large" });
}
