/**
 * Generates src/gen/ from proto/ with protoc and ts-proto, then docs/configuration.md and docs/dynamo.md (gen-docs.ts) and the
 * charts' pages (gen-charts.ts). With --check nothing is written: it
 * fails when a file differs from what would be.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const target = "src/gen";
const options = [
  "enumsAsLiterals=true",
  "env=node",
  "esModuleInterop=true",
  "exportCommonSymbols=false",
  "forceLong=number",
  "importSuffix=.ts",
  "oneof=unions-value",
  "outputJsonMethods=false",
  "outputPartialMethods=true",
  "outputServices=grpc-js",
  "unrecognizedEnum=false",
  "useExactTypes=false",
  "useOptionals=messages",
];

function filesBelow(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
}

function generate(out: string): void {
  const run = spawnSync(
    process.execPath,
    [
      "node_modules/protoc/protoc.cjs",
      "--plugin=node_modules/.bin/protoc-gen-ts_proto",
      `--ts_proto_out=${out}`,
      `--ts_proto_opt=${options.join(",")}`,
      "--proto_path=proto",
      "--proto_path=node_modules/protoc/include",
      ...readdirSync("proto"),
    ],
    { stdio: "inherit" },
  );
  if (run.status !== 0) process.exit(run.status ?? 1);
}

function differences(fresh: string): string[] {
  const names = new Set([...filesBelow(fresh), ...filesBelow(target)]);
  const read = (folder: string, name: string) =>
    existsSync(join(folder, name)) ? readFileSync(join(folder, name), "utf8") : undefined;
  return [...names].filter((name) => read(fresh, name) !== read(target, name));
}

const fresh = mkdtempSync(join(tmpdir(), "signalbox-gen-"));
try {
  generate(fresh);
  if (process.argv.includes("--check")) {
    const stale = differences(fresh);
    if (stale.length > 0) {
      console.error(`src/gen is stale (run npm run gen): ${stale.join(", ")}`);
      process.exitCode = 1;
    }
  } else {
    rmSync(target, { recursive: true, force: true });
    mkdirSync(target, { recursive: true });
    cpSync(fresh, target, { recursive: true });
  }
} finally {
  rmSync(fresh, { recursive: true, force: true });
}
await import("./gen-docs.ts");
await import("./gen-charts.ts");
await import("./gen-dashboard.ts");
