/** A router's stages with replica sync over a bus in memory, for tests: two of them are two pickers. */
import type { DynamoRegistration } from "../../../../src/dynamo/discovery/registration.ts";
import type { EventHandler, EventPlane, EventPublisher } from "../../../../src/dynamo/event-plane/event-plane.ts";
import type { EventChannelRecord, EventScope } from "../../../../src/dynamo/records.ts";
import type { LinkSharing } from "../../../../src/prefill-router/replica-sync/replica-link.ts";
import { ReplicaSync, type ReplicaSyncInit } from "../../../../src/prefill-router/replica-sync/replica-sync.ts";
import { createWorkerStage } from "../../../../src/prefill-router/stage/worker-stage.ts";
import type { StageBooking, StageRequest, WorkerStage } from "../../../../src/prefill-router/stage.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import { only, select, worker } from "../stage/fleet.ts";

export const scopes = {
  decode: { namespace: "ns", component: "backend", endpoint: "generate" },
  prefill: { namespace: "ns", component: "prefill", endpoint: "generate" },
} as const;

const pathOf = ({ component }: EventScope): string => String(component);

/** What a router speaks through: a bus, or planes and discovery. */
export type Wiring = Pick<LinkSharing, "registration"> &
  Pick<ReplicaSyncInit, "hear"> & { readonly publish: EventPlane["publish"] };

/** Hands every message to all who hear its scope, the sender too, in the same turn. */
export class Bus implements Wiring {
  readonly kind: "zmq" | "nats";
  readonly messages: Buffer[] = [];
  readonly records = new Map<string, string>();
  readonly #hearers = new Map<string, EventHandler[]>();
  #publishers = 0n;

  constructor(kind: "zmq" | "nats" = "zmq") {
    this.kind = kind;
  }

  readonly registration: Pick<DynamoRegistration, "put" | "remove"> = {
    put: async ({ key, text }) => void this.records.set(key, text),
    remove: async (key) => void this.records.delete(key),
  };

  readonly hear = async (scope: EventScope, _topic: string, handler: EventHandler): Promise<void> => {
    this.#hearers.set(pathOf(scope), [...(this.#hearers.get(pathOf(scope)) ?? []), handler]);
  };

  readonly publish = async (scope: EventScope, topic: string): Promise<EventPublisher> => {
    const publisherId = ++this.#publishers;
    const transport =
      this.kind === "zmq"
        ? ({ kind: "zmq", endpoint: "tcp://127.0.0.1:1" } as const)
        : ({ kind: "nats", subjectPrefix: "namespace.ns" } as const);
    const channel: EventChannelRecord = { type: "EventChannel", scope, topic, publisherId, transport };
    return {
      publisherId,
      channel,
      publish: (payload) => this.say(scope, payload, publisherId),
      close: async () => undefined,
    };
  };

  say(scope: EventScope, payload: Uint8Array, publisherId: bigint): void {
    const message = Buffer.from(payload);
    this.messages.push(message);
    for (const handler of this.#hearers.get(pathOf(scope)) ?? []) handler(message, publisherId);
  }
}

export interface Replica {
  readonly sync: ReplicaSync;
  readonly stages: { readonly prefill: WorkerStage; readonly decode: WorkerStage };
  /** How often it was told that there is room. */
  readonly room: () => number;
  addWorker(id: number, role?: "aggregated" | "prefill" | "decode"): void;
  removeWorker(id: number): void;
  /** Books a request on a worker, chosen as a router would. */
  book(id: string, workerId: number, request: StageRequest, stage?: "prefill" | "decode"): StageBooking;
}

/** Without an id it shares nothing. */
export function replica(wiring: Wiring, routerId: bigint | undefined, now: () => number = () => 0): Replica {
  const stages = {
    prefill: createWorkerStage({ stage: "prefill", blockSize: 8 }),
    decode: createWorkerStage({ stage: "decode", blockSize: 8 }),
  };
  let room = 0;
  const sync = new ReplicaSync({
    sharing: routerId === undefined ? undefined : { routerId, registration: wiring.registration, plane: wiring },
    hear: wiring.hear,
    stages,
    capacityChanged: () => room++,
    bookingExpiryMs: 300_000,
    now,
    log: silentLogger,
  });
  const stageOf = (role: string): WorkerStage => (role === "prefill" ? stages.prefill : stages.decode);
  const roles = new Map<number, string>();
  return {
    sync,
    stages,
    room: () => room,
    addWorker(id, role = "aggregated") {
      roles.set(id, role);
      stageOf(role).upsertWorker(worker(id, { role }));
      sync.workerAdded({ id: BigInt(id), role, instance: role === "prefill" ? scopes.prefill : scopes.decode });
    },
    removeWorker(id) {
      stageOf(roles.get(id) ?? "decode").removeWorker(BigInt(id));
      sync.workerRemoved(BigInt(id));
    },
    book(id, workerId, of, stage = "decode") {
      const request = { ...of, allowedWorkerIds: only(workerId) };
      return stages[stage].book(id, select(stages[stage], request), request, now());
    },
  };
}
