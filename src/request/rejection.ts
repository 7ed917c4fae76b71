/**
 * A refusal as a value: every layer returns it for an expected outcome and one place (extproc/refusal.ts) maps it to an answer.
 * The codes are the reference picker's, so that `request_error_total{error_code}` and text answers read the same.
 */

/** The reference's error codes with the HTTP status each is answered with, and the OpenAI error type it is spoken as. */
export const rejectCodes = {
  BadRequest: { status: 400, type: "invalid_request_error" },
  Unauthorized: { status: 401, type: "authentication_error" },
  Forbidden: { status: 403, type: "permission_error" },
  NotFound: { status: 404, type: "not_found_error" },
  PreconditionFailed: { status: 412, type: "invalid_request_error" },
  PayloadTooLarge: { status: 413, type: "invalid_request_error" },
  ResourceExhausted: { status: 429, type: "rate_limit_error" },
  HeadersTooLarge: { status: 431, type: "invalid_request_error" },
  Internal: { status: 500, type: "server_error" },
  ServiceUnavailable: { status: 503, type: "server_error" },
  GatewayTimeout: { status: 504, type: "server_error" },
} as const;

export type RejectCode = keyof typeof rejectCodes;

/** Values of the `x-llm-d-request-dropped-reason` response header. */
export type DroppedReason =
  | "rejected-no-endpoints"
  | "rejected-saturated"
  | "rejected-ttl-expired"
  | "rejected-context-cancelled"
  | "rejected-shutting-down"
  | "evicted"
  | "evicted-queue-pressure"
  | "evicted-priority";

export interface Rejection {
  readonly code: RejectCode;
  /** For the client: never holds prompt text. */
  readonly message: string;
  /** OpenAI's machine-readable `error.code`, e.g. "model_not_found"; null where OpenAI sends null. */
  readonly errorCode: string | null;
  /** The request field at fault, e.g. "messages". */
  readonly param: string | null;
  /** Whole seconds for `Retry-After`; undefined where waiting does not help. */
  readonly retryAfterSeconds: number | undefined;
  readonly droppedReason: DroppedReason | undefined;
  /** Instead of the code's own status, where an operator configured another. */
  readonly status?: number;
}

export interface RejectionDetails {
  readonly errorCode?: string;
  readonly param?: string;
  readonly retryAfterSeconds?: number;
  readonly droppedReason?: DroppedReason;
}

export function reject(code: RejectCode, message: string, details: RejectionDetails = {}): Rejection {
  return {
    code,
    message,
    errorCode: details.errorCode ?? null,
    param: details.param ?? null,
    retryAfterSeconds: details.retryAfterSeconds,
    droppedReason: details.droppedReason,
  };
}

/** Tells a refusal from what a layer returns in the good case. */
export function isRejection(outcome: object): outcome is Rejection {
  return "code" in outcome && "droppedReason" in outcome;
}
