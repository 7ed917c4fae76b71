/**
 * State that the replicas of one picker share. Whoever keeps it says what changed in payloads of its own layout, and takes those of peers; how
 * they travel is data/peers'. A payload says a value or a fact, never a difference, so that one that comes twice changes nothing.
 */
import type { Endpoint } from "./endpoint.ts";
import type { EndpointStoreView } from "./store-view.ts";

/** One process; a picker that was started anew is another peer. */
export type PeerId = string & { readonly brand: "PeerId" };

/** A payload is at most so long; a longer one is not taken. */
export const maxSharedPayloadBytes = 32_768;

/** Where local changes go. */
export interface ChangeSink {
  /** Copies the first `length` bytes of the payload. False where they are too many. */
  append(payload: Uint8Array, length: number): boolean;
  /** There is something that the next `collect` would append. */
  changed(): void;
}

interface Shared {
  /** The same in every replica, and unique among what one replica shares of one pool. */
  readonly topic: string;
  /** From now on local changes go to `changes`; undefined: to nobody. */
  shareWith(changes: ChangeSink | undefined): void;
  /**
   * Takes what a peer said. The view is valid until the call returns; its bytes may be anything. False: it could not be read.
   * `nowMs` is monotonic.
   */
  apply(peer: PeerId, payload: Buffer, nowMs: number): boolean;
}

/** Something of each replica's own that adds up, such as its load: it counts as long as the replica is heard. */
export interface SharedContribution extends Shared {
  readonly kind: "contribution";
  /** Appends the present values of what changed since the last call. */
  collect(): void;
  /** Payloads with all of this replica's own values. */
  own(): Iterable<Uint8Array>;
  /** All values of the peer follow by `apply`, and take the place of what it said before once `replaced` is called. */
  replacing(peer: PeerId): void;
  replaced(peer: PeerId): void;
  /** The peer is heard no more: nothing of it counts. */
  gone(peer: PeerId): void;
  /** What of the peer counts, for /debug. */
  describe(peer: PeerId): unknown;
}

/** Something all replicas learn of the same world, such as who holds which blocks: it outlives who said it. */
export interface SharedKnowledge extends Shared {
  readonly kind: "knowledge";
  /** Payloads with what is known, the most useful first, for a peer that has nothing yet; read a few at a time between changes. */
  known(nowMs: number): Iterable<Uint8Array>;
}

export type SharedState = SharedContribution | SharedKnowledge;

/** A plugin whose state is worth sharing has it under this name. */
export interface Shareable {
  readonly shared: SharedState | undefined;
}

/** What names an endpoint in every replica: two servers that had one name after the other differ in their address. */
export function endpointKeyOf({ name, hostPort }: Pick<Endpoint, "name" | "hostPort">): string {
  return `${name} ${hostPort}`;
}

/** The endpoint of that key; undefined where this replica does not know it, or knows another server by its name. */
export function endpointByKey(store: Pick<EndpointStoreView, "get">, key: string): Endpoint | undefined {
  const space = key.lastIndexOf(" ");
  const endpoint = store.get(key.slice(0, Math.max(space, 0)) as Endpoint["name"]);
  return endpoint !== undefined && endpoint.hostPort === key.slice(space + 1) ? endpoint : undefined;
}
