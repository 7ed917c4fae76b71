/**
 * Errors that nobody caught. One callback's fault must not cut every open answer, so the process says what happened, counts it and serves
 * on; faults that keep coming mean a state that nobody knows, and then it asks to be ended in an orderly way, once.
 */
import type { Logger } from "../telemetry/log.ts";

export type UnexpectedErrorKind = "uncaughtException" | "unhandledRejection";

/** What is needed of `process`. */
export interface ErrorSource {
  on(event: UnexpectedErrorKind, listener: (error: unknown) => void): unknown;
  off(event: UnexpectedErrorKind, listener: (error: unknown) => void): unknown;
}

export interface UnexpectedErrorOptions {
  readonly source: ErrorSource;
  readonly log: Logger;
  readonly now: () => number;
  readonly count: (kind: UnexpectedErrorKind) => void;
  /** Called once, when more than `limit` errors came within a minute. */
  readonly tooMany: () => void;
  /** 100 unless given: one fault of a rare request stays far below it, a fault of every request does not. */
  readonly limit?: number;
}

const windowMs = 60_000;

/** Installs the listeners; returns what removes them. */
export function watchUnexpectedErrors(options: UnexpectedErrorOptions): () => void {
  const { source, log, now, count, tooMany, limit = 100 } = options;
  let windowStartMs = now();
  let seen = 0;
  let gaveUp = false;
  const note = (kind: UnexpectedErrorKind, error: unknown): void => {
    const nowMs = now();
    if (nowMs - windowStartMs >= windowMs) {
      windowStartMs = nowMs;
      seen = 0;
    }
    seen++;
    try {
      log.error({ error, kind }, "an error that nobody caught; serving on");
      count(kind);
    } catch {
      // Whatever cannot be told must not become the next error.
    }
    if (seen <= limit || gaveUp) return;
    gaveUp = true;
    log.error({ errors: seen, withinMs: windowMs }, "too many errors that nobody caught: ending");
    tooMany();
  };
  const onException = (error: unknown): void => note("uncaughtException", error);
  const onRejection = (error: unknown): void => note("unhandledRejection", error);
  source.on("uncaughtException", onException);
  source.on("unhandledRejection", onRejection);
  return () => {
    source.off("uncaughtException", onException);
    source.off("unhandledRejection", onRejection);
  };
}
