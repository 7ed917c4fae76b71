/** The process's logger: pino, JSON lines on stderr, or pretty ones on a terminal. */
import { type Logger as Pino, pino } from "pino";
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

/** `error` fields are written with their message, code, stack and cause. */
export function createLogger(options: LoggerOptions): Logger {
  const settings = {
    level: options.level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { error: pino.stdSerializers.errWithCause },
  };
  if (options.format === "json") return new PinoLogger(pino(settings, pino.destination({ fd: 2, sync: false })));
  const stream = pretty({
    destination: 2,
    sync: true,
    colorize: process.stderr.isTTY === true,
    translateTime: "SYS:HH:MM:ss.l",
    ignore: "pid,hostname",
  });
  return new PinoLogger(pino(settings, stream));
}
