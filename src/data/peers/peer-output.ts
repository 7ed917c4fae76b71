/**
 * What one peer is told, over one connection: where it has nothing or is too far behind, all own values at once and what is known bit by bit; and
 * always the log, from where it is. Nothing is queued here: what a slow peer has not taken stays in the log, whose size is bounded.
 */
import type { PeerId } from "../shared-state.ts";
import type { ChangeLog } from "./change-log.ts";
import type { PeerCounters } from "./peer-counters.ts";
import {
  encodeChangesHeader,
  encodeFrame,
  encodeOffsetFrame,
  type FrameKind,
  FrameReader,
  offsetOf,
  PeerProtocolError,
} from "./peer-frame.ts";
import { encodeWelcome, maxGreetingBytes, type PeerIdentity, parseSubscription } from "./peer-greeting.ts";
import type { SharedTopics } from "./shared-topics.ts";

/** A connection as its writer uses it. Buffers may be kept until they are sent; they are not changed. */
export interface PeerWire {
  send(bytes: Buffer): void;
  /** Sent to the wire and not taken by the network yet. */
  readonly pendingBytes: number;
}

export interface PeerOutputInit {
  readonly identity: PeerIdentity;
  readonly changes: ChangeLog;
  readonly topics: Pick<SharedTopics, "collect" | "own" | "known">;
  readonly wire: PeerWire;
  readonly counters: PeerCounters;
  readonly now: () => number;
}

/** A wire with more than this waits for its network. */
const mostPendingBytes = 262_144;
/** What is known can wait for everything else. */
const mostPendingForKnown = 65_536;
/** Segments of the log in one go. */
const segmentsPerPump = 4;
/** About as much of what is known in one go: some 2,000 blocks. */
const knownBytesPerPump = 16_384;

export class PeerOutput {
  readonly #init: PeerOutputInit;
  readonly #reader: FrameReader;
  #peer: PeerId | undefined;
  #offset = 0;
  #known: Iterator<Buffer> | undefined;
  #readOffset = 0;
  #refusal: string | undefined;

  constructor(init: PeerOutputInit) {
    this.#init = init;
    this.#reader = new FrameReader(maxGreetingBytes, (kind, body) => this.#frame(kind, body));
  }

  get peer(): PeerId | undefined {
    return this.#peer;
  }

  /** Bytes of the log that the network has not taken. */
  get lagBytes(): number {
    return this.#peer === undefined ? 0 : this.#init.changes.head - this.#offset + this.#init.wire.pendingBytes;
  }

  /** Up to where the peer has said to have read. */
  get readOffset(): number {
    return this.#readOffset;
  }

  /** Why nothing is told; the connection is to be closed. */
  get refusal(): string | undefined {
    return this.#refusal;
  }

  /** More can be sent now, though nothing has happened since. */
  get hasMore(): boolean {
    if (this.#peer === undefined) return false;
    const { pendingBytes } = this.#init.wire;
    if (this.#offset !== this.#init.changes.head) return pendingBytes < mostPendingBytes;
    return this.#known !== undefined && pendingBytes < mostPendingForKnown;
  }

  /** Throws PeerProtocolError. */
  receive(chunk: Buffer): void {
    this.#reader.receive(chunk);
  }

  /** More of what is known could be told now. */
  get isTelling(): boolean {
    return this.#known !== undefined && this.#init.wire.pendingBytes < mostPendingForKnown;
  }

  /** Sends what is due, as far as the network takes it; of what is known a little, unless others are first. */
  pump(withKnown = true): void {
    if (this.#peer === undefined) return;
    const { changes, wire, counters } = this.#init;
    for (let sent = 0; sent < segmentsPerPump && wire.pendingBytes < mostPendingBytes; sent++) {
      const entries = changes.read(this.#offset);
      if (entries === undefined) {
        counters.overrun++;
        this.#sendAll(true);
        continue;
      }
      if (entries.length === 0) break;
      this.#send(encodeChangesHeader("changes", this.#offset, entries.length));
      this.#send(entries);
      this.#offset += entries.length;
      counters.sentChanges++;
    }
    if (withKnown && this.#offset === changes.head && wire.pendingBytes < mostPendingForKnown) this.#sendKnown();
  }

  heartbeat(): void {
    const { changes, wire } = this.#init;
    if (this.#peer === undefined || wire.pendingBytes >= mostPendingBytes) return;
    this.#send(encodeOffsetFrame("alive", changes.head));
  }

  /** The last word. */
  leave(): void {
    if (this.#peer !== undefined) this.#send(encodeFrame("bye"));
  }

  #frame(kind: FrameKind, body: Buffer): void {
    if (this.#refusal !== undefined) return;
    if (kind === "read" && this.#peer !== undefined) {
      this.#readOffset = Math.min(offsetOf(body), this.#init.changes.head);
      return;
    }
    if (kind !== "subscribe" || this.#peer !== undefined) throw new PeerProtocolError(`${kind} is not for writers`);
    this.#subscribed(body);
  }

  #subscribed(body: Buffer): void {
    const { identity, changes, counters } = this.#init;
    const { id, scope, read, wantsKnown } = parseSubscription(body);
    if (scope !== identity.scope) {
      this.#refusal = `replicas of ${identity.scope}, not of ${scope}`;
      this.#send(encodeFrame("refused", Buffer.from(this.#refusal)));
      return;
    }
    this.#send(encodeWelcome(identity));
    // Who reads itself hears of it in the welcome, and hangs up.
    if (id === identity.id) return;
    this.#peer = id;
    if (read !== undefined && read.id === identity.id && read.offset <= changes.head && read.offset >= changes.first) {
      this.#offset = read.offset;
      this.#readOffset = read.offset;
      counters.resumed++;
      if (wantsKnown) this.#beginKnown();
    } else this.#sendAll(wantsKnown);
    this.heartbeat();
  }

  #sendAll(withKnown: boolean): void {
    const { changes, topics, counters } = this.#init;
    // What changed until now is in the values that follow.
    topics.collect();
    this.#offset = changes.head;
    this.#readOffset = changes.head;
    this.#send(encodeOffsetFrame("replace", changes.head));
    this.#sendEntries("own", topics.own()[Symbol.iterator](), Number.POSITIVE_INFINITY);
    this.#send(encodeFrame("replaced"));
    counters.snapshots++;
    if (withKnown) this.#beginKnown();
  }

  #beginKnown(): void {
    this.#known = this.#init.topics.known(this.#init.now())[Symbol.iterator]();
  }

  #sendKnown(): void {
    if (this.#known === undefined || this.#sendEntries("known", this.#known, knownBytesPerPump)) return;
    this.#known = undefined;
    this.#send(encodeFrame("known-end"));
  }

  /** Sends entries in frames of about a pump's size until there are `limit` bytes; false when there are no more. */
  #sendEntries(kind: "own" | "known", entries: Iterator<Buffer>, limit: number): boolean {
    let total = 0;
    for (let batch: Buffer[] = [], size = 0; ; ) {
      const next = entries.next();
      if (next.done !== true) {
        batch.push(next.value);
        size += next.value.length;
      }
      if (size < knownBytesPerPump && next.done !== true) continue;
      if (size > 0) this.#send(encodeFrame(kind, Buffer.concat(batch, size)));
      if (next.done === true) return false;
      total += size;
      if (total >= limit) return true;
      batch = [];
      size = 0;
    }
  }

  #send(bytes: Buffer): void {
    this.#init.counters.sentBytes += bytes.length;
    this.#init.wire.send(bytes);
  }
}
