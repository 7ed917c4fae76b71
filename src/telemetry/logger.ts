/**
 * The process's logger: pino, JSON lines on stderr, or pretty ones on a terminal. JSON lines are written beside the event loop and flushed
 * when the process exits; a reader that stalls costs lines, which are counted, and never the loop or the memory.
 */
import { type DestinationStream, type Logger as Pino, pino } from "pino";
import pretty from "pino-pretty";
import type { LogFields, Logger } from "./log.ts";

export type LogLevel = "error" | "warn" | "info" | "debug" | "trace";

export interface LoggerOptions {
  readonly level: LogLevel;
  readonly format: "json" | "pretty";
}

/** -v of the reference: 2 is info, 3 verbose, 4 debug, 5 trace. */
export function levelOfVerbosity(verbosity: number): LogLevel {
  if (verbosity >= 5) return "trace";
  if (verbosity >= 3) return "debug";
  if (verbosity >= 1) return "info";
  return "warn";
}

class PinoLogger implements Logger {
  readonly #pino: Pino;
  constructor(target: Pino) {
    this.#pino = target;
  }
  error(fields: LogFields, message: string): void {
    this.#pino.error(fields, message);
  }
  warn(fields: LogFields, message: string): void {
    this.#pino.warn(fields, message);
  }
  info(fields: LogFields, message: string): void {
    this.#pino.info(fields, message);
  }
  debug(fields: LogFields, message: string): void {
    this.#pino.debug(fields, message);
  }
  trace(fields: LogFields, message: string): void {
    this.#pino.trace(fields, message);
  }
  isLevelEnabled(level: LogLevel): boolean {
    return this.#pino.isLevelEnabled(level);
  }
  child(fields: LogFields): Logger {
    return new PinoLogger(this.#pino.child(fields));
  }
}

/** Lines held for a reader that is behind; an hour of a busy info log. */
const maxHeldBytes = 8 * 1024 * 1024;

/** `error` and `err` fields are written with their message, code, stack and cause. */
export function createLogger(options: LoggerOptions): Logger {
  const settings = {
    level: options.level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { error: pino.stdSerializers.errWithCause, err: pino.stdSerializers.errWithCause },
  };
  if (options.format === "pretty") return new PinoLogger(pino(settings, prettyLines()));
  const lines = pino.destination({ fd: 2, sync: false, maxLength: maxHeldBytes });
  const logger = pino(settings, lines);
  let dropped = 0;
  lines.on("drop", () => {
    dropped++;
  });
  lines.on("drain", () => {
    if (dropped === 0) return;
    const count = dropped;
    dropped = 0;
    logger.warn({ lines: count }, "log lines were dropped: nobody read them in time");
  });
  return new PinoLogger(logger);
}

/** For a person at a terminal, who would rather wait than miss a line. */
function prettyLines(): DestinationStream {
  return pretty({
    destination: 2,
    sync: true,
    colorize: process.stderr.isTTY,
    translateTime: "SYS:HH:MM:ss.l",
    ignore: "pid,hostname",
  });
}
