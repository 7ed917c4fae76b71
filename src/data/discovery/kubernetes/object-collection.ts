/**
 * One kind of pool object of one API group, followed in a namespace. An object that cannot be read stands beside the good ones with its
 * faults. The kind may not be defined, or may not be ours to see: then there are no objects of it, until there are.
 */
import { type KubernetesApi, KubernetesApiError } from "../../../net/kubernetes/api-client.ts";
import { type KubernetesObject, ListWatch, type ListWatchEvent } from "../../../net/kubernetes/list-watch.ts";
import type { Logger } from "../../../telemetry/log.ts";
import { type ManifestObject, type ObjectGroup, objectVersion, parseManifest } from "../../manifests/manifest.ts";
import { reportWatch } from "./watch-report.ts";

export interface CollectionOptions {
  readonly api: Pick<KubernetesApi, "request" | "watch">;
  readonly namespace: string;
  readonly log: Logger;
  readonly group: ObjectGroup;
  readonly kind: ManifestObject["kind"];
  /** Called after each change, and when it is known whether the kind is there. */
  readonly changed: () => void;
  readonly watchSeconds?: number;
  readonly absentRetryMs?: number;
}

export interface CollectionState {
  /** Kind and group. */
  readonly collection: string;
  readonly state: "listing" | "listed" | "not defined" | "not allowed";
  /** The server has not been heard when it should have been: what it last said stands. */
  readonly isStale: boolean;
  readonly objects: number;
}

type ReadObject =
  | { readonly kind: "good"; readonly object: ManifestObject }
  | { readonly kind: "faulty"; readonly reason: string };

const plurals = { InferenceObjective: "inferenceobjectives", InferenceModelRewrite: "inferencemodelrewrites" } as const;
/** How soon a kind is found that somebody defines while the picker runs. */
const defaultAbsentRetryMs = 15_000;

export class ObjectCollection {
  readonly #options: CollectionOptions;
  readonly #watch: ListWatch<ReadObject>;
  readonly #name: string;
  readonly #settled: Promise<void>;
  #tellSettled: () => void = () => {};
  #items = new Map<string, ReadObject>();
  #isForbidden = false;

  constructor(options: CollectionOptions) {
    const { api, namespace, group, kind, watchSeconds, absentRetryMs = defaultAbsentRetryMs } = options;
    this.#options = options;
    this.#name = `${plurals[kind]}.${group}`;
    this.#settled = new Promise((resolve) => {
      this.#tellSettled = resolve;
    });
    this.#watch = new ListWatch<ReadObject>({
      api,
      path: `/apis/${group}/${objectVersion}/namespaces/${namespace}/${plurals[kind]}`,
      absentRetryMs,
      ...(watchSeconds === undefined ? {} : { watchSeconds }),
      read: (object) => readObject(object, group, kind),
      report: (event) => this.#heard(event),
      listener: {
        replaced: (items) => this.#replace(items),
        put: (key, item) => this.#put(key, item),
        removed: (key) => {
          this.#items.delete(key);
          options.changed();
        },
      },
    });
  }

  /** By name. */
  objects(): readonly ManifestObject[] {
    const objects: ManifestObject[] = [];
    for (const item of this.#items.values()) if (item.kind === "good") objects.push(item.object);
    return objects.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Each with its object. */
  faults(): readonly string[] {
    const faults: string[] = [];
    for (const [key, item] of this.#items) {
      if (item.kind === "faulty") faults.push(`${this.#name} ${key}: ${item.reason}`);
    }
    return faults;
  }

  get isSettled(): boolean {
    return this.#watch.isSynced || this.#isForbidden;
  }

  state(): CollectionState {
    const { isSynced, isStale, isAbsent } = this.#watch;
    const seen = isAbsent ? "not defined" : isSynced ? "listed" : "listing";
    return {
      collection: this.#name,
      state: this.#isForbidden ? "not allowed" : seen,
      isStale,
      objects: this.#items.size,
    };
  }

  /** Resolves when it is known what there is, or that it is not ours to know. Never rejects. */
  async start(): Promise<void> {
    void this.#watch.start();
    await this.#settled;
  }

  async close(): Promise<void> {
    this.#tellSettled();
    await this.#watch.close();
  }

  #replace(items: ReadonlyMap<string, ReadObject>): void {
    for (const [key, item] of items) this.#tellFault(key, item);
    this.#items = new Map(items);
    this.#isForbidden = false;
    this.#settle();
  }

  #put(key: string, item: ReadObject): void {
    this.#tellFault(key, item);
    this.#items.set(key, item);
    this.#options.changed();
  }

  /** Once for as long as the object has the same fault. */
  #tellFault(key: string, item: ReadObject): void {
    if (item.kind === "good") return;
    const known = this.#items.get(key);
    if (known?.kind === "faulty" && known.reason === item.reason) return;
    this.#options.log.error(
      { kind: this.#name, object: key, reason: item.reason },
      "an object of the pool is left out",
    );
  }

  #settle(): void {
    this.#options.changed();
    this.#tellSettled();
  }

  #heard(event: ListWatchEvent): void {
    reportWatch(this.#name, event, this.#options.log);
    if (event.kind !== "away" || !isForbidden(event.error)) return;
    this.#isForbidden = !this.#watch.isSynced;
    this.#settle();
  }
}

function isForbidden(error: unknown): boolean {
  return error instanceof KubernetesApiError && error.status === 403;
}

/** Items of a list do not say what they are. */
function readObject(value: KubernetesObject, group: ObjectGroup, kind: ManifestObject["kind"]): ReadObject {
  const document = parseManifest({ ...value, apiVersion: `${group}/${objectVersion}`, kind }, "ignored");
  switch (document.kind) {
    case "object":
      return { kind: "good", object: document.object };
    case "faulty":
      return { kind: "faulty", reason: document.faults.join("; ") };
    case "list":
    case "foreign":
      return { kind: "faulty", reason: "is of another kind" };
  }
}
