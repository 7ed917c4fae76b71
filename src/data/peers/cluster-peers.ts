/** Peers behind a Service of the cluster that the environment leads to, by one port of theirs that no slice names. */
import { createKubernetesApi } from "../../net/kubernetes/api-client.ts";
import { findCredentials } from "../../net/kubernetes/credentials.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { PeerSource } from "./peer-addresses.ts";
import { createServicePeers } from "./peer-slices.ts";

export interface ClusterPeersOptions {
  readonly namespace: string;
  readonly service: string;
  readonly port: number;
  /** This pod's address, which is no peer. */
  readonly podIp: string | undefined;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly log: Logger;
}

/** Throws where nothing says how to reach an API server. */
export function createClusterPeers(options: ClusterPeersOptions): PeerSource {
  const { namespace, service, port, podIp, environment, log } = options;
  const credentials = findCredentials(environment, environment["SIGNALBOX_SERVICE_ACCOUNT_FOLDER"]);
  if (credentials === undefined) {
    throw new Error(
      `${service}: there is no way to Kubernetes: no KUBECONFIG, no service account in a pod, no ~/.kube/config`,
    );
  }
  const api = createKubernetesApi(credentials);
  const own = podIp === undefined ? {} : { own: new Set([podIp]) };
  const source = createServicePeers({ api, namespace, service, port, log, ...own });
  return {
    start: (found) => source.start((addresses) => found(addresses.map(({ host }) => ({ host, port })))),
    async close() {
      await source.close();
      await api.close();
    },
  };
}
