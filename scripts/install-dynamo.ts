/**
 * Installs the NVIDIA Dynamo wheels of scripts/dynamo-requirements.txt into .cache/dynamo/venv. A marker written last names what is installed, so
 * that a warm run costs nothing and a half-done installation is made anew.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";

const root = dirname(import.meta.dirname);
const requirements = join(root, "scripts/dynamo-requirements.txt");
const venv = join(root, ".cache/dynamo/venv");
const inVenv = join(venv, "bin/python");
const marker = join(venv, "installed");
const attempts = 4;
/** For one attempt at fetching 100 MB; pip gives up on a silent connection long before. */
const attemptTimeoutMs = 15 * 60_000;
/** Imports all that the tests start, so that a missing package shows here and not in a test. */
const probe =
  "import dynamo.mocker.main, dynamo.frontend.main, dynamo.select_service.main, dynamo.indexer.main, dynamo.slot_tracker.main";

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function wanted(): string {
  return createHash("sha256").update(readFileSync(requirements)).digest("hex");
}

/** What the marker names; nothing when the environment's interpreter has gone with the Python it was made from. */
function installed(): string {
  if (!existsSync(inVenv)) return "";
  try {
    return readFileSync(marker, "utf8");
  } catch {
    return "";
  }
}

/** The first Python the wheels are built for that can make environments; what is wrong with the others otherwise. */
function findPython(): string {
  const faults: string[] = [];
  const configured = process.env["PYTHON"];
  const candidates = [configured, "python3", "python3.12", "python3.11", "python3.13", "python3.10"];
  for (const candidate of candidates) {
    if (candidate === undefined || candidate === "") continue;
    const check = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])";
    const { status, stdout, stderr } = spawnSync(candidate, ["-c", check], { encoding: "utf8", timeout: 30_000 });
    if (status === 0 && /^3\.1[0-3]$/.test(stdout.trim())) return candidate;
    const fault = status === 0 ? `is ${stdout.trim()}` : (stderr ?? "").trim().split("\n").at(-1) || "not found";
    faults.push(`  ${candidate}: ${fault}`);
  }
  throw new Error(
    `Dynamo needs Python 3.10 to 3.13 with venv and pip (Debian: python3-venv); PYTHON= names one.\n${faults.join("\n")}`,
  );
}

/** Runs a command, showing the lines that tell progress; all of them when it fails. */
function run(file: string, args: readonly string[], shown: RegExp): Promise<void> {
  const child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"], cwd: root, timeout: attemptTimeoutMs });
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on("line", (line) => {
      lines.push(line);
      if (shown.test(line)) say(`  ${line.trim()}`);
    });
  }
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      if (code === 0) return resolve();
      reject(new Error(`${[file, ...args].join(" ")} ended with ${code ?? signal}:\n${lines.slice(-30).join("\n")}`));
    });
  });
}

async function install(): Promise<void> {
  const python = findPython();
  rmSync(venv, { recursive: true, force: true });
  mkdirSync(dirname(venv), { recursive: true });
  await run(python, ["-m", "venv", venv], /never/);
  const pip = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"];
  const args = [...pip, "--timeout=60", "--retries=5", "--no-deps", "--only-binary=:all:", "-r", requirements];
  for (let attempt = 1; ; attempt += 1) {
    try {
      await run(inVenv, args, /^(Downloading|Installing collected|WARNING: Retrying)/);
      break;
    } catch (error) {
      if (attempt === attempts) throw error;
      say(`  attempt ${attempt} of ${attempts} failed, trying again: ${String(error).split("\n").at(-1)}`);
      await new Promise((resolve) => setTimeout(resolve, attempt * 5_000));
    }
  }
  await run(inVenv, ["-c", probe], /never/);
  writeFileSync(marker, wanted());
}

if (installed() !== wanted()) {
  const startedAt = performance.now();
  say("installing NVIDIA Dynamo into .cache/dynamo/venv (100 MB to fetch, 300 MB on disk, once)");
  try {
    await install();
    say(`installed in ${((performance.now() - startedAt) / 1000).toFixed(0)} s`);
  } catch (error) {
    process.stderr.write(`Dynamo could not be installed: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
