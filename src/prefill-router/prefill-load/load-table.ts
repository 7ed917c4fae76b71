/**
 * The prefill-load table that the settings ask for: from a file, or, where Dynamo's variables describe a model to AISimulate and there is no file,
 * from the package's script, run once at start. Whatever keeps it from being there is a fault that says what to do.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { RouterConfig } from "../config.ts";
import type { Environment } from "../settings/environment.ts";
import { type EstimatorConfig, readEstimatorConfig, renamedVariables, wholeVariable } from "./estimator-config.ts";
import { type PrefillLoadTable, parsePrefillLoadTable } from "./prefill-load-table.ts";

const script = fileURLToPath(new URL("../../../bin/prefill-load-table.py", import.meta.url));

const maxTableBytes = 32 << 20;

/** Some models take a minute to load; whoever starts a picker is not to wait for more. */
const scriptTimeoutMs = 120_000;

type TableLoad = { readonly table: PrefillLoadTable } | { readonly fault: string };

type TableConfig = Pick<RouterConfig, "routerPrefillLoadModel" | "routerPrefillLoadTable" | "routerPrefillLoadPython">;

/** Undefined where prompt tokens count in full, or where there are faults. */
export function loadPrefillLoad(
  config: TableConfig,
  environment: Environment,
  faults: string[],
): PrefillLoadTable | undefined {
  const { routerPrefillLoadModel: model, routerPrefillLoadTable: path, routerPrefillLoadPython: python } = config;
  if (model === "none") {
    if (path !== undefined) faults.push("routerPrefillLoadTable requires routerPrefillLoadModel ais");
    if (environment[wholeVariable]) faults.push(`${wholeVariable} requires routerPrefillLoadModel ais`);
    return undefined;
  }
  const renamed = renamedVariables(environment);
  if (renamed.length > 0) {
    faults.push(`${renamed.join(", ")} are read no more: their names begin with DYN_AIS_`);
    return undefined;
  }
  const loaded = path === undefined ? describedTable(environment, python, faults) : fileTable(path);
  if (loaded === undefined) return undefined;
  if ("table" in loaded) return loaded.table;
  faults.push(loaded.fault);
  return undefined;
}

function describedTable(environment: Environment, python: string, faults: string[]): TableLoad | undefined {
  const read = readEstimatorConfig(environment);
  switch (read.kind) {
    case "config":
      return predictedTable(read.config, python, environment);
    case "faults":
      faults.push(...read.faults);
      return undefined;
    case "unset":
      return {
        fault: `routerPrefillLoadModel ais requires routerPrefillLoadTable, or ${wholeVariable} or DYN_AIS_* that describe the model`,
      };
    default:
      return read satisfies never;
  }
}

function fileTable(path: string): TableLoad {
  let text: string;
  try {
    if (statSync(path).size > maxTableBytes) {
      return { fault: `routerPrefillLoadTable: ${path} has more than ${maxTableBytes} bytes` };
    }
    text = readFileSync(path, "utf8");
  } catch (error) {
    return { fault: `routerPrefillLoadTable: ${path} cannot be read: ${messageOf(error)}` };
  }
  const read = parsePrefillLoadTable(text);
  return read.kind === "table" ? read : { fault: `routerPrefillLoadTable: ${path} ${read.fault}` };
}

/** A configuration that is read again must not hold up what is being served, so what does not change is not asked for twice. */
let lastPredicted: { readonly key: string; readonly table: PrefillLoadTable } | undefined;

function predictedTable(config: EstimatorConfig, python: string, environment: Environment): TableLoad {
  const key = JSON.stringify([python, config]);
  if (lastPredicted?.key === key) return lastPredicted;
  const scratch = mkdtempSync(join(tmpdir(), "signalbox-prefill-load-"));
  try {
    const output = join(scratch, "table.json");
    const args = [script, "--config", JSON.stringify(config), "--output", output];
    const ended = spawnSync(python, args, {
      encoding: "utf8",
      env: environment,
      stdio: ["ignore", "ignore", "pipe"],
      timeout: scriptTimeoutMs,
      killSignal: "SIGKILL",
    });
    const failure = failureOf(ended, python);
    if (failure !== undefined) {
      return {
        fault: `routerPrefillLoadModel ais: ${failure}; a table made elsewhere may be given as routerPrefillLoadTable`,
      };
    }
    const loaded = fileTable(output);
    if ("table" in loaded) lastPredicted = { key, table: loaded.table };
    return loaded;
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

function failureOf(ended: ReturnType<typeof spawnSync>, python: string): string | undefined {
  const { error, status, signal, stderr } = ended;
  if (error !== undefined && "code" in error && error.code === "ETIMEDOUT") {
    return `the estimator has not answered within ${scriptTimeoutMs / 1000} s`;
  }
  if (error !== undefined) return `${python} cannot be run (${messageOf(error)})`;
  if (status === 0) return undefined;
  const said = String(stderr).trim().split("\n").at(-1) ?? "";
  return said === "" ? `the estimator ended with ${signal ?? `status ${status}`}` : said;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
