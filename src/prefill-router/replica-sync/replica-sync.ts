/**
 * Replica sync of one worker set: tells the other routers what this one books, and books what they tell, so that each sees the load of all.
 * Workers speak here too: of a first token, by the id of the request that its booking gave it, which a router that shares nothing hears as
 * well, as Dynamo's does. Best effort, as Dynamo's: nothing is acknowledged or said again, a router that comes late learns only of what is
 * booked from then on, and the growth of outputs is not shared.
 */
import { randomFillSync } from "node:crypto";
import type { EventHandler } from "../../dynamo/event-plane/event-plane.ts";
import {
  type ActiveSequenceChange,
  type ActiveSequenceEvent,
  parseActiveSequenceEvents,
} from "../../dynamo/kv-events/active-sequences.ts";
import { scopePath } from "../../dynamo/record-keys.ts";
import type { EventChannelRecord, EventScope, InstanceRecord } from "../../dynamo/records.ts";
import type { SetRole } from "../../dynamo/worker-sets/worker-set.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { Stage } from "../contracts.ts";
import type { PrefillLoad, StageObserver, StageRequest, WorkerStage } from "../stage.ts";
import { type OwnBooking, RemoteBookings } from "./remote-bookings.ts";
import { createReplicaCounters, type ReplicaCounters } from "./replica-counters.ts";
import { type LinkSharing, ReplicaLink, replicaTopic } from "./replica-link.ts";

/** A stage as replica sync uses it. */
export type ReplicatedStage = Pick<WorkerStage, "observe" | "bookRemote">;

export interface ReplicaSharing extends LinkSharing {
  /** Tells this router from the others: unique, the same in all its worker sets. */
  readonly routerId: bigint;
}

/** What replica sync shares with the rest of its worker set. */
export interface ReplicaSyncInit {
  /** Undefined: this router neither tells what it books nor books what others tell; workers are heard all the same. */
  readonly sharing: ReplicaSharing | undefined;
  /** Resolves once the topic is heard of every channel that discovery knows. */
  readonly hear: (scope: EventScope, topic: string, handler: EventHandler) => Promise<void>;
  readonly stages: Readonly<Record<Stage, ReplicatedStage>>;
  /** Another router's booking ended: who waits is to be looked at again. */
  readonly capacityChanged: () => void;
  /** The age at which the stages end what nobody ended. */
  readonly bookingExpiryMs: number;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  readonly log: Logger;
}

export interface ReplicatedWorker {
  readonly id: bigint;
  readonly role: SetRole;
  readonly instance: Pick<InstanceRecord, "namespace" | "component" | "endpoint">;
}

interface LinkedBooking extends OwnBooking {
  readonly link: ReplicaLink;
}

export class ReplicaSync {
  readonly counters: ReplicaCounters = createReplicaCounters();
  readonly #init: ReplicaSyncInit;
  /** By scope, as long as a worker is in it. */
  readonly #links = new Map<string, ReplicaLink>();
  readonly #closing = new Set<Promise<void>>();
  readonly #workers = new Map<bigint, { readonly link: ReplicaLink; readonly stage: Stage }>();
  readonly #remote: Readonly<Record<Stage, RemoteBookings>>;
  readonly #unobserve: readonly (() => void)[];
  #isClosed = false;

  constructor(init: ReplicaSyncInit) {
    this.#init = init;
    const prefill = new Map<string, LinkedBooking>();
    const decode = new Map<string, LinkedBooking>();
    this.#remote = { prefill: this.#remoteOf("prefill", prefill), decode: this.#remoteOf("decode", decode) };
    this.#unobserve = [
      init.stages.prefill.observe(this.#teller(prefill)),
      init.stages.decode.observe(this.#teller(decode)),
    ];
  }

  /** Also when anything of the worker changed. */
  workerAdded({ id, role, instance }: ReplicatedWorker): void {
    if (this.#isClosed) return;
    const stage = role === "prefill" ? "prefill" : "decode";
    const before = this.#workers.get(id)?.link;
    const link = this.#linkOf(instance, stage);
    this.#workers.set(id, { link, stage });
    if (before !== undefined && before !== link) this.#release(before);
  }

  /** To be called once the stages have ended the worker's bookings, which the others are still told. */
  workerRemoved(workerId: bigint): void {
    const link = this.#workers.get(workerId)?.link;
    this.#workers.delete(workerId);
    if (link !== undefined) this.#release(link);
  }

  /** A channel of this router itself, which it need not listen to. */
  owns({ publisherId, topic }: EventChannelRecord): boolean {
    return topic === replicaTopic && this.#isOwn(publisherId);
  }

  /** A router that left or died says nothing more, so its bookings end with its channel; Dynamo's routers keep them until they expire. */
  channelClosed({ publisherId, topic }: EventChannelRecord): void {
    if (topic !== replicaTopic) return;
    const decode = this.#remote.decode.publisherGone(publisherId);
    if (this.#remote.prefill.publisherGone(publisherId) || decode) this.#init.capacityChanged();
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    return {
      routerId: this.#init.sharing?.routerId.toString() ?? null,
      channels: Object.fromEntries(Array.from(this.#links, ([path, link]) => [path, link.publisherId !== undefined])),
      remoteBookings: { prefill: this.#remote.prefill.size, decode: this.#remote.decode.size },
      ...this.counters,
    };
  }

  /** To be called when the stages' own bookings have ended, so that the others hear of it. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const unobserve of this.#unobserve) unobserve();
    this.#workers.clear();
    for (const link of this.#links.values()) this.#release(link);
    await Promise.all(this.#closing);
  }

  #remoteOf(stage: Stage, own: ReadonlyMap<string, OwnBooking>): RemoteBookings {
    const { stages, now, bookingExpiryMs } = this.#init;
    return new RemoteBookings({
      stage: stages[stage],
      ownBooking: (id) => own.get(id),
      counters: this.counters,
      now,
      maxAgeMs: bookingExpiryMs,
    });
  }

  #linkOf({ namespace, component, endpoint }: ReplicatedWorker["instance"], stage: Stage): ReplicaLink {
    const scope = { namespace, component, endpoint };
    const path = scopePath(scope);
    const known = this.#links.get(path);
    if (known !== undefined) return known;
    const { sharing, hear, log } = this.#init;
    const handler: EventHandler = (payload, publisherId) => this.#heard(payload, publisherId, stage);
    const link = new ReplicaLink({ scope, stage, sharing, hear, handler, counters: this.counters, log });
    this.#links.set(path, link);
    return link;
  }

  /** Closes the channel of a scope in which no worker is left. */
  #release(link: ReplicaLink): void {
    for (const worker of this.#workers.values()) if (worker.link === link) return;
    for (const [path, known] of this.#links) if (known === link) this.#links.delete(path);
    const closing = link.close().finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
  }

  /** Tells the others of a stage's own bookings. */
  #teller(own: Map<string, LinkedBooking>): StageObserver {
    return {
      booked: (booking, { workerId, dpRank }, request, prefill) => {
        const link = this.#workers.get(workerId)?.link;
        if (link === undefined) return;
        const linked: LinkedBooking = { booking, workerId, dpRank, link };
        own.set(booking.id, linked);
        if (this.#init.sharing !== undefined) {
          this.#tell(linked, additionOf(request, prefill), request.loraName);
        }
      },
      prefillCompleted: (id) => {
        const linked = own.get(id);
        if (linked !== undefined) this.#tell(linked, { kind: "prefill-completed" }, undefined);
      },
      freed: (id) => {
        const linked = own.get(id);
        if (linked === undefined) return;
        own.delete(id);
        this.#tell(linked, { kind: "free" }, undefined);
      },
    };
  }

  #tell(
    { booking, workerId, dpRank, link }: LinkedBooking,
    change: ActiveSequenceChange,
    loraName: string | undefined,
  ) {
    const { sharing } = this.#init;
    if (sharing === undefined) return;
    link.outbox.enqueue({ requestId: booking.id, workerId, dpRank, change, routerId: sharing.routerId, loraName });
  }

  #heard(payload: Buffer, publisherId: bigint, stage: Stage): void {
    if (this.#isClosed || this.#isOwn(publisherId)) return;
    let hasRoom = false;
    for (const event of parseActiveSequenceEvents(payload)) {
      this.counters.heard++;
      if (event.routerId === this.#init.sharing?.routerId) this.counters.ignored.own++;
      else if (this.#init.sharing === undefined && !isWorkersMark(event)) this.counters.ignored.unshared++;
      else if (this.#remoteFor(event, stage).apply(event, publisherId)) hasRoom = true;
    }
    if (hasRoom) this.#init.capacityChanged();
  }

  #remoteFor({ workerId }: ActiveSequenceEvent, stage: Stage): RemoteBookings {
    return this.#remote[this.#workers.get(workerId)?.stage ?? stage];
  }

  #isOwn(publisherId: bigint): boolean {
    for (const link of this.#links.values()) if (link.publisherId === publisherId) return true;
    return false;
  }
}

/** A worker signs with its own id. */
function isWorkersMark({ change, routerId, workerId }: ActiveSequenceEvent): boolean {
  return change.kind === "prefill-completed" && routerId === workerId;
}

/** What a booking is to the other routers. */
export function additionOf(
  request: StageRequest,
  { prefillTokens, expectedPrefillMs }: PrefillLoad,
): ActiveSequenceChange {
  const { settings, sequenceHashes, expectedOutputTokens } = request;
  return {
    kind: "add",
    sequenceHashes: settings.trackActiveBlocks ? sharedHashes(sequenceHashes, settings.assumeKvReuse) : undefined,
    trackPrefillTokens: settings.trackPrefillTokens,
    expectedOutputTokens:
      expectedOutputTokens === undefined ? undefined : Math.min(Math.trunc(expectedOutputTokens), 0xffff_ffff),
    // Whole on the wire, where weighted cache tiers leave fractions here.
    prefillTokens: Math.round(prefillTokens),
    expectedPrefillMs,
  };
}

/** A copy, as the caller's hashes are its own. Blocks that are not to be shared are as many that nobody else has. */
function sharedHashes(hashes: Uint32Array, isShared: boolean): Uint32Array {
  return isShared ? hashes.slice() : randomFillSync(new Uint32Array(hashes.length));
}
