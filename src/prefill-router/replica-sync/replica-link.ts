/**
 * This router's channel among the routers of one scope: hears the others first, then announces itself, and tries again for as long as it is
 * wanted. Its record goes with it. One that only listens announces nothing.
 */
import { setTimeout as rest } from "node:timers/promises";
import type { DynamoRegistration } from "../../dynamo/discovery/registration.ts";
import { type EncodedRecord, encodeRecord } from "../../dynamo/encode-record.ts";
import type { EventHandler, EventPlane, EventPublisher } from "../../dynamo/event-plane/event-plane.ts";
import type { EventScope } from "../../dynamo/records.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { Stage } from "../contracts.ts";
import { EventOutbox } from "./event-outbox.ts";
import type { ReplicaCounters } from "./replica-counters.ts";

/** The topic of both stages in Dynamo 1.6: a prefill worker's endpoint is a scope of its own. */
export const replicaTopic = "active_sequences_events";

const firstRetryMs = 1000;
const longestRetryMs = 30_000;

/** How the others are told. */
export interface LinkSharing {
  readonly plane: Pick<EventPlane, "publish">;
  readonly registration: Pick<DynamoRegistration, "put" | "remove">;
}

export interface ReplicaLinkInit {
  readonly scope: EventScope;
  /** The stage of workers that nobody has announced yet. */
  readonly stage: Stage;
  /** Undefined: it only listens. */
  readonly sharing: LinkSharing | undefined;
  /** Resolves once the topic is heard. */
  readonly hear: (scope: EventScope, topic: string, handler: EventHandler) => Promise<void>;
  readonly handler: EventHandler;
  readonly counters: ReplicaCounters;
  readonly log: Logger;
}

export class ReplicaLink {
  readonly stage: Stage;
  readonly outbox: EventOutbox;
  readonly #init: ReplicaLinkInit;
  readonly #closing = new AbortController();
  readonly #opening: Promise<void>;
  #publisher: EventPublisher | undefined;
  #record: EncodedRecord | undefined;

  constructor(init: ReplicaLinkInit) {
    this.#init = init;
    this.stage = init.stage;
    this.outbox = new EventOutbox(init.counters);
    this.#opening = this.#open();
  }

  /** Undefined until the channel is open. */
  get publisherId(): bigint | undefined {
    return this.#publisher?.publisherId;
  }

  /** Sends what waits before the record goes, so that peers that listen still hear it. Never rejects. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#opening;
    this.outbox.close();
    if (this.#record !== undefined) {
      await this.#init.sharing?.registration
        .remove(this.#record.key)
        .catch((error: unknown) => this.#init.log.warn({ error }, "the channel of replica sync stays registered"));
    }
    await this.#publisher
      ?.close()
      .catch((error: unknown) => this.#init.log.warn({ error }, "the channel of replica sync failed to close"));
  }

  async #open(): Promise<void> {
    const { scope, hear, handler, sharing, log } = this.#init;
    const { signal } = this.#closing;
    await hear(scope, replicaTopic, handler);
    if (sharing === undefined) return;
    for (let retryMs = firstRetryMs; !signal.aborted; retryMs = Math.min(2 * retryMs, longestRetryMs)) {
      try {
        this.#publisher ??= await sharing.plane.publish(scope, replicaTopic);
        await this.#register(this.#publisher, sharing);
        if (!signal.aborted) this.outbox.open(this.#publisher);
        return;
      } catch (error) {
        log.error({ error, ...scope, retryMs }, "replicas do not hear of this router's requests; tried again");
        await rest(retryMs, undefined, { signal, ref: false }).catch(() => undefined);
      }
    }
  }

  /** A broker is found by itself: a record of it under this router's name would outlive it. */
  async #register({ channel }: EventPublisher, { registration }: LinkSharing): Promise<void> {
    if (channel.transport.kind === "zmq-broker") return;
    this.#record = encodeRecord(channel);
    await registration.put(this.#record);
  }
}
