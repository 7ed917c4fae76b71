/** The coordination.k8s.io/v1 Lease by which one of several processes leads: its record, and the requests that read and write it. */
import { type KubernetesApi, KubernetesApiError } from "./api-client.ts";

/** What contenders write into a lease's spec. Fields of others are kept as they are. */
export interface LeaseRecord {
  /** "" or absent: nobody holds it. */
  readonly holderIdentity?: string;
  readonly leaseDurationSeconds?: number;
  /** RFC 3339 with microseconds. */
  readonly acquireTime?: string;
  readonly renewTime?: string;
  readonly leaseTransitions?: number;
}

/** As the API server last answered it. */
export interface Lease {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace: string;
    readonly uid?: string;
    readonly resourceVersion?: string;
  };
  readonly spec: LeaseRecord;
}

export interface LeaseStore {
  /** Undefined where there is none. */
  read(timeoutMs: number): Promise<Lease | undefined>;
  /** Rejects with status 409 where there is one already. */
  create(record: LeaseRecord, timeoutMs: number): Promise<Lease>;
  /** Rejects with status 409 unless the lease is still the one that was read. */
  replace(lease: Lease, record: LeaseRecord, timeoutMs: number): Promise<Lease>;
}

export function leasesPath(namespace: string): string {
  return `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
}

export function createLeaseStore(api: Pick<KubernetesApi, "request">, namespace: string, name: string): LeaseStore {
  const leases = leasesPath(namespace);
  const own = `${leases}/${name}`;
  return {
    async read(timeoutMs) {
      try {
        return leaseOf(await api.request({ path: own, timeoutMs }));
      } catch (error) {
        if (error instanceof KubernetesApiError && error.status === 404) return undefined;
        throw error;
      }
    },
    async create(spec, timeoutMs) {
      const body = JSON.stringify({
        apiVersion: "coordination.k8s.io/v1",
        kind: "Lease",
        metadata: { name, namespace },
        spec,
      });
      return leaseOf(await api.request({ method: "POST", path: leases, body, timeoutMs }));
    },
    async replace(lease, spec, timeoutMs) {
      const body = JSON.stringify({ ...lease, spec: { ...lease.spec, ...spec } });
      return leaseOf(await api.request({ method: "PUT", path: own, body, timeoutMs }));
    },
  };
}

/** RFC 3339 with six digits of a second, which is how the API server reads a MicroTime. */
export function microTime(wallMs: number): string {
  return new Date(wallMs).toISOString().replace("Z", "000Z");
}

function leaseOf(text: string): Lease {
  const lease = JSON.parse(text) as { readonly metadata?: unknown; readonly spec?: unknown } | null;
  if (typeof lease?.metadata !== "object" || lease.metadata === null) {
    throw new KubernetesApiError("a lease without metadata", 0);
  }
  return { ...lease, spec: lease.spec ?? {} } as Lease;
}
