/**
 * Runs a command in user and network namespaces of its own, where it is root and alone: `node in-namespace.ts PROGRAM ARGS…`. Needs no root; says
 * what is missing where it is not allowed. Exit code and signals are the command's.
 */
import { spawn, spawnSync } from "node:child_process";

const needed = {
  unshare: "util-linux",
  nsenter: "util-linux",
  setpriv: "util-linux",
  ip: "iproute2",
  openssl: "openssl",
} as const;

function missing(): string | undefined {
  for (const [program, provider] of Object.entries(needed)) {
    if (spawnSync(program, ["--version"]).error !== undefined && spawnSync(program, ["-V"]).error !== undefined) {
      return `${program} is not installed (${provider})`;
    }
  }
  const { status, stderr } = spawnSync("unshare", ["-rnm", "ip", "link", "add", "name", "trial", "type", "bridge"]);
  return status === 0 ? undefined : `user and network namespaces cannot be made here (unshare -rn): ${String(stderr)}`;
}

const fault = missing();
if (fault !== undefined) {
  process.stderr.write(`the tests with a gateway cannot run: ${fault}\n`);
  process.exitCode = 1;
} else {
  // Should this process be killed, the command goes with it.
  const shell = ["sh", "-c", 'ip link set lo up && exec "$@"', "in-namespace"];
  const command = ["--pdeathsig", "KILL", "unshare", "-rn", ...shell, ...process.argv.slice(2)];
  const child = spawn("setpriv", command, { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  child.once("exit", (code, signal) => {
    process.exitCode = code ?? (signal === null ? 1 : 128);
  });
}
