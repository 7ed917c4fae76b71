/**
 * What the approximate prefix cache has learnt, kept across configuration reloads: the producers of one name over one endpoint store share it,
 * and it goes with the last of them.
 */
import type { PluginContext } from "../plugin.ts";
import { type BlockHasher, createBlockHasher } from "../prefix-index/block-hasher.ts";
import { EndpointHolders } from "../prefix-index/endpoint-holders.ts";
import { PrefixIndex } from "../prefix-index/prefix-index.ts";
import type { EndpointStoreView } from "../store-view.ts";

export interface ApproxPrefixState {
  readonly index: PrefixIndex;
  readonly holders: EndpointHolders;
  readonly hasher: BlockHasher;
}

interface Shared {
  readonly state: ApproxPrefixState;
  users: number;
}

const byStore = new WeakMap<EndpointStoreView, Map<string, Shared>>();

/** Each acquisition is released once. */
export function acquireApproxPrefixState(context: PluginContext): ApproxPrefixState {
  let byName = byStore.get(context.endpoints);
  if (byName === undefined) {
    byName = new Map();
    byStore.set(context.endpoints, byName);
  }
  let shared = byName.get(context.name);
  if (shared === undefined) {
    const index = new PrefixIndex(() => context.random());
    const holders = new EndpointHolders(index, context.endpoints);
    shared = { state: { index, holders, hasher: createBlockHasher() }, users: 0 };
    byName.set(context.name, shared);
  }
  shared.users++;
  return shared.state;
}

export function releaseApproxPrefixState(context: PluginContext): void {
  const byName = byStore.get(context.endpoints);
  const shared = byName?.get(context.name);
  if (byName === undefined || shared === undefined || --shared.users > 0) return;
  byName.delete(context.name);
  shared.state.holders.close();
}
