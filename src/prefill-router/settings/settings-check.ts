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
    config.routerPrefillLoadModel === "none" || config.routerTrackPrefillTokens,
    `routerPrefillLoadModel ${config.routerPrefillLoadModel} requires routerTrackPrefillTokens`,
  );
  must(!config.useRemoteIndexer || !config.serveIndexer, "useRemoteIndexer and serveIndexer exclude each other");
  must(
    !config.serveIndexer || config.overlapScoreCredit > 0,
    "serveIndexer requires overlapScoreCredit above 0: without it no index is kept",
  );
  must(!config.enableSessionPrefixIndex || config.useKvEvents, "enableSessionPrefixIndex requires useKvEvents");
  must(
    !config.enableSessionPrefixIndex || !config.useRemoteIndexer,
    "enableSessionPrefixIndex and useRemoteIndexer exclude each other",
  );
  return faults;
}

/** What is done otherwise than a setting says. */
export function substitutions(config: RouterConfig): readonly string[] {
  const isShared = config.useRemoteIndexer || config.serveIndexer;
  if (config.useKvEvents || config.routerApproximateCachePolicy !== "lru" || !isShared) return [];
  return ["routerApproximateCachePolicy lru is for an index of one router alone; ttl is used instead"];
}

/** Settings that are understood and change nothing. */
export function effectlessSettings(config: RouterConfig): readonly string[] {
  return config.enableSessionPrefixIndex
    ? ["enableSessionPrefixIndex has no effect: it is an index that no choice of worker reads, in Dynamo too"]
    : [];
}

/** What a router cannot do whose workers are not registered with Dynamo: no component to ask, no card that says how a shared cache is laid out. */
export function faultsWithoutDiscovery(config: RouterConfig): readonly string[] {
  const faults: string[] = [];
  const whose = "is supported for workers that Dynamo registers only";
  if (config.useRemoteIndexer) faults.push(`useRemoteIndexer ${whose}`);
  if (config.serveIndexer) faults.push(`serveIndexer ${whose}`);
  if (config.sharedCacheType !== "none") {
    faults.push(`sharedCacheType ${config.sharedCacheType} ${whose}: nothing else says how they lay it out`);
  }
  return faults;
}
