import { EventEmitter } from "node:events";
import { describe, expect, it } from "@jest/globals";
import { watchUnexpectedErrors } from "../../../src/app/unexpected-errors.ts";
import type { Logger } from "../../../src/telemetry/log.ts";

function watched(limit: number) {
  const source = new EventEmitter();
  const lines: string[] = [];
  const counted: string[] = [];
  let endings = 0;
  let nowMs = 0;
  const say = (_fields: object, message: string): void => {
    lines.push(message);
  };
  const log: Logger = {
    error: say,
    warn: say,
    info: say,
    debug: say,
    trace: say,
    isLevelEnabled: () => true,
    child: () => log,
  };
  const stop = watchUnexpectedErrors({
    source,
    log,
    now: () => nowMs,
    count: (kind) => counted.push(kind),
    tooMany: () => {
      endings++;
    },
    limit,
  });
  return {
    source,
    lines,
    counted,
    stop,
    endings: () => endings,
    later: (ms: number) => {
      nowMs += ms;
    },
  };
}

describe("errors that nobody caught", () => {
  it("are logged and counted by kind, and end nothing", () => {
    const { source, lines, counted, endings } = watched(3);
    source.emit("uncaughtException", new Error("one"));
    source.emit("unhandledRejection", undefined);
    expect(lines).toHaveLength(2);
    expect(counted).toEqual(["uncaughtException", "unhandledRejection"]);
    expect(endings()).toBe(0);
  });

  it("ask for the end, once, when more than the limit come within a minute", () => {
    const { source, endings, later } = watched(3);
    for (let index = 0; index < 3; index++) source.emit("uncaughtException", new Error("x"));
    later(60_000);
    for (let index = 0; index < 3; index++) source.emit("uncaughtException", new Error("x"));
    expect(endings()).toBe(0);
    for (let index = 0; index < 5; index++) source.emit("uncaughtException", new Error("x"));
    expect(endings()).toBe(1);
  });

  it("are nobody's business after the watch has stopped", () => {
    const { source, counted, stop } = watched(3);
    stop();
    source.emit("unhandledRejection", new Error("x"));
    expect(counted).toEqual([]);
  });
});
