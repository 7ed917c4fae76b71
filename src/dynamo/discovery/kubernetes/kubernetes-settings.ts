/** Where a process of Dynamo's looks in Kubernetes, as its operator tells it (Dynamo 1.6.1: dynamo-runtime, src/discovery/kube/utils.rs). */
import { readFileSync } from "node:fs";
import { join } from "node:path";

export type KubernetesDiscoveryMode =
  /** A worker is a pod. */
  | "pod"
  /** A worker is a container: several of a pod register, each under its own name. */
  | "container";

export interface KubernetesSettings {
  readonly namespace: string;
  readonly mode: KubernetesDiscoveryMode;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** The downward API's files go before the environment. */
const podInfoFolder = "/etc/podinfo";

/** /etc/podinfo/pod_namespace, else POD_NAMESPACE, else "default"; DYN_KUBE_DISCOVERY_MODE. Throws RangeError on a mode that is none. */
export function kubernetesSettings(environment: Environment, folder: string = podInfoFolder): KubernetesSettings {
  const mode = environment["DYN_KUBE_DISCOVERY_MODE"] ?? "pod";
  if (mode !== "pod" && mode !== "container") {
    throw new RangeError(`DYN_KUBE_DISCOVERY_MODE: ${JSON.stringify(mode)} is not "pod" or "container"`);
  }
  return { namespace: podInfo("pod_namespace", "POD_NAMESPACE", environment, folder) ?? "default", mode };
}

export function podInfo(
  file: string,
  name: string,
  environment: Environment,
  folder = podInfoFolder,
): string | undefined {
  let text = "";
  try {
    text = readFileSync(join(folder, file), "utf8").trim();
  } catch {
    // Not mounted: the environment says it.
  }
  if (text !== "") return text;
  const value = environment[name];
  return value === "" ? undefined : value;
}
