/** The package as users get it: packed, installed elsewhere, run. */
import { spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";

const scratch = mkdtempSync(join(tmpdir(), "signalbox-package-"));
const installed = join(scratch, "elsewhere");
const bin = join(installed, "node_modules/.bin/signalbox");

function run(program: string, args: readonly string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}) {
  return spawnSync(program, args, { encoding: "utf8", ...options });
}

describe("the packed package", () => {
  beforeAll(() => {
    const packed = run("npm", ["pack", "--silent", "--pack-destination", scratch]);
    expect({ status: packed.status, stderr: packed.stderr }).toMatchObject({ status: 0 });
    const tarball = readdirSync(scratch).find((name) => name.endsWith(".tgz"));
    mkdirSync(installed);
    writeFileSync(join(installed, "package.json"), '{"private":true}');
    const flags = ["--omit=dev", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
    const install = run("npm", ["install", ...flags, join(scratch, tarball ?? "")], { cwd: installed });
    expect({ status: install.status, stderr: install.stderr }).toMatchObject({ status: 0 });
  }, 180_000);
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  it("runs by its bin on the Node that it brings", () => {
    expect(run(bin, ["--version"]).stdout).toMatch(/^signalbox \d+\.\d+\.\d+\n$/);
    expect(run(bin, ["epp", "--help"]).stdout).toContain("--grpc-port");
  });

  it("is a library too: the example of docs/prefill-router.md runs, and its types are there", () => {
    const docs = readFileSync(join(installed, "node_modules/signalbox/docs/prefill-router.md"), "utf8");
    const [, example = ""] = /```js\n(.*?)```/s.exec(docs) ?? [];
    writeFileSync(join(installed, "example.mjs"), example);
    const { stdout, stderr } = run(process.execPath, ["example.mjs"], { cwd: installed });
    expect({ stdout, stderr }).toEqual({ stdout: "worker 2 has 48 of 100 tokens\n", stderr: "" });
    expect(existsSync(join(installed, "node_modules/signalbox/dist/prefill-router/library.d.ts"))).toBe(true);
  });

  it("becomes the command: its process id, its signals and its exit code", async () => {
    const child = spawn(bin, ["worker", "--host=127.0.0.1", "--port=0"], { stdio: ["ignore", "pipe", "inherit"] });
    const exited = new Promise<number | null>((resolve) => child.once("exit", (code) => resolve(code)));
    const line = await new Promise<string>((resolve) =>
      child.stdout.once("data", (chunk: Buffer) => resolve(String(chunk))),
    );
    expect(line).toContain("listens on http://127.0.0.1:");
    expect(run("cat", [`/proc/${child.pid}/cmdline`]).stdout).toContain("node-linux");
    child.kill("SIGTERM");
    expect(await exited).toBe(0);
    expect(run(bin, ["epp", "--no-such-flag"]).status).toBe(2);
  });

  it("says in one line that a Node is too old", () => {
    const old = join(scratch, "old");
    mkdirSync(old);
    writeFileSync(join(old, "node"), "#!/bin/sh\necho v20.11.0\n", { mode: 0o755 });
    const lonely = join(scratch, "lonely");
    mkdirSync(join(lonely, "bin"), { recursive: true });
    run("cp", [join(process.cwd(), "bin/signalbox"), join(lonely, "bin/signalbox")]);
    symlinkSync(join(lonely, "bin/signalbox"), join(scratch, "linked"));
    const answer = run(join(scratch, "linked"), ["epp"], { env: { PATH: `${old}:/usr/bin:/bin` } });
    expect(answer.status).toBe(1);
    expect(answer.stderr.trim().split("\n")).toEqual([
      `signalbox: needs Node.js 22.19 or newer; ${join(old, "node")} is v20.11.0`,
    ]);
  });
});
