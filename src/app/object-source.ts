/** Where the objectives and rewrites of one pool come from: a folder of manifests where one is given, else the cluster that the pool is of, else nowhere. */
import type { EppSettings } from "../commands/epp-flags.ts";
import { noPoolObjects, type PoolObjects } from "../data/manifests/pool-objects.ts";
import { watchManifests } from "../data/manifests/watch.ts";
import type { Logger } from "../telemetry/log.ts";
import type { Metrics } from "../telemetry/metrics.ts";
import type { Kubernetes } from "./kubernetes.ts";

export interface ObjectSource {
  objects(): PoolObjects;
  /** What is wrong with the objects as they are now. */
  faults(): readonly string[];
  /** Objects that mean another pool or are hidden by a namesake, and why. */
  ignored(): readonly string[];
  /** What there was at the start is in. */
  readonly isSynced: boolean;
  close(): Promise<void>;
}

export interface ObjectSourceOptions {
  readonly settings: Pick<EppSettings, "manifests" | "pool-group" | "pool-namespace">;
  /** "" where it has none. */
  readonly name: string;
  /** Undefined where the pool is not of a cluster. */
  readonly kubernetes: Pick<Kubernetes, "objects"> | undefined;
  readonly metrics: Pick<Metrics, "requests">;
  readonly log: Logger;
}

const nowhere: ObjectSource = {
  objects: () => noPoolObjects,
  faults: () => [],
  ignored: () => [],
  isSynced: true,
  close: () => Promise.resolve(),
};

/** Resolves once the manifests are in; a cluster is not waited for. */
export async function startObjectSource(options: ObjectSourceOptions): Promise<ObjectSource> {
  const { settings, name, kubernetes, metrics } = options;
  const pinModels = (objects: PoolObjects): void => {
    // Models that an operator wrote down are not a client's to multiply: their labels never fold.
    for (const { rules } of objects.rewrites) {
      for (const { models, targets } of rules)
        metrics.requests.models.pin([...models, ...targets.map(({ model }) => model)]);
    }
  };
  if (settings.manifests !== "") return await fromManifests(options, pinModels);
  const watch = kubernetes?.objects;
  if (watch === undefined) return nowhere;
  const view = watch.of({ name, group: settings["pool-group"] }, pinModels);
  return {
    objects: () => view.objects(),
    faults: () => watch.faults(),
    ignored: () => view.ignored(),
    get isSynced() {
      return watch.isSynced;
    },
    // Whoever made it for all pools closes it.
    close: () => Promise.resolve(),
  };
}

async function fromManifests(
  { settings, name, log }: ObjectSourceOptions,
  changed: (objects: PoolObjects) => void,
): Promise<ObjectSource> {
  const watch = await watchManifests(settings.manifests, {
    pool: { name, group: settings["pool-group"], namespace: settings["pool-namespace"] },
    log,
    changed,
  }).catch((error: unknown) => {
    throw new Error(`the folder ${settings.manifests} (--manifests) cannot be read`, { cause: error });
  });
  changed(watch.objects());
  return {
    objects: () => watch.objects(),
    faults: () => watch.faults(),
    ignored: () => [],
    isSynced: true,
    close: () => watch.close(),
  };
}
