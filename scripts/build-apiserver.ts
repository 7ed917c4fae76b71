/**
 * Builds the kube-apiserver that the Kubernetes tests start, from its Go modules as test/kubernetes/apiserver/ pins them, into the user's cache
 * folder under the hash of go.sum: seconds when it is there, minutes when it is not. Says what it does, and gives up after half an hour.
 */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { apiServerBinary, apiServerModule, isApiServerBuilt, kubernetesVersion } from "../test/kubernetes/binary.ts";

const limitMs = 30 * 60_000;
const sayEveryMs = 30_000;

function run(program: string, args: readonly string[]): Promise<{ readonly status: number; readonly output: string }> {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      cwd: apiServerModule,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, CGO_ENABLED: "0", GOFLAGS: "-trimpath -buildvcs=false -mod=readonly" },
    });
    const stuck = setTimeout(() => child.kill("SIGKILL"), limitMs);
    let output = "";
    const keep = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-8000);
    };
    child.stdout.on("data", keep);
    child.stderr.on("data", keep);
    child.on("error", (error) => resolve({ status: 1, output: String(error) }));
    child.on("close", (status) => {
      clearTimeout(stuck);
      resolve({ status: status ?? 1, output });
    });
  });
}

async function build(binary: string): Promise<void> {
  const folder = dirname(binary);
  mkdirSync(folder, { recursive: true });
  // Two builds at once do not see half of each other's.
  const scratch = mkdtempSync(join(folder, "build-"));
  const version = "k8s.io/component-base/version";
  const [, major = "", minor = ""] = /^v(\d+)\.(\d+)\./.exec(kubernetesVersion) ?? [];
  const stamps = { gitVersion: kubernetesVersion, gitMajor: major, gitMinor: minor, gitTreeState: "clean" };
  const flags = ["-s", "-w", ...Object.entries(stamps).map(([name, value]) => `-X ${version}.${name}=${value}`)];
  const startedAt = performance.now();
  const seconds = (): string => `${Math.round((performance.now() - startedAt) / 1000)} s`;
  const progress = setInterval(() => process.stdout.write(`  still building (${seconds()})\n`), sayEveryMs);
  try {
    process.stdout.write(
      `building kube-apiserver ${kubernetesVersion} from its Go modules (once; about 7 minutes on two cores)\n`,
    );
    const out = join(scratch, "kube-apiserver");
    const { status, output } = await run("go", [
      "build",
      "-ldflags",
      flags.join(" "),
      "-o",
      out,
      "k8s.io/kubernetes/cmd/kube-apiserver",
    ]);
    if (status !== 0)
      throw new Error(`go build failed after ${seconds()}; it needs Go 1.26 and a module proxy:\n${output}`);
    renameSync(out, binary);
    process.stdout.write(`built kube-apiserver in ${seconds()}\n`);
  } finally {
    clearInterval(progress);
    rmSync(scratch, { recursive: true, force: true });
  }
}

if (!isApiServerBuilt()) {
  try {
    await build(apiServerBinary());
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
