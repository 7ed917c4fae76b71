/** What everything of one process that follows Kubernetes shares: one client with its kept connections, and the namespace it may look into. */
import type { KubernetesApi } from "../../../net/kubernetes/api-client.ts";
import type { Logger } from "../../../telemetry/log.ts";

export interface KubernetesContext {
  /** Stays its giver's to close. */
  readonly api: KubernetesApi;
  /** Of the pool and everything that belongs to it: pods, objectives, rewrites, Lease. */
  readonly namespace: string;
  readonly log: Logger;
}
