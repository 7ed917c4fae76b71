/**
 * What an operator must know of a pool, as Kubernetes Events beside it (`kubectl describe inferencepool`): written by the replica that leads,
 * for the object that is there now, and about states that last rather than every passing moment.
 */
import { hostname } from "node:os";
import { poolCollection } from "../data/discovery/kubernetes/inference-pool.ts";
import type { KubernetesContext } from "../data/discovery/kubernetes/kubernetes-context.ts";
import { type KubernetesApi, KubernetesApiError } from "../net/kubernetes/api-client.ts";
import { type EventNote, EventRecorder, type ObjectReference } from "../net/kubernetes/event-recorder.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Environment } from "./metrics-port.ts";
import type { PoolReadiness } from "./pool-readiness.ts";

export interface PoolEvents {
  configurationReloaded(outcome: "applied" | "rejected", faults: readonly string[]): void;
  unknownObjective(name: string): void;
  close(): void;
}

/** What is looked at, once a second. */
export interface PoolView {
  readonly endpoints: number;
  readonly readiness: PoolReadiness;
  /** Of objectives and rewrites that have no effect. */
  readonly faults: readonly string[];
}

export interface PoolEventsOptions {
  readonly recorder: Pick<EventRecorder, "note">;
  readonly about: PoolAbout;
  /** Another replica speaks for the pool otherwise. */
  readonly isSpeaking: () => boolean;
  readonly view: () => PoolView;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  readonly lookMs?: number;
}

export interface PoolAbout {
  /** The same for the same object. */
  readonly key: string;
  /** Undefined where there is none. */
  read(): Promise<ObjectReference | undefined>;
}

const defaultLookMs = 1_000;
/** A pool is without endpoints for a moment whenever its last pod is replaced. */
const emptyForMs = 5_000;
/** Clients name objectives: of any number of names these many are told. */
const maxNames = 5;
const readTimeoutMs = 5_000;

export function createPoolEvents(options: PoolEventsOptions): PoolEvents {
  const { recorder, about, isSpeaking, view, now, lookMs = defaultLookMs } = options;
  const note = (type: EventNote["type"], reason: string, message: string): void =>
    recorder.note(about.key, () => about.read(), { type, reason, message });
  const names = new Set<string>();
  let emptySinceMs: number | undefined;
  let isEmptyTold = false;
  let toldReason = "";
  let toldFaults = "";

  const lookAtEndpoints = ({ endpoints, readiness }: PoolView): void => {
    if (endpoints === 0 && readiness.kind === "ready") {
      emptySinceMs ??= now();
      if (isEmptyTold || now() - emptySinceMs < emptyForMs) return;
      isEmptyTold = true;
      note("Warning", "NoEndpoints", "no pod of the pool is ready: its requests are refused (503)");
      return;
    }
    emptySinceMs = undefined;
    if (endpoints > 0 && isEmptyTold) note("Normal", "EndpointsAvailable", `the pool has ${endpoints} endpoints again`);
    if (endpoints > 0) isEmptyTold = false;
  };
  const look = (): void => {
    if (!isSpeaking()) return;
    const seen = view();
    lookAtEndpoints(seen);
    const { readiness, faults } = seen;
    const reason = readiness.kind === "unserved" ? readiness.reason : "";
    if (reason !== "" && reason !== toldReason) note("Warning", "PoolNotServed", reason);
    toldReason = reason;
    const rejected = faults.join("; ");
    if (rejected !== "" && rejected !== toldFaults) note("Warning", "ObjectRejected", rejected);
    toldFaults = rejected;
  };
  const timer = setInterval(look, lookMs);
  timer.unref();

  return {
    configurationReloaded(outcome, faults) {
      if (!isSpeaking()) return;
      if (outcome === "applied") note("Normal", "ConfigurationApplied", "the edited configuration is in use");
      else note("Warning", "ConfigurationRejected", `the last good configuration stays: ${faults.join("; ")}`);
    },
    unknownObjective(name) {
      if (!isSpeaking()) return;
      if (!names.has(name)) {
        for (const oldest of names) {
          if (names.size < maxNames) break;
          names.delete(oldest);
        }
        names.add(name);
      }
      const list = [...names].map((one) => JSON.stringify(one)).join(", ");
      note(
        "Warning",
        "UnknownObjective",
        `requests name objectives that the pool has not, and get priority 0: ${list}`,
      );
    },
    close: () => clearInterval(timer),
  };
}

/** Says once in the log when the API server takes none. */
export function createEventRecorder(options: {
  readonly api: KubernetesApi;
  readonly environment: Environment;
  readonly log: Logger;
}): EventRecorder {
  return new EventRecorder({
    api: options.api,
    component: "signalbox",
    instance: options.environment["POD_NAME"] || hostname(),
    refused: (error) => {
      options.log.warn({ error }, "Kubernetes refuses Events of this picker (rights: create and patch events)");
    },
  });
}

/** The InferencePool as it is now, for recreated it is another object; with a label selector the picker's own pod. Undefined where there is neither. */
export function subjectOf(options: {
  /** "" with a label selector. */
  readonly poolName: string;
  readonly poolGroup: string;
  readonly environment: Environment;
  readonly context: Pick<KubernetesContext, "api" | "namespace">;
}): PoolAbout | undefined {
  const { poolName, poolGroup, environment, context } = options;
  const pod = environment["POD_NAME"] ?? "";
  const { api, namespace } = context;
  if (poolName !== "") {
    const path = `${poolCollection(poolGroup, namespace)}/${poolName}`;
    return { key: `InferencePool ${poolName}`, read: () => referenceTo(api, path) };
  }
  if (pod === "") return undefined;
  return { key: `Pod ${pod}`, read: () => referenceTo(api, `/api/v1/namespaces/${namespace}/pods/${pod}`) };
}

async function referenceTo(api: Pick<KubernetesApi, "request">, path: string): Promise<ObjectReference | undefined> {
  const text = await api.request({ path, timeoutMs: readTimeoutMs }).catch((error: unknown) => {
    if (error instanceof KubernetesApiError && error.status === 404) return undefined;
    throw error;
  });
  if (text === undefined) return undefined;
  const object = JSON.parse(text) as {
    readonly apiVersion: string;
    readonly kind: string;
    readonly metadata: { readonly namespace: string; readonly name: string; readonly uid: string };
  };
  const { namespace, name, uid } = object.metadata;
  return { apiVersion: object.apiVersion, kind: object.kind, namespace, name, uid };
}
