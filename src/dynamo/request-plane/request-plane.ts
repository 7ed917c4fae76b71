/** The request plane client: owns the listener, the connections to workers and the calls under way, and ends them all on close. */
import { randomUUID } from "node:crypto";
import type { Socket } from "node:net";
import type { InstanceRecord } from "../records.ts";
import { CallHome, type HomeListener, type HomeReader } from "./call-home.ts";
import type {
  CallEnd,
  CallFailure,
  CallOptions,
  CallSink,
  PendingCall,
  RequestPlane,
  RequestPlaneCounters,
} from "./contracts.ts";
import { NatsRequests } from "./nats-requests.ts";
import { encodePayload, encodeRequestFrame } from "./request-frame.ts";
import { type RequestPlaneSettings, requestPlaneDefaults } from "./settings.ts";
import { type CallOwner, WorkerCall } from "./worker-call.ts";
import { type AckHandler, WorkerConnection } from "./worker-connection.ts";

/** Another connection to a worker is opened when every one has this many requests unacknowledged. */
const busyConnection = 16;

/** Listens before it resolves; rejects when the host or port cannot be had. */
export async function createRequestPlane(settings: Partial<RequestPlaneSettings> = {}): Promise<RequestPlane> {
  const plane = new TcpRequestPlane({ ...requestPlaneDefaults, ...settings });
  await plane.listen();
  return plane;
}

class TcpRequestPlane implements RequestPlane, CallOwner, HomeListener {
  readonly counters: RequestPlaneCounters;
  readonly #settings: RequestPlaneSettings;
  readonly #calls: Map<string, WorkerCall>;
  readonly #connections: Map<string, Set<WorkerConnection>>;
  readonly #nats: NatsRequests;
  #home: CallHome | undefined;
  #isClosed: boolean;

  constructor(settings: RequestPlaneSettings) {
    this.counters = createCounters();
    this.#settings = settings;
    this.#calls = new Map();
    this.#connections = new Map();
    this.#nats = new NatsRequests(settings.nats);
    this.#home = undefined;
    this.#isClosed = false;
  }

  get address(): string {
    return this.#home?.address ?? "";
  }

  async listen(): Promise<void> {
    this.#home = await CallHome.listen(this.#settings, this);
  }

  call(instance: InstanceRecord, body: Uint8Array, options: CallOptions, sink: CallSink): PendingCall {
    this.counters.calls++;
    const id = options.id ?? randomUUID();
    const { maxItemBytes, answerTimeoutMs } = this.#settings;
    const call = new WorkerCall(id, randomUUID(), { maxItemBytes, answerTimeoutMs, ...options }, sink, this);
    this.#calls.set(call.subject, call);
    // Failures that are known at once are still told later: a sink is never called before its caller has the call.
    const refuse = (reason: "unsendable" | "closed", message: string): void => {
      setImmediate(() => call.refuse(reason, message));
    };
    const { transport } = instance;
    const { maxMessageBytes } = this.#settings;
    if (this.#isClosed) refuse("closed", "the request plane is closed");
    else if (transport.kind === "http") refuse("unsendable", "the instance is reached by http, not by tcp or nats");
    else {
      const control = {
        id,
        codec: options.codec,
        address: this.address,
        subject: call.subject,
        metadata: options.metadata,
      };
      const headers = { "request-id": id, ...options.headers };
      const acknowledged: AckHandler = (outcome, message) => call.acknowledged(outcome, message);
      if (transport.kind === "nats") {
        this.#nats.send(transport.subject, headers, encodePayload(control, body), acknowledged);
        return call;
      }
      const frame = encodeRequestFrame({ path: transport.path, headers, control, body }, maxMessageBytes);
      if (frame === undefined) refuse("unsendable", `the request is larger than ${maxMessageBytes} bytes`);
      else this.#connectionTo(transport.address).send(frame, acknowledged);
    }
    return call;
  }

  isServed(subject: string, timeoutMs: number): Promise<boolean> {
    return this.#nats.isServed(subject, timeoutMs);
  }

  arrived(subject: string, socket: Socket): HomeReader | undefined {
    const call = this.#calls.get(subject);
    return call?.attach(socket) === true ? call : undefined;
  }

  stranger(): void {
    this.counters.strangers++;
  }

  settled(_call: WorkerCall, end: CallEnd | undefined): void {
    if (end === undefined) this.counters.cancelled++;
    else if (end.kind === "complete") this.counters.completed++;
    else this.counters.failed[end.reason]++;
  }

  forgotten(call: WorkerCall): void {
    this.#calls.delete(call.subject);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const call of this.#calls.values()) call.abandon();
    for (const connections of this.#connections.values()) for (const connection of connections) connection.close();
    await this.#nats.close();
    await this.#home?.close();
  }

  /** The least busy connection, or a new one while all are busy and more are allowed. */
  #connectionTo(address: string): WorkerConnection {
    let connections = this.#connections.get(address);
    if (connections === undefined) {
      connections = new Set();
      this.#connections.set(address, connections);
    }
    let best: WorkerConnection | undefined;
    for (const connection of connections) {
      if (best === undefined || connection.pending < best.pending) best = connection;
    }
    if (
      best !== undefined &&
      (best.pending < busyConnection || connections.size >= this.#settings.connectionsPerWorker)
    )
      return best;
    return this.#open(address, connections);
  }

  #open(address: string, connections: Set<WorkerConnection>): WorkerConnection {
    const connection: WorkerConnection = new WorkerConnection(address, this.#settings, () => {
      connections.delete(connection);
      this.counters.connections--;
      if (connections.size === 0 && this.#connections.get(address) === connections) this.#connections.delete(address);
    });
    connections.add(connection);
    this.counters.connections++;
    return connection;
  }
}

function createCounters(): RequestPlaneCounters {
  const failed: Record<CallFailure, number> = {
    unreachable: 0,
    overloaded: 0,
    unavailable: 0,
    rejected: 0,
    unsendable: 0,
    "no-answer": 0,
    refused: 0,
    disconnected: 0,
    idle: 0,
    "item-too-large": 0,
    protocol: 0,
    closed: 0,
  };
  return { calls: 0, completed: 0, cancelled: 0, failed, strangers: 0, connections: 0 };
}
