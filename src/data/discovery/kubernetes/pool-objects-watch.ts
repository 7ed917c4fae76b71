/**
 * Objectives and model rewrites of a namespace, followed in both API groups for all pools of the process, which see each what refers to it. They
 * are there whether or not their pool is: a pool that is made anew has them at once.
 */
import type { KubernetesApi } from "../../../net/kubernetes/api-client.ts";
import type { Logger } from "../../../telemetry/log.ts";
import { type ManifestObject, objectGroups } from "../../manifests/manifest.ts";
import { type Merged, mergeManifests, type PoolIdentity } from "../../manifests/merge.ts";
import type { PoolObjects } from "../../manifests/pool-objects.ts";
import { type CollectionState, ObjectCollection } from "./object-collection.ts";

export interface PoolObjectsOptions {
  readonly api: Pick<KubernetesApi, "request" | "watch">;
  readonly namespace: string;
  readonly log: Logger;
  readonly watchSeconds?: number;
  readonly absentRetryMs?: number;
}

/** The objects of one pool. */
export interface PoolObjectsView {
  /** One value until something changes. */
  objects(): PoolObjects;
  /** Objects without effect on this pool, and why. */
  ignored(): readonly string[];
}

export interface PoolObjectsWatch {
  /** Of every kind it is known what there is, or that nothing of it can be seen. */
  readonly isSynced: boolean;
  /** Resolves when it is synced. Never rejects: whoever waits has a deadline. */
  start(): Promise<void>;
  /** `changed` is called soon after each change, once for those that come together, from the next change on. */
  of(pool: Pick<PoolIdentity, "name" | "group">, changed?: (objects: PoolObjects) => void): PoolObjectsView;
  /** Objects that cannot be read, and why. */
  faults(): readonly string[];
  state(): readonly CollectionState[];
  close(): Promise<void>;
}

const kinds = ["InferenceObjective", "InferenceModelRewrite"] as const satisfies readonly ManifestObject["kind"][];

export function watchPoolObjects(options: PoolObjectsOptions): PoolObjectsWatch {
  return new NamespaceObjects(options);
}

class NamespaceObjects implements PoolObjectsWatch {
  readonly #namespace: string;
  readonly #collections: readonly ObjectCollection[];
  readonly #views: View[] = [];
  #telling: NodeJS.Immediate | undefined;
  /** Of all collections; undefined: to be gathered anew. */
  #objects: readonly ManifestObject[] | undefined;

  constructor(options: PoolObjectsOptions) {
    this.#namespace = options.namespace;
    const changed = (): void => this.#changed();
    this.#collections = objectGroups.flatMap((group) =>
      kinds.map((kind) => new ObjectCollection({ ...options, group, kind, changed })),
    );
  }

  get isSynced(): boolean {
    return this.#collections.every(({ isSettled }) => isSettled);
  }

  async start(): Promise<void> {
    await Promise.all(this.#collections.map((collection) => collection.start()));
  }

  of({ name, group }: Pick<PoolIdentity, "name" | "group">, changed?: (objects: PoolObjects) => void): PoolObjectsView {
    const pool = { name, group, namespace: this.#namespace };
    const view = new View(() => mergeManifests([this.#gathered()], pool), changed);
    this.#views.push(view);
    return view;
  }

  faults(): readonly string[] {
    return this.#collections.flatMap((collection) => collection.faults());
  }

  state(): readonly CollectionState[] {
    return this.#collections.map((collection) => collection.state());
  }

  async close(): Promise<void> {
    clearImmediate(this.#telling);
    await Promise.all(this.#collections.map((collection) => collection.close()));
  }

  #gathered(): readonly ManifestObject[] {
    this.#objects ??= this.#collections.flatMap((collection) => collection.objects());
    return this.#objects;
  }

  /** A list of thousands arrives change by change: they are merged once for all that come in one turn. */
  #changed(): void {
    this.#objects = undefined;
    for (const view of this.#views) view.invalidate();
    this.#telling ??= setImmediate(() => {
      this.#telling = undefined;
      for (const view of this.#views) view.tell();
    });
  }
}

class View implements PoolObjectsView {
  readonly #merge: () => Merged;
  readonly #tellChanged: ((objects: PoolObjects) => void) | undefined;
  #merged: Merged | undefined;

  constructor(merge: () => Merged, changed: ((objects: PoolObjects) => void) | undefined) {
    this.#merge = merge;
    this.#tellChanged = changed;
  }

  objects(): PoolObjects {
    return this.#current().objects;
  }

  ignored(): readonly string[] {
    return this.#current().left;
  }

  invalidate(): void {
    this.#merged = undefined;
  }

  tell(): void {
    this.#tellChanged?.(this.objects());
  }

  #current(): Merged {
    this.#merged ??= this.#merge();
    return this.#merged;
  }
}
