/**
 * The bookings of other routers on one stage, by their request's id. Whoever books an id first has it, as in Dynamo: events that come twice, too
 * late or in the wrong order change nothing that they should not. Nothing here outlives its router's channel, or the age at which the stage
 * ends what nobody ended.
 */
import type { ActiveSequenceAdd, ActiveSequenceEvent } from "../../dynamo/kv-events/active-sequences.ts";
import type { WorkerRank } from "../contracts.ts";
import type { StageBooking, WorkerStage } from "../stage.ts";
import type { ReplicaCounters } from "./replica-counters.ts";

/** One of this router's own bookings. */
export interface OwnBooking extends WorkerRank {
  readonly booking: StageBooking;
}

export interface RemoteBookingsInit {
  readonly stage: Pick<WorkerStage, "bookRemote">;
  /** A worker may mark what this router booked; nobody else may end it. */
  readonly ownBooking: (id: string) => OwnBooking | undefined;
  readonly counters: ReplicaCounters;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** The age at which the stage ends a booking by itself. */
  readonly maxAgeMs: number;
  readonly capacity?: number;
}

/** Bookings of all other routers together; beyond it they are not counted. */
const defaultCapacity = 131_072;

/** How long the end or mark of a booking is kept for a booking that comes after it: a worker's mark overtakes its router's batch. */
const earlyMs = 1000;
const maxEarly = 4096;

interface RemoteBooking extends WorkerRank {
  booking: StageBooking;
  readonly routerId: bigint;
  readonly publisherId: bigint;
  readonly bookedAtMs: number;
}

interface EarlyWord extends WorkerRank {
  readonly kind: "free" | "prefill-completed";
  readonly saidAtMs: number;
}

const noHashes = new Uint32Array(0);

export class RemoteBookings {
  readonly #init: RemoteBookingsInit;
  readonly #capacity: number;
  /** Oldest first. */
  readonly #bookings = new Map<string, RemoteBooking>();
  /** Oldest first. */
  readonly #early = new Map<string, EarlyWord>();

  constructor(init: RemoteBookingsInit) {
    this.#init = init;
    this.#capacity = init.capacity ?? defaultCapacity;
  }

  get size(): number {
    return this.#bookings.size;
  }

  /** True where a rank may have room that it had not before. */
  apply(event: ActiveSequenceEvent, publisherId: bigint): boolean {
    switch (event.change.kind) {
      case "add":
        this.#book(event, event.change, publisherId);
        return false;
      case "prefill-completed":
        return this.#completePrefill(event);
      case "free":
        return this.#free(event);
      default:
        return event.change satisfies never;
    }
  }

  /** The publisher can be heard no more, so nobody would end its bookings. True where there were any. */
  publisherGone(publisherId: bigint): boolean {
    let abandoned = 0;
    for (const [id, remote] of this.#bookings) {
      if (remote.publisherId !== publisherId) continue;
      remote.booking.free();
      this.#bookings.delete(id);
      abandoned++;
    }
    this.#init.counters.abandoned += abandoned;
    return abandoned > 0;
  }

  #book(event: ActiveSequenceEvent, add: ActiveSequenceAdd, publisherId: bigint): void {
    const { stage, counters, now, ownBooking } = this.#init;
    const { requestId, workerId, dpRank, routerId } = event;
    const nowMs = now();
    this.#forgetOld(nowMs);
    if (ownBooking(requestId) !== undefined) {
      counters.ignored.known++;
      return;
    }
    const known = this.#bookings.get(requestId);
    if (known === undefined && this.#bookings.size >= this.#capacity) {
      counters.ignored.full++;
      return;
    }
    const early = this.#takeEarly(event, nowMs);
    if (known === undefined && early === "free") {
      counters.ignored.known++;
      return;
    }
    const booking = stage.bookRemote(
      requestId,
      { workerId, dpRank },
      add.sequenceHashes ?? noHashes,
      {
        prefillTokens: add.trackPrefillTokens ? (add.prefillTokens ?? 0) : 0,
        expectedPrefillMs: add.expectedPrefillMs,
      },
      add.expectedOutputTokens,
      nowMs,
    );
    // The stage hands out the booking that it has; one that ended with its worker it makes anew.
    if (booking === known?.booking) {
      counters.ignored.known++;
      return;
    }
    this.#bookings.delete(requestId);
    this.#bookings.set(requestId, { booking, workerId, dpRank, routerId, publisherId, bookedAtMs: nowMs });
    counters.booked++;
    if (early !== "prefill-completed") return;
    booking.prefillCompleted();
    counters.prefilled++;
  }

  #completePrefill(event: ActiveSequenceEvent): boolean {
    const { counters, ownBooking } = this.#init;
    const known = ownBooking(event.requestId) ?? this.#bookings.get(event.requestId);
    if (known === undefined) return this.#keepEarly(event, "prefill-completed");
    if (!isSameRank(known, event)) {
      counters.ignored["not-theirs"]++;
      return false;
    }
    known.booking.prefillCompleted();
    counters.prefilled++;
    return true;
  }

  #free(event: ActiveSequenceEvent): boolean {
    const { counters, ownBooking } = this.#init;
    const known = this.#bookings.get(event.requestId);
    if (known === undefined && ownBooking(event.requestId) === undefined) return this.#keepEarly(event, "free");
    if (known === undefined || known.routerId !== event.routerId || !isSameRank(known, event)) {
      counters.ignored["not-theirs"]++;
      return false;
    }
    known.booking.free();
    this.#bookings.delete(event.requestId);
    counters.freed++;
    return true;
  }

  #keepEarly({ requestId, workerId, dpRank }: ActiveSequenceEvent, kind: EarlyWord["kind"]): false {
    this.#init.counters.ignored.unknown++;
    this.#early.delete(requestId);
    this.#early.set(requestId, { kind, workerId, dpRank, saidAtMs: this.#init.now() });
    if (this.#early.size > maxEarly) {
      const [oldest] = this.#early.keys();
      if (oldest !== undefined) this.#early.delete(oldest);
    }
    return false;
  }

  #takeEarly(event: ActiveSequenceEvent, nowMs: number): EarlyWord["kind"] | undefined {
    const early = this.#early.get(event.requestId);
    if (early === undefined) return undefined;
    this.#early.delete(event.requestId);
    return nowMs - early.saidAtMs <= earlyMs && isSameRank(early, event) ? early.kind : undefined;
  }

  /** What is a minute past its age the stage has ended, and counted. */
  #forgetOld(nowMs: number): void {
    for (const [id, { booking, bookedAtMs }] of this.#bookings) {
      if (nowMs - bookedAtMs < this.#init.maxAgeMs + 60_000) return;
      booking.free();
      this.#bookings.delete(id);
    }
  }
}

function isSameRank(one: WorkerRank, other: WorkerRank): boolean {
  return one.workerId === other.workerId && one.dpRank === other.dpRank;
}
