/** Makes one session per ext_proc stream and owns what they share: the byte budget, the one timer of all deadlines, and the drain. */
import type { ByteAllowance, GrpcStream, GrpcStreamHandler } from "../net/grpc/transport.ts";
import { MemberList } from "../pipeline/member-list.ts";
import { ByteBudget } from "./byte-budget.ts";
import { Session } from "./session.ts";
import type { SessionDeps } from "./session-deps.ts";
import { SessionShared } from "./session-shared.ts";

/** The gRPC method that gateways call. */
export const processPath = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

export interface SessionFactory {
  /** One call per stream; the transport's method table takes it as it is. */
  readonly handler: (stream: GrpcStream) => GrpcStreamHandler;
  /** Streams open now. */
  readonly open: number;
  /** Streams that still owe their request an answer: nothing received, body arriving, or undecided. */
  readonly waiting: number;
  /** For the transport: messages on their way in count like the request bytes that sessions hold. */
  readonly receiveAllowance: ByteAllowance;
  /** For the transport: replies that gateways have not taken, bounded by as much again. */
  readonly sendAllowance: ByteAllowance;
  /** Request bytes held by all sessions, of unfinished messages too. */
  readonly bufferedBytes: number;
  /**
   * Drain, after the transport takes no new streams: streams whose answer's body is hidden from the picker (response body mode NONE) are
   * ended with OK, now or as soon as their request has left, which cuts no answer. Others live on until their own end.
   */
  releaseBodyless(): void;
  /** Refuses what waits, resets what is being answered, stops the timer. Idempotent; streams opened later are refused. */
  close(): void;
}

export function createSessionFactory(deps: SessionDeps): SessionFactory {
  const shared = new SessionShared(deps);
  const sessions = new MemberList<Session>();
  let closed = false;
  // Coarse on purpose: a deadline of 90 s may be met half a second late.
  const stopSweeping = deps.clock.every(Math.min(500, Math.max(10, deps.limits.requestTimeoutMs / 20)), () =>
    shared.sweep(),
  );
  return {
    handler: (stream) => {
      const session = new Session(stream, shared, sessions);
      if (closed) session.shutDown();
      return session;
    },
    receiveAllowance: shared.budget,
    sendAllowance: new ByteBudget(deps.limits.maxBufferedBytes),
    get open() {
      return sessions.size;
    },
    get waiting() {
      return shared.waiting.size;
    },
    get bufferedBytes() {
      return shared.budget.held;
    },
    releaseBodyless: () => {
      shared.releasing = true;
      for (const session of sessions.members()) shared.isolate(() => session.release());
    },
    close: () => {
      if (closed) return;
      closed = true;
      stopSweeping();
      // First: what an ended answer gives back is not to route a request that is refused a moment later.
      for (const session of shared.waiting.members()) shared.isolate(() => session.shutDown());
      for (const session of sessions.members()) shared.isolate(() => session.shutDown());
    },
  };
}
