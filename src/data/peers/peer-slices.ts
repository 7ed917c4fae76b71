/**
 * Peers behind a Kubernetes Service, from its EndpointSlices: also those that are not ready, as a follower or a replica that drains has something
 * to say too. While the API server is away what it last said stands.
 */
import type { KubernetesApi } from "../../net/kubernetes/api-client.ts";
import { type KubernetesObject, ListWatch } from "../../net/kubernetes/list-watch.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { PeerAddress, PeerSource } from "./peer-addresses.ts";

export interface ServicePeersOptions {
  /** Stays its giver's to close. */
  readonly api: Pick<KubernetesApi, "request" | "watch">;
  readonly namespace: string;
  readonly service: string;
  /** For slices without a port of the name "peers". */
  readonly port: number;
  /** Addresses of this pod, left out where they are known. */
  readonly own?: ReadonlySet<string>;
  readonly log: Logger;
}

const portName = "peers";

export function createServicePeers(options: ServicePeersOptions): PeerSource {
  return new ServicePeers(options);
}

class ServicePeers implements PeerSource {
  readonly #options: ServicePeersOptions;
  readonly #slices = new Map<string, readonly PeerAddress[]>();
  #watch: ListWatch<readonly PeerAddress[]> | undefined;

  constructor(options: ServicePeersOptions) {
    this.#options = options;
  }

  /** Resolves at once: whether there are peers is nothing to wait for an API server for. */
  start(found: (addresses: readonly PeerAddress[]) => void): Promise<void> {
    const { api, namespace, service, port, own = new Set(), log } = this.#options;
    const tell = (): void => {
      const byKey = new Map<string, PeerAddress>();
      for (const addresses of this.#slices.values()) {
        for (const address of addresses) {
          if (!own.has(address.host)) byKey.set(`${address.host} ${address.port}`, address);
        }
      }
      found([...byKey.values()]);
    };
    this.#watch = new ListWatch({
      api,
      path: `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`,
      labelSelector: `kubernetes.io/service-name=${service}`,
      read: (slice) => peersInSlice(slice, port),
      listener: {
        replaced: (items) => {
          this.#slices.clear();
          for (const [key, addresses] of items) this.#slices.set(key, addresses);
          tell();
        },
        put: (key, addresses) => {
          this.#slices.set(key, addresses);
          tell();
        },
        removed: (key) => {
          this.#slices.delete(key);
          tell();
        },
      },
      report: (event) => {
        if (event.kind === "away") log.warn({ error: event.error, service }, "who the peers are cannot be asked for");
        if (event.kind === "back") log.info({ service }, "who the peers are can be asked for again");
      },
    });
    void this.#watch.start();
    return Promise.resolve();
  }

  async close(): Promise<void> {
    await this.#watch?.close();
  }
}

interface EndpointSlice extends KubernetesObject {
  readonly addressType?: string;
  readonly ports?: readonly { readonly name?: string; readonly port?: number }[] | null;
  readonly endpoints?: readonly { readonly addresses?: readonly string[] }[] | null;
}

/** Every address of a slice; undefined for one that holds names in place of addresses. */
export function peersInSlice(object: KubernetesObject, defaultPort: number): readonly PeerAddress[] | undefined {
  const { addressType, ports, endpoints } = object as EndpointSlice;
  if (addressType !== "IPv4" && addressType !== "IPv6") return undefined;
  const port = ports?.find(({ name }) => name === portName)?.port ?? defaultPort;
  // The addresses of one entry are one pod's, and the same to it.
  return (endpoints ?? []).flatMap(({ addresses = [] }) => addresses.slice(0, 1).map((host) => ({ host, port })));
}
