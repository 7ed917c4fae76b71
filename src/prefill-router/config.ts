/** Settings of the PrefillRouter: names, defaults and environment variables of Dynamo's router. */

/** Per-request overrides; undefined keeps the configured value. */
export interface RouterConfigOverride {
  readonly overlapScoreCredit?: number | undefined;
  readonly prefillLoadScale?: number | undefined;
  readonly routerTemperature?: number | undefined;
  readonly assumeKvReuse?: boolean | undefined;
  readonly trackPrefillTokens?: boolean | undefined;
  readonly sharedCacheMultiplier?: number | undefined;
}

/** What one selection reads. */
export interface StageSettings {
  readonly overlapScoreCredit: number;
  readonly overlapScoreCreditDecay: number;
  readonly prefillLoadScale: number;
  readonly decodeActiveRequestWeight: number;
  readonly hostCacheHitWeight: number;
  readonly diskCacheHitWeight: number;
  readonly temperature: number;
  readonly assumeKvReuse: boolean;
  readonly trackPrefillTokens: boolean;
  readonly trackActiveBlocks: boolean;
}
