/**
 * The other pickers of the same engines, Dynamo's own among them: what is booked here is told to them over ZeroMQ, and what they book is booked
 * here, in the words of Dynamo's slot tracker. Best effort, as Dynamo's: nothing is said again, so a booking whose end was lost ends by age.
 */
import { setTimeout as rest } from "node:timers/promises";
import type { PeerAddress, PeerSource } from "../../data/peers/peer-addresses.ts";
import type { ActiveSequenceChange } from "../../dynamo/kv-events/active-sequences.ts";
import type { Logger } from "../../telemetry/log.ts";
import { RemoteBookings } from "../replica-sync/remote-bookings.ts";
import { createReplicaCounters, type ReplicaCounters } from "../replica-sync/replica-counters.ts";
import { additionOf } from "../replica-sync/replica-sync.ts";
import { defaultRoutingGroup as routingGroup } from "../routing-group.ts";
import type { ReplicaChange, ReplicaEvent } from "../service/replica-codec.ts";
import type { ReplicaMesh } from "../service/replica-mesh.ts";
import type { StageBooking, WorkerStage } from "../stage.ts";

export interface SlotPeersInit {
  readonly modelName: string;
  readonly blockSize: number;
  /** Bound by this picker and, unless `source` says otherwise, by every peer. */
  readonly port: number;
  /** Owned from now on. */
  readonly source: PeerSource;
  /** Told of all peers whenever they may have changed. */
  readonly found?: ((addresses: readonly PeerAddress[]) => void) | undefined;
  readonly stage: Pick<WorkerStage, "observe" | "bookRemote">;
  /** A peer's booking ended or has its first token: who waits is to be looked at again. */
  readonly capacityChanged: () => void;
  /** The age at which the stage ends what nobody ended. */
  readonly bookingExpiryMs: number;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  readonly log: Logger;
}

const firstRetryMs = 250;
const longestRetryMs = 10_000;

interface OwnBooking {
  readonly booking: StageBooking;
  readonly workerId: bigint;
  readonly dpRank: number;
  readonly loraName: string | undefined;
}

export class SlotPeers {
  readonly counters: ReplicaCounters = createReplicaCounters();
  readonly #init: SlotPeersInit;
  readonly #own = new Map<string, OwnBooking>();
  readonly #remote: RemoteBookings;
  readonly #unobserve: () => void;
  #mesh: ReplicaMesh | undefined;
  readonly #closing = new AbortController();
  #starting: Promise<void> = Promise.resolve();
  #failure: string | undefined;
  #isClosed = false;

  constructor(init: SlotPeersInit) {
    this.#init = init;
    const { stage, now, bookingExpiryMs: maxAgeMs } = init;
    const ownBooking = (id: string): OwnBooking | undefined => this.#own.get(id);
    this.#remote = new RemoteBookings({ stage, ownBooking, counters: this.counters, now, maxAgeMs });
    this.#unobserve = stage.observe({
      booked: (booking, { workerId, dpRank }, request, prefill) => {
        const own: OwnBooking = { booking, workerId, dpRank, loraName: request.loraName };
        this.#own.set(booking.id, own);
        if (this.#mesh !== undefined) this.#tell(own, wireChange(additionOf(request, prefill)));
      },
      prefillCompleted: (id) => {
        const own = this.#own.get(id);
        if (own !== undefined) this.#tell(own, { kind: "prefill-completed" });
      },
      freed: (id) => {
        const own = this.#own.get(id);
        this.#own.delete(id);
        if (own !== undefined) this.#tell(own, { kind: "free" });
      },
    });
  }

  /**
   * A port that cannot be bound is said and tried again, and the picker serves alone meanwhile: a configuration that is replaced keeps the port
   * until its last request has ended.
   */
  begin(): void {
    this.#starting = this.#start();
  }

  /** Port that is bound; undefined until it is. */
  get port(): number | undefined {
    return this.#mesh?.port;
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    const mesh = this.#mesh;
    return {
      failure: this.#failure ?? null,
      port: mesh?.port ?? null,
      peers: mesh?.list() ?? [],
      remoteBookings: this.#remote.size,
      ...this.counters,
      dropped: mesh?.dropped ?? 0,
      malformed: mesh?.malformed ?? 0,
    };
  }

  /** To be called when the stage's own bookings have ended, so that the peers hear of it. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#closing.abort();
    this.#unobserve();
    await this.#starting;
    await this.#init.source.close();
    await this.#mesh?.close();
  }

  /** Never rejects. */
  async #start(): Promise<void> {
    const { port, log, source } = this.#init;
    const { signal } = this.#closing;
    for (let retryMs = firstRetryMs; !signal.aborted; retryMs = Math.min(2 * retryMs, longestRetryMs)) {
      try {
        const { startReplicaMesh } = await import("../service/replica-mesh.ts");
        if (signal.aborted) return;
        this.#mesh = await startReplicaMesh({ port, peers: [], log, heard: (event) => this.#heard(event) });
        this.#failure = undefined;
        await source.start((addresses) => this.#found(addresses));
        return;
      } catch (error) {
        if (this.#failure === undefined) {
          log.error({ error, retryMs }, "the other pickers hear nothing of this one; tried again");
        }
        this.#failure = error instanceof Error ? error.message : String(error);
        if (this.#mesh !== undefined) return;
        await rest(retryMs, undefined, { signal, ref: false }).catch(() => undefined);
      }
    }
  }

  #found(addresses: readonly PeerAddress[]): void {
    const mesh = this.#mesh;
    if (mesh === undefined || this.#isClosed) return;
    this.#init.found?.(addresses);
    const wanted = new Set(addresses.map(endpointOf));
    for (const endpoint of mesh.list()) if (!wanted.has(endpoint)) mesh.deregister(endpoint);
    for (const endpoint of wanted) mesh.register(endpoint);
  }

  #tell({ booking, workerId, dpRank, loraName }: OwnBooking, change: ReplicaChange): void {
    const { modelName, blockSize } = this.#init;
    if (this.#mesh === undefined) return;
    this.counters.published++;
    this.#mesh.publish({
      modelName,
      routingGroup,
      blockSize,
      bookingId: booking.id,
      workerId,
      dpRank,
      loraName,
      change,
    });
  }

  #heard(event: ReplicaEvent): void {
    if (this.#isClosed) return;
    this.counters.heard++;
    const { modelName, blockSize } = this.#init;
    if (event.modelName !== modelName || event.blockSize !== blockSize || event.routingGroup !== routingGroup) {
      this.counters.ignored.unshared++;
      return;
    }
    const { bookingId: requestId, workerId, dpRank, senderId: routerId, loraName } = event;
    const change = bookedChange(event.change);
    const hasRoom = this.#remote.apply({ requestId, workerId, dpRank, routerId, loraName, change }, routerId);
    if (hasRoom) this.#init.capacityChanged();
  }
}

function endpointOf({ host, port }: PeerAddress): string {
  return host.includes(":") ? `tcp://[${host}]:${port}` : `tcp://${host}:${port}`;
}

function wireChange(change: ActiveSequenceChange): ReplicaChange {
  if (change.kind !== "add") return change;
  const { sequenceHashes, trackPrefillTokens, expectedOutputTokens, prefillTokens, expectedPrefillMs } = change;
  return {
    kind: "add",
    sequenceHashes: sequenceHashes ?? noHashes,
    tracksPrefillTokens: trackPrefillTokens,
    expectedOutputTokens,
    prefillTokens: trackPrefillTokens ? prefillTokens : undefined,
    expectedPrefillMs,
  };
}

function bookedChange(change: ReplicaChange): ActiveSequenceChange {
  if (change.kind !== "add") return change;
  const { sequenceHashes, tracksPrefillTokens, expectedOutputTokens, prefillTokens, expectedPrefillMs } = change;
  return {
    kind: "add",
    sequenceHashes,
    trackPrefillTokens: tracksPrefillTokens,
    expectedOutputTokens,
    prefillTokens,
    expectedPrefillMs,
  };
}

const noHashes = new Uint32Array(0);
