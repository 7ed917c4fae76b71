/** What must hold between settings, what stands in for one that cannot be had, and what of Dynamo's is refused here rather than silently left out. */
import type { RouterConfig } from "./setting-table.ts";

/** Faults of a configuration whose single values are in range. */
export function faultsBetween(config: RouterConfig): readonly string[] {
  const faults: string[] = [];
  const must = (holds: boolean, fault: string): void => {
    if (!holds) faults.push(fault);
  };
  const hasKey = config.routerTrackingKeyFile !== undefined || config.routerTrackingKeyId !== undefined;
  must(
    config.routerTrackingHash === "keyed-xxh3-v1" || !hasKey,
    "routerTrackingKeyFile and routerTrackingKeyId require routerTrackingHash keyed-xxh3-v1",
  );
  must(
    !config.routerTrackOutputBlocks || config.routerTrackActiveBlocks,
    "routerTrackOutputBlocks requires routerTrackActiveBlocks",
  );
  must(
    config.routerPredictedTtlSecs === undefined || config.useKvEvents,
    "routerPredictedTtlSecs requires useKvEvents",
  );
  must(
    !config.useKvEvents || config.routerApproximateCachePolicy !== "lru",
    "routerApproximateCachePolicy lru requires useKvEvents to be false",
  );
  const isByLoad = config.conditionalDisaggPolicy !== "isl_bounding";
  const hasBusyLine = (config.conditionalDisaggPrefillBusyThreshold ?? config.routerQueueThreshold) !== undefined;
  must(
    !config.conditionalDisaggEnabled || !isByLoad || hasBusyLine,
    `conditionalDisaggPolicy ${config.conditionalDisaggPolicy} requires conditionalDisaggPrefillBusyThreshold or routerQueueThreshold`,
  );
  must(
    config.routerPrefillLoadModel === "none",
    `routerPrefillLoadModel ${config.routerPrefillLoadModel} is not supported`,
  );
  must(!config.useRemoteIndexer || !config.serveIndexer, "useRemoteIndexer and serveIndexer exclude each other");
  must(
    !config.serveIndexer || config.overlapScoreCredit > 0,
    "serveIndexer requires overlapScoreCredit above 0: without it no index is kept",
  );
  must(!config.enableSessionPrefixIndex, "enableSessionPrefixIndex is not supported");
  must(config.sharedCacheType === "none", `sharedCacheType ${config.sharedCacheType} is not supported`);
  return faults;
}

/** What is done otherwise than a setting says. */
export function substitutions(config: RouterConfig): readonly string[] {
  const isShared = config.useRemoteIndexer || config.serveIndexer;
  if (config.useKvEvents || config.routerApproximateCachePolicy !== "lru" || !isShared) return [];
  return ["routerApproximateCachePolicy lru is for an index of one router alone; ttl is used instead"];
}

/** What a router cannot do whose workers are not registered with Dynamo. */
export function faultsWithoutDiscovery(config: RouterConfig): readonly string[] {
  const faults: string[] = [];
  const whose = "is for workers that Dynamo registers";
  if (config.useRemoteIndexer) faults.push(`useRemoteIndexer ${whose}`);
  if (config.serveIndexer) faults.push(`serveIndexer ${whose}`);
  return faults;
}
