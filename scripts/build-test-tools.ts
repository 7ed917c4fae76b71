/**
 * Puts what the Kubernetes tests need into the user's cache folder: programs built from their Go modules as test/kubernetes/tools/ pins them, and
 * definitions of kinds out of such modules. Arguments name some of them (`kube-apiserver`, `definitions`); none means all. What is there already
 * costs milliseconds and needs no Go.
 */
import { spawn } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { findEtcd } from "../test/etcd.ts";
import { bundleFolder, bundleNames, bundles } from "../test/kubernetes/definitions.ts";
import { moduleFolder, requiredVersion, type ToolName, toolNames, toolPath, tools } from "../test/kubernetes/tools.ts";

const limitMs = 30 * 60_000;
const sayEveryMs = 30_000;

/** What it printed; an error with the end of that when it fails. */
function go(folder: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const flags = "-trimpath -buildvcs=false -mod=readonly";
    const environment = { ...process.env, CGO_ENABLED: "0", GOFLAGS: flags, GOWORK: "off" };
    const child = spawn("go", args, { cwd: folder, stdio: ["ignore", "pipe", "pipe"], env: environment });
    const stuck = setTimeout(() => child.kill("SIGKILL"), limitMs);
    let printed = "";
    let complaints = "";
    child.stdout.on("data", (chunk: Buffer) => {
      printed += chunk.toString();
    });
    child.stderr.on("data", (chunk: Buffer) => {
      complaints = (complaints + chunk.toString()).slice(-8000);
    });
    const needs = "the Kubernetes tests need Go 1.26 and a module proxy";
    child.on("error", (cause) => {
      clearTimeout(stuck);
      reject(new Error(`${needs}; go could not be started: ${String(cause)}`, { cause }));
    });
    child.on("close", (status) => {
      clearTimeout(stuck);
      if (status === 0) resolve(printed);
      else reject(new Error(`go ${args.join(" ")} failed in ${folder}; ${needs}:\n${complaints}`));
    });
  });
}

/** Made beside its place and renamed: two at once, or one that is interrupted, leave nothing half-made. */
async function place(target: string, make: (scratch: string) => Promise<void>): Promise<void> {
  mkdirSync(dirname(target), { recursive: true });
  const scratch = mkdtempSync(join(dirname(target), "build-"));
  try {
    const made = join(scratch, basename(target));
    await make(made);
    try {
      renameSync(made, target);
    } catch (error) {
      // A folder that another run put there meanwhile is as good.
      if (!existsSync(target)) throw error;
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function linkerFlags(name: ToolName): string {
  const { isStamped = false, module } = tools[name];
  if (!isStamped) return "-s -w";
  const release = requiredVersion(module, "k8s.io/kubernetes");
  const [, major = "", minor = ""] = /^v(\d+)\.(\d+)\./.exec(release) ?? [];
  const stamps = { gitVersion: release, gitMajor: major, gitMinor: minor, gitTreeState: "clean" };
  const stamped = Object.entries(stamps).map(([key, value]) => `-X k8s.io/component-base/version.${key}=${value}`);
  return ["-s", "-w", ...stamped].join(" ");
}

async function build(name: ToolName): Promise<void> {
  const { module, package: target, isTest = false, minutes } = tools[name];
  const startedAt = performance.now();
  const seconds = (): string => `${Math.round((performance.now() - startedAt) / 1000)} s`;
  process.stdout.write(`building ${name} from its Go modules (once; about ${minutes} min on two cores)\n`);
  const progress = setInterval(() => process.stdout.write(`  still building ${name} (${seconds()})\n`), sayEveryMs);
  try {
    await place(toolPath(name), async (made) => {
      const command = isTest ? ["test", "-vet=off", "-c"] : ["build"];
      await go(moduleFolder(module), [...command, "-ldflags", linkerFlags(name), "-o", made, target]);
    });
    process.stdout.write(`built ${name} in ${seconds()}\n`);
  } finally {
    clearInterval(progress);
  }
}

async function copyDefinitions(): Promise<void> {
  for (const name of bundleNames) {
    if (existsSync(bundleFolder(name))) continue;
    const { module, dependency, source, files } = bundles[name];
    const printed = await go(moduleFolder(module), ["mod", "download", "-json", dependency]);
    const { Dir: folder } = JSON.parse(printed) as { readonly Dir: string };
    const from = join(folder, source);
    const isFile = statSync(from).isFile();
    const taken = isFile ? [basename(from)] : (files ?? readdirSync(from).filter((file) => file.endsWith(".yaml")));
    await place(bundleFolder(name), async (made) => {
      mkdirSync(made);
      for (const file of taken) {
        const copy = join(made, file);
        cpSync(isFile ? from : join(from, file), copy);
        // Modules are read-only.
        chmodSync(copy, 0o644);
      }
      await Promise.resolve();
    });
    process.stdout.write(`copied the definitions of ${name} ${requiredVersion(module, dependency)}\n`);
  }
}

const wanted = process.argv.slice(2);
const isWanted = (name: string): boolean => wanted.length === 0 || wanted.includes(name);
const others = ["etcd", "definitions"];
const unknown = wanted.find((name) => !others.includes(name) && !toolNames.includes(name as ToolName));
try {
  if (unknown !== undefined) {
    throw new Error(`no test tool is called ${unknown}; there are: ${[...others, ...toolNames].join(", ")}`);
  }
  // Tests in a network namespace of their own cannot fetch it.
  if (isWanted("etcd")) await findEtcd();
  if (isWanted("definitions")) await copyDefinitions();
  for (const name of toolNames) if (isWanted(name) && !existsSync(toolPath(name))) await build(name);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
