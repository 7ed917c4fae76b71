/** Helm as its users run it, with configuration, cache and data in a folder of its own. */
import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseAllDocuments } from "yaml";
import { toolBinary } from "../tools.ts";
import type { ChartCase } from "./cases.ts";

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly [key: string]: unknown;
}

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Helm {
  /** Never throws: a refusal is an outcome. */
  run(args: readonly string[], values?: object): Promise<Outcome>;
  /** Rendered text; throws with what Helm says. */
  template(chart: ChartCase): Promise<string>;
  close(): Promise<void>;
}

const charts = fileURLToPath(new URL("../../../charts", import.meta.url));

export function chartFolder(chart: string): string {
  return join(charts, chart);
}

/** Release and namespace of everything that is rendered without a cluster. */
export const release = "qwen";
export const namespace = "models";

export async function createHelm(kubeconfig?: string): Promise<Helm> {
  const folder = await mkdtemp(join(tmpdir(), "signalbox-helm-"));
  let count = 0;
  const environment = {
    PATH: process.env["PATH"],
    HELM_CACHE_HOME: join(folder, "cache"),
    HELM_CONFIG_HOME: join(folder, "config"),
    HELM_DATA_HOME: join(folder, "data"),
    HOME: folder,
    ...(kubeconfig === undefined ? {} : { KUBECONFIG: kubeconfig }),
  };
  const run = async (args: readonly string[], values?: object): Promise<Outcome> => {
    if (values === undefined) return await runProgram(toolBinary("helm"), args, environment);
    const file = join(folder, `values-${++count}.json`);
    await writeFile(file, JSON.stringify(values));
    return await runProgram(toolBinary("helm"), [...args, "--values", file], environment);
  };
  return {
    run,
    async template({ chart, values, apis = [] }) {
      const versions = apis.flatMap((api) => ["--api-versions", api]);
      const args = ["template", release, chartFolder(chart), "--namespace", namespace, ...versions];
      const { code, stdout, stderr } = await run(args, values);
      if (code !== 0) throw new Error(stderr);
      return stdout;
    },
    close: () => rm(folder, { recursive: true, force: true }),
  };
}

export function runProgram(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>> = process.env,
  input?: string,
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env, stdio: ["pipe", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr += text;
    });
    child.once("error", reject);
    child.once("close", (code) => resolve({ code: code ?? -1, stdout, stderr }));
    child.stdin.end(input);
  });
}

/** Every object of a rendering; throws on text that is not YAML. */
export function manifestsOf(text: string): readonly Manifest[] {
  return parseAllDocuments(text).flatMap((document) => {
    const [error] = document.errors;
    if (error !== undefined) throw error;
    const value = document.toJS() as Manifest | null;
    return value === null ? [] : [value];
  });
}

export function find(manifests: readonly Manifest[], kind: string, name: string): Manifest {
  const found = manifests.find((manifest) => manifest.kind === kind && manifest.metadata.name === name);
  if (found !== undefined) return found;
  const names = manifests.map((manifest) => `${manifest.kind}/${manifest.metadata.name}`).join(", ");
  throw new Error(`no ${kind} ${name} among ${names}`);
}

export interface Container {
  readonly name: string;
  readonly args: readonly string[];
  readonly env?: readonly { readonly name: string; readonly value?: string }[];
  readonly restartPolicy?: string;
}

interface PodSpec {
  readonly containers: readonly Container[];
  readonly initContainers?: readonly Container[];
  readonly terminationGracePeriodSeconds: number;
}

/** Of a Deployment or a StatefulSet. */
export function podSpecOf(workload: Manifest): PodSpec {
  return (workload["spec"] as { readonly template: { readonly spec: PodSpec } }).template.spec;
}

/** The picker's workload. */
export function pickerOf(manifests: readonly Manifest[]): Manifest {
  const name = `${release}-epp`;
  const found = manifests.find(
    ({ kind, metadata }) => (kind === "Deployment" || kind === "StatefulSet") && metadata.name === name,
  );
  if (found === undefined) throw new Error(`no workload ${name}`);
  return found;
}

export function pickerContainer(manifests: readonly Manifest[]): Container {
  const container = podSpecOf(pickerOf(manifests)).containers.find(({ name }) => name === "epp");
  if (container === undefined) throw new Error("no container epp");
  return container;
}

export function dataOf(configMap: Manifest): Readonly<Record<string, string>> {
  return configMap["data"] as Readonly<Record<string, string>>;
}
