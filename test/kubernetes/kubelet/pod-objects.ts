/** The parts of Pods that the kubelet reads. */
import type { KubernetesObject } from "../../../src/net/kubernetes/list-watch.ts";
import type { NamedPort, ProbeSpec } from "./probe.ts";

export interface EnvironmentVariable {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: { readonly fieldRef?: { readonly fieldPath: string } };
}

export interface ContainerSpec {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly env?: readonly EnvironmentVariable[];
  readonly ports?: readonly NamedPort[];
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string; readonly subPath?: string }[];
  readonly livenessProbe?: ProbeSpec;
  readonly readinessProbe?: ProbeSpec;
  readonly securityContext?: {
    readonly readOnlyRootFilesystem?: boolean;
    readonly capabilities?: { readonly drop?: readonly string[] };
  };
}

export interface VolumeSpec {
  readonly name: string;
  readonly configMap?: { readonly name: string };
  readonly secret?: { readonly secretName: string };
  readonly emptyDir?: object;
}

export interface Pod extends KubernetesObject {
  readonly metadata: KubernetesObject["metadata"] & {
    readonly namespace: string;
    readonly uid: string;
    readonly deletionTimestamp?: string;
    readonly deletionGracePeriodSeconds?: number;
  };
  readonly spec: {
    readonly nodeName?: string;
    readonly serviceAccountName?: string;
    readonly containers: readonly ContainerSpec[];
    readonly initContainers?: readonly (ContainerSpec & { readonly restartPolicy?: string })[];
    readonly volumes?: readonly VolumeSpec[];
  };
}

/** Containers that begin before the others and end after them. */
export function sidecarsOf({ metadata, spec: { initContainers = [] } }: Pod): readonly ContainerSpec[] {
  const other = initContainers.find(({ restartPolicy }) => restartPolicy !== "Always");
  if (other !== undefined) throw new Error(`${metadata.name}: ${other.name} is no sidecar; others are not run here`);
  return initContainers;
}

/** What a pod may say of itself in its containers' environment. */
export function fieldOf({ metadata, spec }: Pod, address: string, path: string): string {
  const known: Readonly<Record<string, string>> = {
    "metadata.name": metadata.name,
    "metadata.namespace": metadata.namespace,
    "metadata.uid": metadata.uid,
    "status.podIP": address,
    "status.podIPs": address,
    "spec.nodeName": spec.nodeName ?? "",
    "spec.serviceAccountName": spec.serviceAccountName ?? "default",
  };
  const value = known[path] ?? labelOf(metadata.labels ?? {}, path);
  if (value === undefined) throw new Error(`no field ${path} is known`);
  return value;
}

function labelOf(labels: Readonly<Record<string, string>>, path: string): string | undefined {
  const name = /^metadata\.labels\['(.+)'\]$/.exec(path)?.[1];
  return name === undefined ? undefined : (labels[name] ?? "");
}
