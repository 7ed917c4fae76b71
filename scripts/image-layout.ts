/**
 * Lays out the root of the container image as a plain folder: the compiled picker with its production dependencies in /app, the one Node in /nodejs, and
 * the entry point. The Dockerfile's build stage runs it, and so does a test, so that what is tested is what is shipped.
 *
 *   node scripts/image-layout.ts OUT [--cpu x64|arm64]
 */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";

const cpus = ["x64", "arm64"] as const;
type Cpu = (typeof cpus)[number];

function run(program: string, args: readonly string[], cwd: string): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    cwd,
    encoding: "utf8",
    maxBuffer: 64 * 2 ** 20,
  });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")} failed: ${error?.message ?? stdout + stderr}`);
  return stdout;
}

/** Plain JavaScript, without declarations and maps, which nothing reads there. Types are the gate's to check. */
function compile(app: string): void {
  const options = ["--outDir", join(app, "dist"), "--declaration", "false", "--sourceMap", "false", "--noCheck"];
  run(process.execPath, ["node_modules/.bin/tsc", "-p", "tsconfig.build.json", ...options], process.cwd());
}

/** What the lock file says and no more; install scripts stay off, as everywhere in this project. The list of what is in it lies beside. */
function installDependencies(app: string, cpu: Cpu): void {
  for (const file of ["package.json", "package-lock.json", "LICENSE"]) copyFileSync(file, join(app, file));
  const platform = ["--os=linux", `--cpu=${cpu}`, "--libc=glibc"];
  run("npm", ["ci", "--omit=dev", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", ...platform], app);
  // What is installed is all it names from here on: the list counts what is missing as a fault.
  const left = Object.entries(JSON.parse(readFileSync("package.json", "utf8")) as Record<string, unknown>).filter(
    ([key]) => key !== "devDependencies" && key !== "scripts",
  );
  const manifest = Object.fromEntries(left);
  writeFileSync(join(app, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
  rmSync(join(app, "package-lock.json"));
  const bill = run("npm", ["sbom", "--sbom-format=cyclonedx", "--sbom-type=application", "--omit=dev"], app);
  // npm takes the folder's name for the package's.
  const named = JSON.parse(bill, (key, value) => (key === "component" ? { ...value, name: manifest["name"] } : value));
  writeFileSync(join(app, "sbom.cdx.json"), `${JSON.stringify(named)}\n`);
}

/** The project's Node is a package; in the image it has the place where distroless images keep theirs, whatever the processor. */
function moveNode(root: string, app: string, cpu: Cpu): void {
  const from = join(app, "node_modules", `node-linux-${cpu}`);
  const bin = join(root, "nodejs/bin");
  mkdirSync(bin, { recursive: true });
  renameSync(join(from, "bin/node"), join(bin, "node"));
  renameSync(join(from, "LICENSE"), join(root, "nodejs/LICENSE"));
  rmSync(from, { recursive: true });
  rmSync(join(app, "node_modules/.bin"), { recursive: true, force: true });
}

/** Packages bring declarations, maps and binaries for every platform; an image has one platform and no editor. */
function prune(app: string, cpu: Cpu): void {
  const modules = join(app, "node_modules");
  const isForeign = (name: string): boolean =>
    /\.(d\.[cm]?ts|[cm]?js\.map|ts\.map|tsbuildinfo)$/.test(name) ||
    (name.startsWith("tokenizers.") && name.endsWith(".node") && name !== `tokenizers.linux-${cpu}-gnu.node`);
  for (const entry of readdirSync(modules, { recursive: true, withFileTypes: true })) {
    if (entry.isFile() && isForeign(entry.name)) rmSync(join(entry.parentPath, entry.name));
  }
  const builds = join(modules, "zeromq/build");
  for (const system of readdirSync(builds, { withFileTypes: true })) {
    if (!system.isDirectory()) continue;
    for (const processor of readdirSync(join(builds, system.name))) {
      if (system.name !== "linux" || processor !== cpu)
        rmSync(join(builds, system.name, processor), { recursive: true });
    }
  }
}

/**
 * Without a command it is the picker, as the images are whose place it takes (their entry point is /epp and arguments are flags); with one it is
 * that command. Node itself runs it: the image has no shell. Its young generation is what bin/signalbox gives it.
 */
function writeEntryPoint(root: string): void {
  const text = [
    "#!/nodejs/bin/node --max-semi-space-size=4",
    'if (!/^([a-z]|--version$)/.test(process.argv[2] ?? "")) process.argv.splice(2, 0, "epp");',
    'import("/app/dist/main.js");',
    "",
  ].join("\n");
  writeFileSync(join(root, "epp"), text, { mode: 0o755 });
  chmodSync(join(root, "epp"), 0o755);
  symlinkSync("epp", join(root, "signalbox"));
}

/** Readable by any user, writable by none. */
function settleModes(root: string): void {
  run("chmod", ["-R", "u=rwX,go=rX", root], process.cwd());
}

function layOut(root: string, cpu: Cpu): void {
  const app = join(root, "app");
  mkdirSync(app, { recursive: true });
  compile(app);
  installDependencies(app, cpu);
  moveNode(root, app, cpu);
  prune(app, cpu);
  writeEntryPoint(root);
  settleModes(root);
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { cpu: { type: "string", default: process.arch } },
});
// Docker's name of it.
const wanted = values.cpu === "amd64" ? "x64" : values.cpu;
const cpu = cpus.find((one) => one === wanted);
const [out] = positionals;
if (out === undefined || cpu === undefined) {
  process.stderr.write(`usage: node scripts/image-layout.ts OUT [--cpu ${cpus.join("|")}]\n`);
  process.exitCode = 2;
} else if (existsSync(out) && readdirSync(out).length > 0) {
  process.stderr.write(`${out} is not empty\n`);
  process.exitCode = 2;
} else {
  layOut(resolve(out), cpu);
}
