/**
 * Which of several replicas of one picker is ready: the one that leads, by a Lease named as the reference names it. Followers watch, scrape and
 * index as the leader does and answer every stream they are sent; they are only not announced.
 */
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { ConfigError } from "../config/complete-config.ts";
import { createKubernetesApi, type KubernetesApi } from "../net/kubernetes/api-client.ts";
import { findCredentials } from "../net/kubernetes/credentials.ts";
import type { EventRecorder, ObjectReference } from "../net/kubernetes/event-recorder.ts";
import { createLeaseStore, leasesPath } from "../net/kubernetes/lease.ts";
import { type ElectionEvent, LeaseElection } from "../net/kubernetes/lease-election.ts";
import { ListWatch } from "../net/kubernetes/list-watch.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Environment } from "./metrics-port.ts";

export interface Leadership {
  readonly isLeading: boolean;
  /** It is fit to serve: it contends for the lead until it is not. Idempotent. */
  contend(): void;
  /** It is not, and must not lead: where it does, the lease is given back. Idempotent. */
  abstain(): void;
  /** For /debug/leader. */
  describe(): Readonly<Record<string, unknown>>;
  /** Leads no more; the lease is given back. Idempotent. */
  close(): Promise<void>;
}

export interface LeadershipOptions {
  /** Of the pool, or of the first of several; "" with a label selector. */
  readonly poolName: string;
  readonly namespace: string;
  readonly environment: Environment;
  /** Undefined: a client of its own. */
  readonly api: KubernetesApi | undefined;
  readonly events: Pick<EventRecorder, "note"> | undefined;
  readonly metrics: Pick<Metrics, "families">;
  readonly log: Logger;
  /** Called when this replica begins or ceases to lead. */
  changed(): void;
}

const readTimeoutMs = 5_000;

/** Throws ConfigError where nothing says what the lease is called or how to reach an API server. */
export function createLeadership(options: LeadershipOptions): Leadership {
  const { namespace, environment, log, metrics, events } = options;
  const name = leaseNameOf(options);
  const identity = `${environment["POD_NAME"] || hostname()}_${randomUUID()}`;
  const own = options.api === undefined ? ownApi(environment) : undefined;
  const api = options.api ?? own;
  if (api === undefined) {
    throw new ConfigError("flags", [
      "--ha-enable-leader-election needs a Kubernetes API server: no KUBECONFIG, no service account in a pod, no ~/.kube/config",
    ]);
  }
  const store = createLeaseStore(api, namespace, name);
  const status = metrics.families.leaderStatus.series(name);
  status.set(0);
  const about = async (): Promise<ObjectReference | undefined> => {
    const uid = (await store.read(readTimeoutMs))?.metadata.uid;
    if (uid === undefined) return undefined;
    return { apiVersion: "coordination.k8s.io/v1", kind: "Lease", namespace, name, uid };
  };
  const report = (event: ElectionEvent): void => {
    logEvent(log, name, event);
    if (event.kind !== "leads" && event.kind !== "lost" && event.kind !== "released") return;
    status.set(event.kind === "leads" ? 1 : 0);
    const did = event.kind === "leads" ? "became leader" : "stopped leading";
    events?.note(`Lease ${name}`, about, {
      type: "Normal",
      reason: "LeaderElection",
      message: `${identity} ${did}`,
    });
    options.changed();
  };
  let election: LeaseElection | undefined;
  /** Of the one before, until its lease is given back. */
  let resigning: Promise<void> | undefined;
  let isClosed = false;
  const resign = async (): Promise<void> => {
    const last = election;
    election = undefined;
    await last?.close();
    status.set(0);
  };
  // Only a hint, so that a lease that is given back is taken at once: without the right to watch, it is taken within seconds.
  const watch = new ListWatch<string>({
    api,
    path: leasesPath(namespace),
    fieldSelector: `metadata.name=${name}`,
    read: (object) => (object as { readonly spec?: { readonly holderIdentity?: string } }).spec?.holderIdentity ?? "",
    listener: {
      replaced: () => {},
      put: (_key, holder) => {
        if (holder === "") election?.wake();
      },
      removed: () => {},
    },
    report: (event) => {
      if (event.kind === "away") log.debug({ lease: name, error: event.error }, "the lease cannot be watched");
    },
  });
  return {
    get isLeading() {
      return election?.isLeading ?? false;
    },
    contend() {
      if (isClosed || election !== undefined || resigning !== undefined) return;
      election = new LeaseElection({ store, identity, report });
      election.start();
      void watch.start();
    },
    abstain() {
      if (election === undefined) return;
      resigning = resign().finally(() => {
        resigning = undefined;
      });
      options.changed();
    },
    describe: () => ({
      lease: `${namespace}/${name}`,
      identity,
      contends: election !== undefined,
      isLeading: election?.isLeading ?? false,
      holder: election?.holder ?? "",
      transitions: election?.transitions ?? 0,
      isWatched: !watch.isStale,
      lastError: election?.lastError === undefined ? undefined : String((election.lastError as Error).message),
    }),
    async close() {
      isClosed = true;
      await resigning;
      await resign();
      await watch.close();
      await own?.close();
    },
  };
}

function ownApi(environment: Environment): KubernetesApi | undefined {
  const credentials = findCredentials(environment);
  return credentials === undefined ? undefined : createKubernetesApi(credentials);
}

/** The reference's: of the pool, or with a label selector of the Deployment that the picker's own pod is of. */
function leaseNameOf({ poolName, namespace, environment }: LeadershipOptions): string {
  if (poolName !== "") return `epp-${namespace}-${poolName}.llm-d.ai`;
  const podName = environment["POD_NAME"] ?? "";
  const deployment = /^(.+)-[a-z0-9]+-[a-z0-9]+$/.exec(podName)?.[1];
  if (deployment === undefined) {
    throw new ConfigError("flags", [
      `--ha-enable-leader-election needs --pool-name, or POD_NAME in the environment as a Deployment names its pods (it is ${JSON.stringify(podName)}): the lease is named after it`,
    ]);
  }
  return `epp-${namespace}-${deployment}.llm-d.ai`;
}

function logEvent(log: Logger, lease: string, event: ElectionEvent): void {
  switch (event.kind) {
    case "leads":
      log.info({ lease, after: event.after, transitions: event.transitions }, "this replica leads");
      return;
    case "lost":
      log.warn({ lease, holder: event.holder, error: event.error }, "this replica leads no more, and contends again");
      return;
    case "released":
      log.info({ lease }, "the lease is given back");
      return;
    case "follows":
      log.info({ lease, holder: event.holder }, "another replica leads");
      return;
    case "failed":
      log.warn({ lease, error: event.error }, "the lease cannot be read or written; it is tried again");
      return;
    default:
      event satisfies never;
  }
}
