/** A Python process with Dynamo's own code that answers commands: a line of JSON in, a line of JSON out (oracles/*.py). u64 travel as decimal strings. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { dynamoPython } from "./process.ts";

export interface Oracle {
  /** Rejects with what the oracle says when it refuses the command, or when it has ended. */
  ask<Answer>(command: string, members?: object): Promise<Answer>;
  close(): Promise<void>;
}

const graceMs = 5_000;

/** `script` is a file of oracles/; of the environment it gets PATH, HOME and what is given. */
export function startOracle(script: string, environment: Readonly<Record<string, string>> = {}): Oracle {
  const tied = join(import.meta.dirname, "tied.py");
  const file = join(import.meta.dirname, "oracles", script);
  const child = spawn(dynamoPython(), [tied, String(process.pid), file], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { PATH: process.env["PATH"], HOME: process.env["HOME"], ...environment },
  });
  // A write to an oracle that has ended fails here; the missing answer says so.
  child.stdin.on("error", () => undefined);
  const exited = once(child, "exit");
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async ask<Answer>(command: string, members: object = {}) {
      child.stdin.write(`${JSON.stringify({ command, ...members })}\n`);
      const line = await lines.next();
      if (line.done === true) throw new Error(`${script} has ended`);
      const { answer, error } = JSON.parse(line.value) as { readonly answer: Answer; readonly error?: string };
      if (error !== undefined) throw new Error(error);
      return answer;
    },
    async close() {
      child.stdin.end();
      const stuck = setTimeout(() => child.kill("SIGKILL"), graceMs);
      await exited;
      clearTimeout(stuck);
    },
  };
}
