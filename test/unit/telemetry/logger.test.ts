/** What a process's log holds when it is over: a logger owns stderr, so each case is a process of its own. */
import { spawn } from "node:child_process";
import { describe, expect, it } from "@jest/globals";
import { levelOfVerbosity } from "../../../src/telemetry/logger.ts";

const logger = new URL("../../../src/telemetry/logger.ts", import.meta.url).href;

interface Run {
  readonly lines: readonly Readonly<Record<string, unknown>>[];
  readonly text: string;
  readonly stdout: string;
  readonly code: number | null;
}

/** Runs a script that has `createLogger`. `readLate`: stderr is read only once stdout said something. */
function run(script: string, readLate = false): Promise<Run> {
  return new Promise((resolve, reject) => {
    const source = `import { createLogger } from ${JSON.stringify(logger)};\n${script}`;
    const args = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", source];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    let stdout = "";
    const read = (): void => {
      child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk;
      });
    };
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
      if (stdout === "" && readLate) read();
      stdout += chunk;
    });
    if (!readLate) read();
    child.once("error", reject);
    child.once("close", (code) => {
      const parsed = text
        .split("\n")
        .filter((line) => line.startsWith("{"))
        .map((line) => JSON.parse(line) as Record<string, unknown>);
      resolve({ lines: parsed, text, stdout, code });
    });
  });
}

describe("the JSON log", () => {
  it.each([
    ["ends by itself", "", 0],
    ["exits", "process.exit(3);", 3],
    ["dies of an exception", 'throw new Error("unexpected");', 1],
    ["dies of a rejection", 'await Promise.reject(new Error("unexpected"));', 1],
  ])("is complete, in order, when the process %s", async (_name, end, code) => {
    const result = await run(`
      const log = createLogger({ level: "info", format: "json" });
      for (let n = 0; n < 5000; n++) log.info({ n }, "line");
      ${end}`);
    expect(result.code).toBe(code);
    expect(result.lines.map(({ n }) => n)).toEqual(Array.from({ length: 5_000 }, (_, n) => n));
  });

  it("has level, time, fields and message, and errors with their causes", async () => {
    const { lines } = await run(`
      const log = createLogger({ level: "trace", format: "json" });
      const error = new Error("outer", { cause: Object.assign(new Error("inner"), { code: "E_INNER" }) });
      log.child({ requestId: "r1" }).warn({ endpoint: "a:1" }, "message");
      log.error({ error }, "failed");
      log.error({ err: error }, "failed");
      for (const level of ["error", "warn", "info", "debug", "trace"]) log[level]({}, level);`);
    expect(lines[0]).toEqual({
      level: "warn",
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
      requestId: "r1",
      endpoint: "a:1",
      msg: "message",
    });
    for (const [at, field] of [
      [1, "error"],
      [2, "err"],
    ] as const) {
      expect(lines[at]?.[field]).toMatchObject({ message: "outer", cause: { message: "inner", code: "E_INNER" } });
    }
    expect(lines.slice(3).map(({ level }) => level)).toEqual(["error", "warn", "info", "debug", "trace"]);
  });

  it("leaves out what is below its level, and says so beforehand", async () => {
    const { lines, stdout } = await run(`
      const log = createLogger({ level: "warn", format: "json" });
      for (const level of ["error", "warn", "info", "debug", "trace"]) {
        log[level]({}, level);
        process.stdout.write(String(log.isLevelEnabled(level)) + " ");
      }`);
    expect(lines.map(({ msg }) => msg)).toEqual(["error", "warn"]);
    expect(stdout).toBe("true true false false false ");
  });

  it("holds a bounded part for a reader that stalls, keeps the process going, and counts what was lost", async () => {
    const { lines, stdout, code } = await run(
      `
      const log = createLogger({ level: "info", format: "json" });
      const text = "x".repeat(1000);
      let turns = 0;
      const before = process.memoryUsage().rss;
      for (let n = 0; n < 400; n++) {
        for (let line = 0; line < 400; line++) log.info({ text }, "line");
        await new Promise((resolve) => setImmediate(resolve));
        turns++;
      }
      process.stdout.write(JSON.stringify({ turns, grownBytes: process.memoryUsage().rss - before }));`,
      true,
    );
    const { turns, grownBytes } = JSON.parse(stdout) as { turns: number; grownBytes: number };
    expect(code).toBe(0);
    expect(turns).toBe(400);
    // Of 160 MB written; part of it is what the collector has not looked at yet.
    expect(grownBytes).toBeLessThan(110 * 1024 * 1024);
    const lost = lines.filter(({ msg }) => msg !== "line").reduce((sum, line) => sum + Number(line["lines"]), 0);
    expect(lost).toBeGreaterThan(0);
    expect(lines.filter(({ msg }) => msg === "line").length + lost).toBe(160_000);
  });
});

describe("the pretty log", () => {
  it("is plain text without colours where stderr is no terminal, and complete when the process exits", async () => {
    const { text } = await run(`
      const log = createLogger({ level: "info", format: "pretty" });
      for (let n = 0; n < 200; n++) log.info({ n }, "line");
      process.exit(0);`);
    expect(text.match(/INFO.*: line/g)).toHaveLength(200);
    expect(text).not.toContain("\u001b[");
  });
});

describe("verbosity", () => {
  it.each([
    [0, "warn"],
    [1, "info"],
    [2, "info"],
    [3, "debug"],
    [4, "debug"],
    [5, "trace"],
    [10, "trace"],
  ])("-v %i is %s", (verbosity, level) => {
    expect(levelOfVerbosity(verbosity)).toBe(level);
  });
});
