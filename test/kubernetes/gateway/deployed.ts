/** Manifests of deploy/ as they are, put into a namespace: what `kubectl apply -k` with a namespace does to them. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse, parseAllDocuments } from "yaml";
import { packageRoot } from "../../../src/app/envoy.ts";
import type { ClusterObject } from "../cluster.ts";

const cluster = new Set(["ClusterRole", "ClusterRoleBinding", "GatewayClass", "Namespace"]);

interface Subject {
  readonly kind: string;
  readonly name: string;
  readonly namespace?: string;
}

/** What the kustomization of a folder of deploy/ lists. */
export async function deployedObjects(part: string, namespace: string): Promise<readonly ClusterObject[]> {
  const folder = join(packageRoot, "deploy", part);
  const { resources } = parse(await readFile(join(folder, "kustomization.yaml"), "utf8")) as {
    readonly resources: readonly string[];
  };
  const texts = await Promise.all(resources.map((file) => readFile(join(folder, file), "utf8")));
  return texts
    .flatMap((text) => parseAllDocuments(text))
    .map((document) => inNamespace(document.toJS() as ClusterObject, namespace));
}

function inNamespace(object: ClusterObject, namespace: string): ClusterObject {
  const subjects = object["subjects"] as readonly Subject[] | undefined;
  return {
    ...object,
    metadata: cluster.has(object.kind) ? object.metadata : { ...object.metadata, namespace },
    ...(subjects === undefined ? {} : { subjects: subjects.map((subject) => ({ ...subject, namespace })) }),
  };
}

interface PodTemplate {
  readonly spec: { readonly containers: readonly { readonly args?: readonly string[] }[] };
}

/** The same with further arguments of its first container. */
export function withArgs(deployment: ClusterObject, ...args: readonly string[]): ClusterObject {
  const spec = deployment["spec"] as { readonly template: PodTemplate };
  const { template } = spec;
  const [first, ...others] = template.spec.containers;
  const containers = [{ ...first, args: [...(first?.args ?? []), ...args] }, ...others];
  return { ...deployment, spec: { ...spec, template: { ...template, spec: { ...template.spec, containers } } } };
}
