/**
 * Between the books and the mesh: what is booked here is told to the peers, what they tell is booked here. A peer's booking can be advanced and ended
 * by its id here too. Growth by output blocks stays local, as in Dynamo.
 */
import type { StageBooking } from "../stage.ts";
import { keyOf } from "./catalogue.ts";
import type { Partition } from "./partition.ts";
import type { ReplicaChange, ReplicaEvent } from "./replica-codec.ts";
import type { SelectionService } from "./selection-service.ts";

export interface ReplicasOptions {
  readonly service: SelectionService;
  readonly publish: (event: Omit<ReplicaEvent, "senderId">) => void;
  /** Bookings whose end was lost end at this age. */
  readonly expiryMs: number;
  readonly now: () => number;
}

/** Of one partition; beyond it the oldest are taken for ended. */
const maxMirrored = 65_536;

interface Mirrored {
  readonly booking: StageBooking;
  readonly sinceMs: number;
}

export class Replicas {
  readonly #options: ReplicasOptions;
  /** By partition, then by booking, oldest first. */
  readonly #mirrored = new Map<string, Map<string, Mirrored>>();
  /** Events of partitions, workers or block sizes that are not known here. */
  unknown = 0;
  #isClosed = false;

  constructor(options: ReplicasOptions) {
    this.#options = options;
  }

  follow(partition: Partition): void {
    const tell = (bookingId: string, workerId: bigint, dpRank: number, change: ReplicaChange, lora?: string): void => {
      if (this.#isClosed) return;
      this.#options.publish({
        modelName: partition.modelName,
        routingGroup: partition.routingGroup,
        blockSize: partition.blockSize,
        bookingId,
        workerId,
        dpRank,
        loraName: lora,
        change,
      });
    };
    partition.decode.observe({
      booked: (booking, rank, request, { prefillTokens, expectedPrefillMs }) => {
        const { trackPrefillTokens, trackActiveBlocks } = request.settings;
        const change: ReplicaChange = {
          kind: "add",
          sequenceHashes: trackActiveBlocks ? request.sequenceHashes : new Uint32Array(0),
          tracksPrefillTokens: trackPrefillTokens,
          expectedOutputTokens: request.expectedOutputTokens,
          prefillTokens: trackPrefillTokens ? prefillTokens : undefined,
          expectedPrefillMs,
        };
        tell(booking.id, rank.workerId, rank.dpRank, change, request.loraName);
      },
      prefillCompleted: (id, rank) => tell(id, rank.workerId, rank.dpRank, { kind: "prefill-completed" }),
      freed: (id, rank) => tell(id, rank.workerId, rank.dpRank, { kind: "free" }),
    });
  }

  /** Tells no more: what was booked here runs on, and ends by a word to a peer or by age. */
  close(): void {
    this.#isClosed = true;
  }

  heard(event: ReplicaEvent): void {
    if (this.#isClosed) return;
    const { modelName, routingGroup, blockSize, bookingId, workerId, change } = event;
    const partition = this.#options.service.catalogue.partition(modelName, routingGroup);
    if (partition === undefined || partition.blockSize !== blockSize || !partition.decode.workers.has(workerId)) {
      this.unknown += 1;
      return;
    }
    const key = keyOf(modelName, routingGroup);
    const mirrored = this.#bookings(key).get(bookingId);
    const { reservations } = this.#options.service;
    if (change.kind === "add") {
      this.#add(partition, key, event, change);
    } else if (change.kind === "prefill-completed") {
      (mirrored?.booking ?? reservations.get(bookingId))?.prefillCompleted();
      partition.router.capacityChanged();
    } else if (mirrored === undefined) {
      // Booked here, and ended by whoever asked a peer to.
      reservations.ended(bookingId, key);
    } else {
      this.#end(partition, key, bookingId);
    }
  }

  #add(partition: Partition, key: string, event: ReplicaEvent, change: Extract<ReplicaChange, { kind: "add" }>): void {
    const { now, service, publish } = this.#options;
    const { bookingId, workerId, dpRank } = event;
    if (service.reservations.has(bookingId)) return;
    const nowMs = now();
    this.#forgetOld(key, nowMs);
    const { sequenceHashes, expectedOutputTokens, expectedPrefillMs } = change;
    const prefillTokens = change.tracksPrefillTokens ? (change.prefillTokens ?? 0) : 0;
    const rank = { workerId, dpRank };
    const prefill = { prefillTokens, expectedPrefillMs };
    const booking = partition.decode.bookRemote(bookingId, rank, sequenceHashes, prefill, expectedOutputTokens, nowMs);
    this.#bookings(key).set(bookingId, { booking, sinceMs: nowMs });
    const { senderId: _sender, change: _change, ...said } = event;
    service.reservations.mirror(bookingId, key, {
      prefillCompleted: () => {
        booking.prefillCompleted();
        partition.router.capacityChanged();
        publish({ ...said, change: { kind: "prefill-completed" } });
      },
      outputBlock: (decay) => booking.outputBlock(decay),
      free: () => {
        this.#end(partition, key, bookingId);
        publish({ ...said, change: { kind: "free" } });
      },
    });
  }

  #end(partition: Partition, key: string, bookingId: string): void {
    const mirrored = this.#bookings(key).get(bookingId);
    if (mirrored === undefined) return;
    this.#bookings(key).delete(bookingId);
    this.#options.service.reservations.unmirror(bookingId, key);
    mirrored.booking.free();
    partition.router.capacityChanged();
  }

  /** The stage has ended those of age by now. */
  #forgetOld(key: string, nowMs: number): void {
    const known = this.#bookings(key);
    for (const [id, { booking, sinceMs }] of known) {
      if (nowMs - sinceMs < this.#options.expiryMs && known.size < maxMirrored) break;
      known.delete(id);
      this.#options.service.reservations.unmirror(id, key);
      booking.free();
    }
  }

  #bookings(key: string): Map<string, Mirrored> {
    let bookings = this.#mirrored.get(key);
    if (bookings === undefined) {
      bookings = new Map();
      this.#mirrored.set(key, bookings);
    }
    return bookings;
  }
}
