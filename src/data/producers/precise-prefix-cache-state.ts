/**
 * What engines have said of their caches, kept across configuration reloads: events are not said twice. Producers of one name over one endpoint store
 * that listen in the same way share it, and it goes with the last of them.
 */

import { EndpointFeeds } from "../kv-events/endpoint-feeds.ts";
import { parseLabelSelector } from "../kv-events/label-selector.ts";
import type { PluginContext } from "../plugin.ts";
import { createKvIndex } from "../prefix-index/exact-kv-index.ts";
import type { KvIndex } from "../prefix-index/kv-index.ts";
import type { EndpointStoreView } from "../store-view.ts";
import type { PreciseSettings } from "./precise-prefix-cache-parameters.ts";

export interface PreciseState {
  readonly index: KvIndex;
  readonly feeds: EndpointFeeds;
}

interface Shared {
  readonly state: PreciseState;
  users: number;
}

/** Blocks one rank may name: sixteen times the cache of a large engine. */
const maxBlocksPerRank = 4_194_304;

const byStore = new WeakMap<EndpointStoreView, Map<string, Shared>>();

export interface PreciseStateLease {
  readonly state: PreciseState;
  /** Once. */
  release(): Promise<void>;
}

export function acquirePreciseState(context: PluginContext, settings: PreciseSettings): PreciseStateLease {
  const key = keyOf(context.name, settings);
  let byKey = byStore.get(context.endpoints);
  if (byKey === undefined) {
    byKey = new Map();
    byStore.set(context.endpoints, byKey);
  }
  let shared = byKey.get(key);
  if (shared === undefined) {
    shared = { state: createState(context, settings), users: 0 };
    byKey.set(key, shared);
  }
  shared.users += 1;
  const { state } = shared;
  const held = shared;
  const owners = byKey;
  return {
    state,
    async release() {
      held.users -= 1;
      if (held.users > 0) return;
      owners.delete(key);
      await state.feeds.close();
    },
  };
}

function createState(context: PluginContext, settings: PreciseSettings): PreciseState {
  const index = createKvIndex({
    random: () => context.random(),
    ...(settings.maxBlocks === undefined ? {} : { maxBlocks: settings.maxBlocks }),
  });
  const selector = parseLabelSelector(settings.podLabelSelector) ?? (() => true);
  const { socketPort, replaySocketPort, podNamespace, blockSizeTokens, topicFilter, boundEndpoint } = settings;
  const feeds = new EndpointFeeds({
    index,
    endpoints: context.endpoints,
    blockSize: blockSizeTokens,
    topicFilter,
    perEndpoint:
      socketPort === undefined
        ? undefined
        : {
            port: socketPort,
            replayPort: replaySocketPort,
            selects: ({ namespace, labels }) => (podNamespace === "" || namespace === podNamespace) && selector(labels),
          },
    boundEndpoint,
    maxBlocksPerRank,
    log: context.log,
    now: () => context.now(),
  });
  return { index, feeds };
}

/** Whatever decides what is heard and how it is kept. */
function keyOf(name: string, settings: PreciseSettings): string {
  return JSON.stringify([name, { ...settings, speculativeTtlMs: 0, hostWeight: 0, diskWeight: 0 }]);
}
