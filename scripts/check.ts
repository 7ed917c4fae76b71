/**
 * The gate, step by step with times: everything that must hold before a change lands; with the argument "dynamo" or "kubernetes", the tests against
 * the real thing. Runs on past a failure, so that one run shows all of them, and closes with "N passed, M failed" (a static step counts as one, a
 * test suite as its tests). A step that takes longer than its limit is ended, with all it started, and has failed.
 */
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

interface Step {
  readonly name: string;
  readonly command: readonly string[];
  /** Jest suites report their own counts. */
  readonly isSuite?: boolean;
  /** Says of each test file when it is done: for suites that take many minutes. */
  readonly tellsFiles?: boolean;
  /** Several times what it takes on two idle cores. */
  readonly limitMinutes?: number;
}

const defaultLimitMinutes = 10;
/** From a suite's report to the end of its process: it goes on only when a test has left something open. */
const lingersMs = 30_000;

const node = process.execPath;
const bin = (name: string) => join("node_modules", ".bin", name);
const jest = ["--experimental-vm-modules", "--disable-warning=ExperimentalWarning", "node_modules/jest/bin/jest.js"];

const gate: readonly Step[] = [
  { name: "generated code is current", command: [node, "scripts/gen.ts", "--check"] },
  { name: "WebAssembly modules are current", command: [node, "scripts/build-wasm.ts", "--check"] },
  { name: "format and fast lint", command: [node, bin("biome"), "check", "--error-on-warnings", "."] },
  {
    name: "typed lint",
    command: [node, bin("oxlint"), "--type-aware", "--deny-warnings", "src", "test", "bench", "scripts"],
  },
  { name: "types", command: [node, bin("tsc"), "--noEmit"] },
  {
    name: "dependency rule and unit tests",
    // Two processes, each begun anew when it has grown: modules of finished test files are not given back.
    command: [node, ...jest, "--maxWorkers=2", "--workerIdleMemoryLimit=512MB", "test/layers.test.ts", "test/unit"],
    isSuite: true,
  },
  { name: "conformance", command: [node, ...jest, "--runInBand", "test/conformance"], isSuite: true },
  {
    name: "integration",
    // Servers are waited for most of the time: two files side by side. What counts processor time goes alone.
    command: [
      node,
      ...jest,
      "--testPathIgnorePatterns=integration/cost",
      "--maxWorkers=2",
      "--workerIdleMemoryLimit=512MB",
      "test/integration",
    ],
    isSuite: true,
  },
  {
    name: "cost of a request",
    command: [node, ...jest, "--runInBand", "test/integration/cost.test.ts"],
    isSuite: true,
  },
  { name: "end to end", command: [node, ...jest, "--runInBand", "test/e2e"], isSuite: true },
];

function real(name: string, folder: string, options: readonly string[], launcher: readonly string[] = []): Step {
  const command = [...launcher, node, ...jest, "--config", `${folder}/jest.config.mjs`, ...options];
  return { name, command, isSuite: true, tellsFiles: true, limitMinutes: 25 };
}

const inBand = "--runInBand";
/** Those that count on the machine while they keep it busy. */
const underLoad = ["churn", "handover", "large-fleet"] as const;

/** Those with pods of their own run in namespaces of their own. */
function kubernetesSteps(only: readonly string[]): readonly Step[] {
  const inNamespace = [node, "test/kubernetes/in-namespace.ts"];
  const hasPods = (path: string): boolean => /^test\/kubernetes\/(gateway|kubelet)\b/.test(path);
  const [apiServer, gateways] = ["test/kubernetes", "test/kubernetes/gateway"];
  const [withPods, withoutPods] = [only.filter(hasPods), only.filter((path) => !hasPods(path))];
  if (only.length > 0) {
    return [
      ...(withoutPods.length > 0 ? [real("real Kubernetes API server", apiServer, [inBand, ...withoutPods])] : []),
      ...(withPods.length > 0 ? [real("real gateways", gateways, [inBand, ...withPods], inNamespace)] : []),
    ];
  }
  const loads = underLoad.map((name) => `test/kubernetes/${name}`);
  return [
    // Leases, restarts and rotations are waited for most of the time: two files side by side.
    real("real Kubernetes API server", apiServer, [
      `--testPathIgnorePatterns=/kubernetes/(gateway|kubelet|${underLoad.join("|")})`,
      "--maxWorkers=2",
    ]),
    real("real Kubernetes API server under load", apiServer, [inBand, ...loads]),
    real("real gateways", gateways, [inBand], inNamespace),
  ];
}

const suites: Readonly<Record<string, (only: readonly string[]) => readonly Step[]>> = {
  dynamo: (only) => [real("real Dynamo", "test/dynamo", [inBand, ...only])],
  kubernetes: kubernetesSteps,
};
const steps = suites[process.argv[2] ?? ""]?.(process.argv.slice(3)) ?? gate;
const scratch = mkdtempSync(join(tmpdir(), "signalbox-check-"));
const propertySeed = process.env["SIGNALBOX_PROPERTY_SEED"] ?? seedOfCommit();
const isTerminal = process.stdout.isTTY === true;
const paint = (code: number, text: string) => (isTerminal ? `\u001b[${code}m${text}\u001b[0m` : text);

/** The group of the step that runs; nothing between steps. */
let endRunning: ((signal: NodeJS.Signals) => void) | undefined;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, () => {
    endRunning?.(signal);
    process.kill(process.pid, signal);
  });
}

/** In a process group of its own, so that nothing the step started outlives its limit or an interruption. */
function run(
  command: readonly string[],
  { tellsFiles = false, limitMinutes = defaultLimitMinutes }: Step,
  report: string,
): Promise<{ readonly status: number; readonly output: string }> {
  const [program = "", ...args] = command;
  const environment = {
    ...process.env,
    PATH: `${join(process.cwd(), "node_modules/.bin")}:${process.env["PATH"] ?? ""}`,
    SIGNALBOX_PROPERTY_SEED: propertySeed,
  };
  return new Promise((resolve) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env: environment, detached: true });
    endRunning = (signal) => {
      try {
        process.kill(-(child.pid ?? Number.NaN), signal);
      } catch {
        // It is gone already.
      }
    };
    let output = "";
    let told = 0;
    const keep = (chunk: Buffer): void => {
      output += chunk.toString();
      if (!tellsFiles) return;
      const whole = output.lastIndexOf("\n") + 1;
      for (const line of output.slice(told, whole).matchAll(/^(?:PASS|FAIL) .*$/gm))
        process.stdout.write(`  ${line[0]}\n`);
      told = Math.max(told, whole);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    const kill = (why: string): void => {
      output += `\n${why}\n`;
      endRunning?.("SIGKILL");
      // Of what left the group, something may still hold the pipes.
      setTimeout(() => end(1), 5_000).unref();
    };
    const stuck = setTimeout(() => kill(`ended after ${limitMinutes} minutes, its limit`), limitMinutes * 60_000);
    const watch = setInterval(() => {
      if (!existsSync(report)) return;
      clearInterval(watch);
      lingering = setTimeout(
        () => kill("all tests are over, and the process goes on: one of them has left something open"),
        lingersMs,
      );
    }, 1_000);
    let lingering: NodeJS.Timeout | undefined;
    const end = (status: number): void => {
      clearTimeout(stuck);
      clearInterval(watch);
      clearTimeout(lingering);
      endRunning = undefined;
      resolve({ status, output });
    };
    child.on("error", (error) => {
      output += `${String(error)}\n`;
      end(1);
    });
    child.on("close", (status) => end(status ?? 1));
  });
}

/** By what is committed: the same cases wherever a commit is tried again, other ones with each new commit. */
function seedOfCommit(): string {
  let tree = "";
  try {
    tree = execFileSync("git", ["rev-parse", "HEAD^{tree}"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  } catch {
    // An unpacked archive has no commit: one seed will do.
  }
  return String(createHash("sha256").update(tree.trim()).digest().readInt32BE());
}

function countsOf(
  report: string,
): { readonly passed: number; readonly failed: number; readonly skipped: number } | undefined {
  try {
    const parsed = JSON.parse(readFileSync(report, "utf8")) as Record<string, number>;
    const brokenSuites = parsed["numRuntimeErrorTestSuites"] ?? 0;
    return {
      passed: parsed["numPassedTests"] ?? 0,
      failed: (parsed["numFailedTests"] ?? 0) + brokenSuites,
      skipped: (parsed["numPendingTests"] ?? 0) + (parsed["numTodoTests"] ?? 0),
    };
  } catch {
    return undefined;
  }
}

let passed = 0;
let failed = 0;
for (const [index, step] of steps.entries()) {
  const startedAt = performance.now();
  process.stdout.write(`[${index + 1}/${steps.length}] ${step.name} ...${step.tellsFiles === true ? "\n" : " "}`);
  const report = join(scratch, `${index}.json`);
  const suite = step.isSuite ? ["--json", `--outputFile=${report}`] : [];
  const { status, output } = await run([...step.command, ...suite], step, report);
  const counts = step.isSuite ? countsOf(report) : undefined;
  // A skipped test is a defect here: nothing passes by skipping.
  const stepFailed =
    counts === undefined ? Number(status !== 0) : counts.failed + counts.skipped || Number(status !== 0);
  passed += counts?.passed ?? Number(status === 0);
  failed += stepFailed;
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  const tests =
    counts === undefined ? "" : ` ${counts.passed} tests${counts.skipped > 0 ? `, ${counts.skipped} skipped` : ""},`;
  process.stdout.write(`${stepFailed === 0 ? paint(32, "ok") : paint(31, "FAILED")}${tests} ${seconds} s\n`);
  if (stepFailed > 0) process.stdout.write(`${output.replace(/^\{"numFailedTestSuites".*$/m, "")}\n`);
}
rmSync(scratch, { recursive: true, force: true });
if (failed > 0) process.stdout.write(`\nproperty tests ran with SIGNALBOX_PROPERTY_SEED=${propertySeed}\n`);
process.stdout.write(`\n${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 ? 0 : 1;
