/** What kustomize makes of deploy/: folders as they are, or a base with components in the way a user's own overlay names them. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { parseAllDocuments } from "yaml";
import { packageRoot } from "../../../src/app/envoy.ts";
import { toolBinary } from "../tools.ts";

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly [key: string]: unknown;
}

/** Folders of deploy/: the base, and components on it. */
export interface Overlay {
  readonly base: string;
  readonly components?: readonly string[];
}

export function build({ base, components = [] }: Overlay, namespace: string): readonly Manifest[] {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "signalbox-kustomize-")));
  try {
    const at = (path: string): string => relative(folder, join(packageRoot, "deploy", path));
    const kustomization = { resources: [at(base)], components: components.map(at), namespace };
    writeFileSync(join(folder, "kustomization.yaml"), JSON.stringify(kustomization));
    const { status, stdout, stderr } = spawnSync(toolBinary("kustomize"), ["build", folder], { encoding: "utf8" });
    if (status !== 0) throw new Error(stderr);
    return parseAllDocuments(stdout).map((document) => document.toJS() as Manifest);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export interface PodTemplate {
  readonly metadata: { readonly labels: Readonly<Record<string, string>> };
  readonly spec: {
    readonly containers: readonly Container[];
    readonly terminationGracePeriodSeconds: number;
  };
}

export interface Container {
  readonly image: string;
  readonly args: readonly string[];
  readonly env?: readonly { readonly name: string; readonly value?: string }[];
  readonly ports: readonly { readonly name: string; readonly containerPort: number }[];
  readonly livenessProbe?: Probe;
  readonly readinessProbe?: Probe;
}

interface Probe {
  readonly grpc?: { readonly port: number; readonly service: string };
}

export function find(manifests: readonly Manifest[], kind: string, name: string): Manifest {
  const found = manifests.find((one) => one.kind === kind && one.metadata.name === name);
  if (found === undefined) throw new Error(`there is no ${kind} ${name}`);
  return found;
}

export function templateOf(deployment: Manifest): PodTemplate {
  return (deployment["spec"] as { readonly template: PodTemplate }).template;
}
