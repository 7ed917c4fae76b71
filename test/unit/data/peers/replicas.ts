/** Replicas without sockets: a test moves the bytes between them, cuts them where it likes, and breaks connections off. */
import { type Endpoint, endpointName } from "../../../../src/data/endpoint.ts";
import { createEndpointStore, type EndpointStore } from "../../../../src/data/endpoint-store.ts";
import { ChangeLog } from "../../../../src/data/peers/change-log.ts";
import { createPeerCounters, type PeerCounters } from "../../../../src/data/peers/peer-counters.ts";
import { PeerFeed } from "../../../../src/data/peers/peer-feed.ts";
import { peerIdOf } from "../../../../src/data/peers/peer-greeting.ts";
import { PeerOutput } from "../../../../src/data/peers/peer-output.ts";
import { SharedLoad } from "../../../../src/data/peers/shared-load.ts";
import { SharedTopics } from "../../../../src/data/peers/shared-topics.ts";
import type { PeerId, SharedState } from "../../../../src/data/shared-state.ts";

export const heartbeatMs = 1000;
export const scope = "default/pool";

export interface Clock {
  nowMs: number;
}

let lives = 0;

export class Replica {
  readonly id: PeerId;
  readonly store: EndpointStore = createEndpointStore();
  readonly changes: ChangeLog;
  readonly counters: PeerCounters = createPeerCounters();
  readonly topics: SharedTopics;
  readonly claimed = new Map<PeerId, PeerFeed>();
  readonly clock: Clock;
  /** How often it was said that there is something to send. */
  wanted = 0;

  constructor(clock: Clock, logBytes?: number) {
    const bytes = Buffer.alloc(8);
    bytes.writeUInt32LE(++lives);
    this.id = peerIdOf(bytes);
    this.clock = clock;
    this.changes = new ChangeLog(logBytes);
    this.topics = new SharedTopics(this.changes, this.counters, () => {
      this.wanted++;
    });
    this.share([]);
  }

  share(states: readonly SharedState[]): void {
    this.topics.share(new Map([new SharedLoad(this.store), ...states].map((state) => [state.topic, state])));
  }

  /** Knows the endpoints "1" to "count". */
  knows(count: number): this {
    for (let i = 1; i <= count; i++) this.add(`${i}`);
    return this;
  }

  add(name: string, address = `10.0.0.${name}`): Endpoint {
    this.store.upsert("test", { namespace: "default", name, address, port: 8000, labels: new Map() });
    return this.endpoint(name);
  }

  endpoint(name: string): Endpoint {
    const endpoint = this.store.get(endpointName("default", name));
    if (endpoint === undefined) throw new Error(`${name} is not there`);
    return endpoint;
  }

  loads(): Readonly<Record<string, { readonly requests: number; readonly tokens: number }>> {
    return Object.fromEntries(
      this.store.snapshot().map(({ name, load }) => [name, { requests: load.requests, tokens: load.tokens }]),
    );
  }

  feed(): PeerFeed {
    return new PeerFeed({
      identity: { id: this.id, scope, heartbeatMs },
      topics: this.topics,
      claims: {
        claim: (peer, feed) => {
          const holder = this.claimed.get(peer);
          if (holder !== undefined && holder !== feed) return false;
          this.claimed.set(peer, feed);
          return true;
        },
        release: (peer) => this.claimed.delete(peer),
      },
      counters: this.counters,
      now: () => this.clock.nowMs,
    });
  }
}

/** `reader` hears `writer`, over one connection after the other. */
export class Line {
  readonly feed: PeerFeed;
  #writer: Replica;
  #output: PeerOutput | undefined;
  #toReader: Buffer[] = [];
  #toWriter: Buffer[] = [];
  /** What the network has not taken; a test that sets it stops the writer. */
  pendingBytes = 0;
  scope = scope;

  constructor(reader: Replica, writer: Replica) {
    this.#writer = writer;
    this.feed = reader.feed();
  }

  get isOpen(): boolean {
    return this.#output !== undefined;
  }

  get output(): PeerOutput {
    if (this.#output === undefined) throw new Error("the line is not open");
    return this.#output;
  }

  /** The address is another process now. */
  leadsTo(writer: Replica): void {
    this.break();
    this.#writer = writer;
  }

  open(): void {
    const writer = this.#writer;
    const send = (bytes: Buffer): void => {
      this.#toReader.push(Buffer.from(bytes));
    };
    const pendingBytes = (): number => this.pendingBytes;
    this.#output = new PeerOutput({
      identity: { id: writer.id, scope: this.scope, heartbeatMs },
      changes: writer.changes,
      topics: writer.topics,
      counters: writer.counters,
      now: () => writer.clock.nowMs,
      wire: {
        send,
        get pendingBytes() {
          return pendingBytes();
        },
      },
    });
    this.#toWriter.push(this.feed.begin());
  }

  /** What is under way is lost. */
  break(): void {
    if (this.#output === undefined) return;
    this.#output = undefined;
    this.#toReader = [];
    this.#toWriter = [];
    this.feed.ended();
  }

  /** Moves at most `bytes` from the writer to the reader, cut there. Throws what the ends throw. */
  move(bytes = Number.POSITIVE_INFINITY): void {
    for (const chunk of this.#toWriter.splice(0)) this.#output?.receive(chunk);
    const waiting = Buffer.concat(this.#toReader);
    const chunk = waiting.subarray(0, bytes);
    this.#toReader = [waiting.subarray(chunk.length)];
    if (chunk.length > 0) this.feed.receive(chunk);
  }

  /** Collects what changed and sends what is due. */
  pump(): void {
    this.#writer.topics.collect();
    this.#output?.pump();
  }

  /** Until nothing more comes. */
  settle(): void {
    if (!this.isOpen) this.open();
    this.move();
    for (let rounds = 0; rounds < 10_000; rounds++) {
      this.pump();
      this.move();
      if (!this.output.hasMore) return;
    }
    throw new Error("the line never comes to rest");
  }
}
