/** How one worker set shares its index, as the settings want it: it asks another process's and keeps none, or serves its own, or neither. */
import type { RequestPlane } from "../../dynamo/request-plane/contracts.ts";
import type { WorkerSet } from "../../dynamo/worker-sets/worker-set.ts";
import type { Logger } from "../../telemetry/log.ts";
import { IndexClient } from "../remote-index/index-client.ts";
import type { InstanceLookup } from "../remote-index/index-instances.ts";
import type { IndexService } from "../remote-index/index-service.ts";
import { SetServing, type SetServingInit } from "../remote-index/set-serving.ts";
import type { FleetSettings } from "./fleet-settings.ts";
import { createRemoteSetIndex, createSetIndex, type SetIndex } from "./set-index.ts";

export interface IndexSharingInit {
  readonly set: WorkerSet;
  readonly settings: FleetSettings;
  readonly requests: Pick<RequestPlane, "call">;
  /** Where other processes serve their indices; asked where the settings want one. */
  readonly servedIndices: InstanceLookup;
  /** Where this set's index is served to others; undefined: nowhere. */
  readonly service?: Pick<IndexService, "serve"> | undefined;
  readonly log: Logger;
  readonly now: () => number;
  readonly random: () => number;
}

/** A server nearby answers in a millisecond or two: no request waits for one that does not for longer than a user notices. */
const answerWithinMs = 1000;

/** Undefined where the set keeps an index of its own, or needs none: without credit an overlap counts nothing. */
export function createIndexClient({
  set,
  settings,
  requests,
  servedIndices,
  now,
  log,
}: IndexSharingInit): IndexClient | undefined {
  const { useRemoteIndexer, useKvEvents, overlapScoreCredit } = settings.config;
  if (!useRemoteIndexer || overlapScoreCredit === 0) return undefined;
  return new IndexClient({
    model: set.model,
    isFedByEvents: useKvEvents,
    asksDecodeLeg: settings.settingsOf("decode", undefined).overlapScoreCredit > 0,
    plane: requests,
    lookup: servedIndices,
    now,
    log,
    answerWithinMs,
  });
}

export function createIndexFor({ settings, random }: IndexSharingInit, client: IndexClient | undefined): SetIndex {
  if (client === undefined) return createSetIndex(settings.config, random);
  return createRemoteSetIndex(settings.config, random, (rank, blockHashes, sequenceHashes) =>
    client.record(rank, blockHashes, sequenceHashes),
  );
}

/** Undefined where nobody is told of the index. */
export function createServing(
  { set, service, now }: IndexSharingInit,
  { served, router, fed }: SetIndex,
  known: Pick<SetServingInit, "holderOf" | "isSettled">,
): SetServing | undefined {
  if (service === undefined || served === undefined) return undefined;
  return new SetServing({
    ...known,
    service,
    model: set.model,
    matcher: served,
    // What another router decided feeds the index as what this one decides does.
    routed: fed === undefined ? (holder, hashes, nowMs) => router?.routed?.(holder, hashes, nowMs, hashes) : undefined,
    now,
  });
}
