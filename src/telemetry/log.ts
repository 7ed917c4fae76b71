/** The logger every layer is handed. Messages are constant strings; what varies goes into fields. Never prompt text. */
export interface Logger {
  error(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  debug(fields: LogFields, message: string): void;
  trace(fields: LogFields, message: string): void;
  /** True when a line of this level would be written: guard costly fields with it. */
  isLevelEnabled(level: "error" | "warn" | "info" | "debug" | "trace"): boolean;
  child(fields: LogFields): Logger;
}

export type LogFields = Readonly<Record<string, unknown>>;

const alwaysLogged = 32;

/** Whether the event of this count (from 1) gets a line: what a peer can cause without end gets the first few, then each power of two. */
export function isLoggedAt(count: number): boolean {
  return count <= alwaysLogged || (count & (count - 1)) === 0;
}

const nothing = (): void => {};

/** Writes nothing; for tests and for code that runs without a process around it. */
export const silentLogger: Logger = {
  error: nothing,
  warn: nothing,
  info: nothing,
  debug: nothing,
  trace: nothing,
  isLevelEnabled: () => false,
  child: () => silentLogger,
};
