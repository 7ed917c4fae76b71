/** What must hold between settings, and what of Dynamo's is refused here rather than silently left out. */
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
  must(!config.useRemoteIndexer, "useRemoteIndexer is not supported: every replica keeps its own index");
  must(!config.serveIndexer, "serveIndexer is not supported: workers answer for what they hold");
  must(!config.enableSessionPrefixIndex || config.useKvEvents, "enableSessionPrefixIndex requires useKvEvents");
  return faults;
}

/** Settings that are understood and change nothing. */
export function effectlessSettings(config: RouterConfig): readonly string[] {
  return config.enableSessionPrefixIndex
    ? ["enableSessionPrefixIndex has no effect: it is an index that no choice of worker reads, in Dynamo too"]
    : [];
}

/** What only workers that Dynamo registers have: their cards say how a shared cache is laid out. Undefined where the settings do not ask for it. */
export function faultWithoutCards({ sharedCacheType }: RouterConfig): string | undefined {
  if (sharedCacheType === "none") return undefined;
  return `sharedCacheType ${sharedCacheType} is supported for workers that Dynamo registers only: nothing else says how they lay it out`;
}
