/** What a client is told when its request cannot be planned. Names no worker and holds no prompt text. */
import { type Rejection, reject } from "../../scheduling/contracts.ts";
import type { PlanRefusal } from "../contracts.ts";

/** `overloadStatus` is what the operator wants overload to be answered with; undefined: 429. */
export function refusalOfPlan(refusal: PlanRefusal, overloadStatus: number | undefined): Rejection {
  switch (refusal.kind) {
    case "no-workers":
    case "pinned-unavailable":
    case "not-ready":
      return reject("ServiceUnavailable", refusal.message, {
        droppedReason: "rejected-no-endpoints",
        retryAfterSeconds: 1,
      });
    case "overloaded":
    case "queue-full":
      return {
        ...reject("ResourceExhausted", refusal.message, {
          errorCode: "overloaded",
          droppedReason: "rejected-saturated",
          retryAfterSeconds: 1,
        }),
        ...(overloadStatus === undefined ? {} : { status: overloadStatus }),
      };
    case "closed":
      return reject("ServiceUnavailable", refusal.message, {
        droppedReason: "rejected-shutting-down",
        retryAfterSeconds: 1,
      });
    default:
      return refusal satisfies never;
  }
}

export function refusalOfTokens(kind: "invalid" | "timeout", message: string): Rejection {
  return kind === "invalid"
    ? reject("BadRequest", message, { errorCode: "invalid_prompt" })
    : reject("GatewayTimeout", message, { errorCode: "tokenizer_timeout" });
}

/** OpenAI's wording and code, which clients know. */
export function promptTooLong(tokens: number, contextLength: number): Rejection {
  return reject(
    "BadRequest",
    `This model's maximum context length is ${contextLength} tokens. However, your prompt has ${tokens} tokens.`,
    { errorCode: "context_length_exceeded", param: "messages" },
  );
}

export function unknownModel(model: string): Rejection {
  return reject("NotFound", `The model \`${model}\` does not exist`, { errorCode: "model_not_found", param: "model" });
}

export function notReady(reason: string): Rejection {
  return reject("ServiceUnavailable", reason, { droppedReason: "rejected-no-endpoints", retryAfterSeconds: 1 });
}

/** Dynamo's words. */
export const pickerOverloaded: Rejection = reject("ServiceUnavailable", "endpoint picker overloaded", {
  errorCode: "overloaded",
  droppedReason: "rejected-saturated",
  retryAfterSeconds: 1,
});
