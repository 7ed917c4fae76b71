/**
 * Kubernetes as one process uses it: one client, one namespace, and watches that its pools share. Made only where endpoints come from there, and
 * closed after everything that was given it.
 */
import type { EppSettings } from "../commands/epp-flags.ts";
import { DiscoveryError } from "../data/discovery/discovery.ts";
import { selectorPool } from "../data/discovery/kubernetes/endpoint-selector.ts";
import type { KubernetesContext } from "../data/discovery/kubernetes/kubernetes-context.ts";
import { createPodSource } from "../data/discovery/kubernetes/pod-source.ts";
import { createPoolDiscovery, type KubernetesDiscovery } from "../data/discovery/kubernetes/pool-discovery.ts";
import { type PoolObjectsWatch, watchPoolObjects } from "../data/discovery/kubernetes/pool-objects-watch.ts";
import { createPoolSource } from "../data/discovery/kubernetes/pool-source.ts";
import { createKubernetesApi } from "../net/kubernetes/api-client.ts";
import { findCredentials } from "../net/kubernetes/credentials.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Environment } from "./metrics-port.ts";

export interface Kubernetes {
  readonly context: KubernetesContext;
  /** Undefined with --endpoint-selector: there are no custom resources then. */
  readonly objects: PoolObjectsWatch | undefined;
  /** Of the pool of that name; for --endpoint-selector the one there is. Before `start`. */
  discoveryOf(poolName: string): KubernetesDiscovery;
  /** Begins to watch what the discoveries follow. */
  start(): void;
  close(): Promise<void>;
}

export interface KubernetesOptions {
  readonly settings: Pick<EppSettings, "pool-group" | "endpoint-selector" | "endpoint-target-ports" | "manifests">;
  readonly namespace: string;
  readonly environment: Environment;
  readonly log: Logger;
}

/** Name of the Deployment that the picker's own pod is of, which the reference takes for the pool's where there is none; "" where it cannot be told. */
export function deploymentName(environment: Environment): string {
  return /^(.+)-[a-z0-9]+-[a-z0-9]+$/.exec(environment["POD_NAME"] ?? "")?.[1] ?? "";
}

/** Throws DiscoveryError where nothing says how to reach an API server. */
export function createKubernetes({ settings, namespace, environment, log }: KubernetesOptions): Kubernetes {
  const credentials = findCredentials(environment);
  if (credentials === undefined) {
    throw new DiscoveryError(
      "endpoints come from Kubernetes, and there is no way to it: no KUBECONFIG, no service account in a pod, no ~/.kube/config",
    );
  }
  const context: KubernetesContext = { api: createKubernetesApi(credentials), namespace, log };
  const pods = createPodSource(context);
  const pools = createPoolSource(context, settings["pool-group"]);
  const selector = settings["endpoint-selector"];
  const hasObjects = selector === "" && settings.manifests === "";
  const objects = hasObjects ? watchPoolObjects({ api: context.api, namespace, log }) : undefined;
  return {
    context,
    objects,
    discoveryOf: (name) =>
      createPoolDiscovery({
        pods,
        log,
        from:
          selector === ""
            ? { kind: "object", name, pools }
            : { kind: "selector", pool: selectorPool(selector, settings["endpoint-target-ports"]) },
      }),
    start() {
      if (selector === "") pools.start();
      void objects?.start();
    },
    async close() {
      await objects?.close();
      await pools.close();
      await context.api.close();
    },
  };
}
