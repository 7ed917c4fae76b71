/** A traced request as ext-proc sessions and the pipeline share it: its span rides on the request. */
import type { RequestTrace, SessionDeps } from "../extproc/session-deps.ts";
import { requestSpanKey } from "../pipeline/request-spans.ts";
import type { Tracing } from "../telemetry/tracing.ts";

export function startTraceWith(tracing: Tracing): NonNullable<SessionDeps["startTrace"]> {
  return (headers, receivedAtMs): RequestTrace | undefined => {
    const traced = tracing.start(headers, receivedAtMs);
    if (traced === undefined) return undefined;
    return {
      headers: traced.headers,
      begin: (request) => request.setAttribute(requestSpanKey, traced.span),
      end: (error) => traced.span.end(performance.now(), error),
    };
  };
}
