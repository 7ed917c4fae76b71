/**
 * The index of one component of the workers as this process serves it: the endpoints, their records, and whose index is asked of which model.
 * Registered once the index knows what the workers hold, and for as long as a model is served; tried again while another process that serves
 * there makes that impossible.
 */
import type { DynamoRegistration } from "../../dynamo/discovery/registration.ts";
import { type EncodedRecord, encodeRecord } from "../../dynamo/encode-record.ts";
import { MalformedMessage, type PayloadCodec } from "../../dynamo/encoding/value-reader.ts";
import { encodeError, encodeIndexAnswer, type RankOverlap } from "../../dynamo/kv-index/index-answer.ts";
import { queryEndpoint, recordEndpoint } from "../../dynamo/kv-index/index-endpoints.ts";
import { readIndexQuestion } from "../../dynamo/kv-index/index-question.ts";
import { encodeRecordAnswer, type RoutingRecord, readRoutingRecord } from "../../dynamo/kv-index/routing-record.ts";
import type { Endpoint, EndpointServer } from "../../dynamo/request-plane/endpoint-contracts.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { Component, InstanceLookup } from "./index-instances.ts";
import { pause } from "./pause.ts";

/** The index of one model on one component. */
export interface ServedIndex {
  /** What its workers have cached is known, or has been asked for long enough. */
  readonly isSettled: boolean;
  /** `isDeviceOnly`: lower tiers are 0. Ranks that hold nothing are left out. */
  overlaps(blockHashes: Uint32Array, isDeviceOnly: boolean): readonly RankOverlap[];
  record(record: RoutingRecord): void;
}

export interface ServedComponentInit {
  readonly component: Component;
  /** Else decisions feed it, and others may write theirs into it. */
  readonly isFedByEvents: boolean;
  /** Undefined: there will be none. */
  readonly server: Promise<Pick<EndpointServer, "serve"> | undefined>;
  readonly registration: Pick<DynamoRegistration, "instanceId" | "put" | "remove">;
  readonly lookup: InstanceLookup;
  readonly log: Logger;
}

const firstRetryMs = 1000;
const longestRetryMs = 10_000;
const settlePollMs = 100;
/** Longest wait for the past of slow workers. */
const settleWithinMs = 10_000;

export class ServedComponent {
  readonly #init: ServedComponentInit;
  readonly #indices = new Map<string, ServedIndex>();
  readonly #closing = new AbortController();
  readonly #opening: Promise<void>;
  readonly #unserve: (() => void)[] = [];
  readonly #records: EncodedRecord[] = [];
  #isRegistered = false;

  /** `after`: what is still being taken back of the same component. */
  constructor(init: ServedComponentInit, after: Promise<void>) {
    this.#init = init;
    this.#opening = this.#open(after);
  }

  /** False where the model is served already: the first one stays. */
  add(model: string, index: ServedIndex): boolean {
    if (this.#indices.has(model)) return false;
    this.#indices.set(model, index);
    return true;
  }

  remove(model: string): void {
    this.#indices.delete(model);
  }

  get isEmpty(): boolean {
    return this.#indices.size === 0;
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    return { isRegistered: this.#isRegistered, models: [...this.#indices.keys()] };
  }

  /** The records go first, so that nobody new asks. Never rejects. */
  async close(): Promise<void> {
    const { registration, log } = this.#init;
    this.#closing.abort();
    await this.#opening;
    this.#isRegistered = false;
    for (const { key } of this.#records.splice(0)) {
      await registration
        .remove(key)
        .catch((error: unknown) => log.warn({ error, key }, "a served index stays registered"));
    }
    for (const unserve of this.#unserve.splice(0)) unserve();
    this.#indices.clear();
  }

  async #open(after: Promise<void>): Promise<void> {
    const { signal } = this.#closing;
    await after;
    await this.#settled(signal);
    const server = await unlessAborted(this.#init.server, signal);
    if (server === undefined) return;
    const { component, log } = this.#init;
    let retryMs = firstRetryMs;
    for (let isTold = false; !signal.aborted; ) {
      const conflict = this.#conflict();
      if (conflict === undefined) {
        try {
          await this.#register(server);
          this.#isRegistered = true;
          log.info({ ...component }, "this router's index is served");
          return;
        } catch (error) {
          log.error({ error, ...component, retryMs }, "this router's index cannot be registered; tried again");
        }
      } else if (!isTold) {
        log.error({ ...component }, `this router's index is not served: ${conflict}`);
        isTold = true;
      }
      await pause(retryMs, signal);
      retryMs = Math.min(2 * retryMs, longestRetryMs);
    }
  }

  async #settled(signal: AbortSignal): Promise<void> {
    for (let waitedMs = 0; waitedMs < settleWithinMs && !signal.aborted; waitedMs += settlePollMs) {
      for (const { isSettled } of this.#indices.values()) if (isSettled) return;
      await pause(settlePollMs, signal);
    }
  }

  /** Dynamo's own rules: an index fed by decisions stands alone, since each decision is written to one place. */
  #conflict(): string | undefined {
    const { component, isFedByEvents, lookup, registration } = this.#init;
    const isServed = (endpoint: string): boolean =>
      lookup({ ...component, endpoint }).some(({ instanceId }) => instanceId !== registration.instanceId);
    if (isServed(recordEndpoint)) return "another process serves an index there that decisions feed";
    if (!isFedByEvents && isServed(queryEndpoint))
      return "another process serves an index there, and decisions feed ours";
    return undefined;
  }

  async #register(server: Pick<EndpointServer, "serve">): Promise<void> {
    const { isFedByEvents, registration } = this.#init;
    if (this.#records.length === 0) {
      this.#serve(server, queryEndpoint, (body, codec) => this.#query(body, codec));
      if (!isFedByEvents) this.#serve(server, recordEndpoint, (body, codec) => this.#record(body, codec));
    }
    for (const record of this.#records) await registration.put(record);
  }

  #serve(server: Pick<EndpointServer, "serve">, name: string, endpoint: Endpoint): void {
    const { component, registration } = this.#init;
    const instance = { ...component, endpoint: name, instanceId: registration.instanceId };
    const { transport, end } = server.serve(instance, endpoint);
    this.#unserve.push(end);
    this.#records.push(encodeRecord({ type: "Endpoint", ...instance, transport, codec: "msgpack" }));
  }

  #query(body: Buffer, codec: PayloadCodec): Buffer {
    try {
      const { model, blockHashes, isDeviceOnly } = readIndexQuestion(body, codec);
      const index = this.#indices.get(model);
      if (index === undefined) return encodeError(unserved(model), codec);
      return encodeIndexAnswer({ kind: "overlaps", overlaps: index.overlaps(blockHashes, isDeviceOnly) }, codec);
    } catch (error) {
      return encodeError(messageOf(error), codec);
    }
  }

  #record(body: Buffer, codec: PayloadCodec): Buffer {
    try {
      const record = readRoutingRecord(body, codec);
      const index = this.#indices.get(record.model);
      if (index === undefined) return encodeError(unserved(record.model), codec);
      index.record(record);
      return encodeRecordAnswer({ kind: "recorded" }, codec);
    } catch (error) {
      return encodeError(messageOf(error), codec);
    }
  }
}

function unserved(model: string): string {
  return `no index of model ${model.slice(0, 200)} is served here`;
}

/** Rethrows what is no fault of who asks. */
function messageOf(error: unknown): string {
  if (error instanceof MalformedMessage) return `the question ${error.message}`;
  throw error;
}

/** The value once it is there; undefined when the signal comes first. */
function unlessAborted<Value>(promise: Promise<Value>, signal: AbortSignal): Promise<Value | undefined> {
  if (signal.aborted) return Promise.resolve(undefined);
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => resolve(undefined), { once: true });
    promise.then(resolve, reject);
  });
}
