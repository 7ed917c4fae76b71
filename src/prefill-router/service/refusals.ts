/** What the router refused, in the statuses and words of Dynamo's select service. */
import type { PlanRefusal } from "../contracts.ts";
import { BadRequest } from "./body.ts";

/** An answer that is not a 200 and has more to say than its message. */
export class Refused extends BadRequest {
  readonly details: Readonly<Record<string, unknown>> | undefined;

  constructor(status: number, message: string, details?: Readonly<Record<string, unknown>>) {
    super(status, message);
    this.name = "Refused";
    this.details = details;
  }
}

const noEndpoints = "no endpoints available to route work";

export function refusalOf(refusal: PlanRefusal): Refused {
  switch (refusal.kind) {
    case "no-workers":
      return new Refused(503, noEndpoints);
    case "not-ready":
      return new Refused(503, refusal.message);
    case "pinned-unavailable":
      return refusal.message.startsWith("the session")
        ? new Refused(400, refusal.message)
        : new Refused(503, noEndpoints);
    case "overloaded":
      return new Refused(429, "all eligible workers are overloaded");
    case "queue-full": {
      const { policyClass, limit } = refusal;
      if (limit === undefined) return new Refused(429, refusal.message);
      const { kind, current } = limit;
      const message = `router policy class ${JSON.stringify(policyClass)} queue ${kind} limit reached (current=${current}, limit=${limit.limit})`;
      return new Refused(429, message, {
        policy_class: policyClass,
        limit_kind: kind,
        current,
        limit: limit.limit,
      });
    }
    case "closed":
      return new Refused(503, "endpoint subscriber shutdown");
    default:
      return refusal satisfies never;
  }
}
