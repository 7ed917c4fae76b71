/** What the command says when it cannot start: one clear line a fault, the right exit code, never a stack trace. And its help. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { packageRoot } from "../../src/app/envoy.ts";

const scratch = mkdtempSync(join(tmpdir(), "signalbox-start-"));
let busy: Server;
let busyPort = 0;

beforeAll(async () => {
  busy = createServer();
  await new Promise<void>((resolve) => busy.listen(0, "127.0.0.1", resolve));
  const address = busy.address();
  busyPort = typeof address === "object" && address !== null ? address.port : 0;
});
afterAll(async () => {
  await new Promise((resolve) => busy.close(resolve));
  rmSync(scratch, { recursive: true, force: true });
});

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

async function run(args: readonly string[]): Promise<Ended> {
  const child = spawn(join(packageRoot, "bin/signalbox"), [...args], { stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const stuck = setTimeout(() => child.kill("SIGKILL"), 15_000);
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  clearTimeout(stuck);
  return { code, stdout, stderr };
}

const freePorts = [
  "--bind-address=127.0.0.1",
  "--grpc-port=0",
  "--grpc-health-port=0",
  "--metrics-port=0",
  "--log-format=json",
];

function write(name: string, text: string): string {
  const path = join(scratch, name);
  writeFileSync(path, text);
  return path;
}

const head = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";
const endpoints = "--endpoints=127.0.0.1:9";

describe("signalbox epp ends at once", () => {
  it.each<readonly [string, () => readonly string[], number, readonly RegExp[]]>([
    [
      "for a port in use (ext-proc)",
      () => [endpoints, `--grpc-port=${busyPort}`],
      1,
      [/^signalbox epp: port \d+ \(--grpc-port\) cannot be bound: .*EADDRINUSE/],
    ],
    [
      "for a port in use (health)",
      () => [endpoints, `--grpc-health-port=${busyPort}`],
      1,
      [/^signalbox epp: port \d+ \(--grpc-health-port\) cannot be bound: .*EADDRINUSE/],
    ],
    [
      "for a port in use (metrics)",
      () => [endpoints, `--metrics-port=${busyPort}`],
      1,
      [/^signalbox epp: port \d+ \(--metrics-port\) cannot be bound: .*EADDRINUSE/],
    ],
    [
      "for a port in use on grpc-js",
      () => [endpoints, "--transport=grpc-js", `--grpc-port=${busyPort}`],
      1,
      [/^signalbox epp: port \d+ \(--grpc-port\) cannot be bound: .*EADDRINUSE/],
    ],
    [
      "without its certificate",
      () => [endpoints, `--cert-path=${scratch}/none`],
      1,
      [/^signalbox epp: .*none.*tls\.crt.*ENOENT/],
    ],
    [
      "without its manifests",
      () => [endpoints, `--manifests=${scratch}/none`],
      1,
      [/^signalbox epp: the folder .*none \(--manifests\) cannot be read: ENOENT/],
    ],
    [
      "without its configuration",
      () => [endpoints, `--config-file=${scratch}/none.yaml`],
      2,
      [/^signalbox epp: .*none\.yaml: 1 fault$/, /^ {2}cannot be read: there is no such file$/],
    ],
    [
      "with every fault of its configuration",
      () => [
        endpoints,
        `--config-file=${write("bad.yaml", `${head}featureGates: [flowControl]\nplugins: [{type: nope}]\n`)}`,
      ],
      2,
      [
        /^signalbox epp: .*bad\.yaml: 2 faults$/,
        /^ {2}featureGates\[0\]: flowControl cannot be switched on/,
        /^ {2}plugins\[0\]\.type: unknown plugin type "nope"/,
      ],
    ],
    [
      "without any endpoints",
      () => ["--config-text", head],
      2,
      [/^signalbox epp: --config-text: 1 fault$/, /^ {2}dataLayer\.discovery: missing, and --endpoints is not given/],
    ],
    [
      "with endpoints from two sources",
      () => [
        endpoints,
        "--config-text",
        `${head}plugins: [{type: file-discovery, parameters: {path: /x}}]\ndataLayer: {discovery: {pluginRef: file-discovery}}`,
      ],
      2,
      [/^signalbox epp: --config-text: 1 fault$/, /^ {2}dataLayer\.discovery: cannot stand beside --endpoints/],
    ],
    [
      "for a misspelt flag and a bad value",
      () => [endpoints, "--grpc-prot=1", "--metrics-port=x"],
      2,
      [
        /unknown flag: --grpc-prot \(did you mean --grpc-port\?\)$/,
        /--metrics-port: invalid value "x": expected a whole number$/,
        /^See signalbox epp --help\.$/,
      ],
    ],
  ])("%s", async (_why, args, code, expected) => {
    const ended = await run(["epp", ...freePorts, ...args()]);
    const lines = ended.stderr.split("\n").filter((line) => line !== "" && !line.startsWith("{"));
    expect(lines).toEqual(expected.map((line) => expect.stringMatching(line)));
    expect(ended.code).toBe(code);
    expect(ended.stderr).not.toMatch(/^\s+at /m);
  });
});

describe("--help", () => {
  it.each(["epp", "worker", "demo"])(
    "of %s teaches in a hundred columns: usage, examples, flags, environment, exit codes",
    async (command) => {
      const { code, stdout, stderr } = await run([command, "--help"]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(stdout.split("\n").filter((line) => line.length > 100)).toEqual([]);
      for (const part of [
        `Usage: signalbox ${command} [flags]`,
        "\nExamples:\n  signalbox ",
        "SIGNALBOX_",
        "Exit codes: 0 done",
      ]) {
        expect(stdout).toContain(part);
      }
    },
  );

  it("of the program lists the commands", async () => {
    const { code, stdout } = await run(["--help"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ {2}epp +the Endpoint Picker/m);
  });
});
