/** The one place that turns a refusal into an HTTP answer: OpenAI's error JSON, or the reference picker's plain text. */
import { type Rejection, rejectCodes } from "../request/rejection.ts";
import type { HeaderPair, ImmediateReply } from "./messages.ts";

export type ErrorFormat = "openai" | "text";

export const droppedReasonHeader = "x-llm-d-request-dropped-reason";

const jsonContent: HeaderPair = ["content-type", "application/json"];
const textContent: HeaderPair = ["content-type", "text/plain"];

/** Headers are the content type, Retry-After where waiting helps and the drop reason where there is one, and nothing else. */
export function immediateReplyFrom(rejection: Rejection, format: ErrorFormat): ImmediateReply {
  const setHeaders: HeaderPair[] = [format === "text" ? textContent : jsonContent];
  if (rejection.retryAfterSeconds !== undefined) {
    setHeaders.push(["retry-after", String(Math.max(1, Math.ceil(rejection.retryAfterSeconds)))]);
  }
  if (rejection.droppedReason !== undefined) setHeaders.push([droppedReasonHeader, rejection.droppedReason]);
  return {
    status: rejection.status ?? rejectCodes[rejection.code].status,
    setHeaders,
    body: Buffer.from(format === "text" ? textOf(rejection) : jsonOf(rejection)),
    details: `picker_${rejection.code}`,
  };
}

function jsonOf(rejection: Rejection): string {
  return JSON.stringify({
    error: {
      message: rejection.message,
      type: rejectCodes[rejection.code].type,
      code: rejection.errorCode,
      param: rejection.param,
    },
  });
}

/** pkg/common/error/error.go; the answer to an evicted request carries no prefix there. */
function textOf(rejection: Rejection): string {
  if (rejection.droppedReason?.startsWith("evicted") === true) return rejection.message;
  return `inference error: ${rejection.code} - ${rejection.message}`;
}
