/**
 * What one peer tells, over however many connections it takes: whole at first, then from where the last connection ended. Everything a peer
 * counts for is under its id, so a peer that was started anew never counts twice, and what is no word of the protocol ends the connection.
 */
import type { PeerId } from "../shared-state.ts";
import type { PeerCounters } from "./peer-counters.ts";
import {
  encodeOffsetFrame,
  type FrameKind,
  FrameReader,
  maxBodyBytes,
  offsetOf,
  PeerProtocolError,
} from "./peer-frame.ts";
import { encodeSubscription, type PeerIdentity, parseWelcome } from "./peer-greeting.ts";
import type { SharedTopics } from "./shared-topics.ts";

/** Which feed a peer is heard by: one that has several addresses is heard once. */
export interface PeerClaims {
  /** False where another feed hears this peer. */
  claim(peer: PeerId, feed: PeerFeed): boolean;
  release(peer: PeerId, feed: PeerFeed): void;
}

export interface PeerFeedInit {
  readonly identity: PeerIdentity;
  readonly topics: Pick<SharedTopics, "replacing" | "replaced" | "apply" | "gone">;
  readonly claims: PeerClaims;
  readonly counters: PeerCounters;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

/** Why a connection that works is of no use. */
export type UselessReason = "self" | "known-elsewhere" | "refused";

export class PeerFeed {
  readonly #init: PeerFeedInit;
  #reader: FrameReader | undefined;
  #peer: PeerId | undefined;
  #heartbeatMs: number;
  /** Up to where its log was read; undefined while no whole state was had. */
  #offset: number | undefined;
  #isReplacing = false;
  #hasKnown = false;
  #isWelcome = false;
  #hasLeft = false;
  #useless: UselessReason | undefined;
  #refusal: string | undefined;
  #heardAtMs: number;
  /** Where its log ended when it last said so. */
  #peerHead = 0;

  constructor(init: PeerFeedInit) {
    this.#init = init;
    this.#heartbeatMs = init.identity.heartbeatMs;
    this.#heardAtMs = init.now();
  }

  /** Whose state is counted. */
  get peer(): PeerId | undefined {
    return this.#peer;
  }

  get offset(): number | undefined {
    return this.#offset;
  }

  get peerHead(): number {
    return this.#peerHead;
  }

  get hasKnown(): boolean {
    return this.#hasKnown;
  }

  /** The greeting of this connection is over. */
  get isWelcome(): boolean {
    return this.#isWelcome;
  }

  /** Its whole state is counted. */
  get isSettled(): boolean {
    return this.#isWelcome && this.#offset !== undefined && !this.#isReplacing;
  }

  /** Said good-bye on this connection. */
  get hasLeft(): boolean {
    return this.#hasLeft;
  }

  /** Set where the connection is to be closed though nothing is wrong with it. */
  get useless(): UselessReason | undefined {
    return this.#useless;
  }

  /** What the peer gave as its reason. */
  get refusal(): string | undefined {
    return this.#refusal;
  }

  get heartbeatMs(): number {
    return this.#heartbeatMs;
  }

  get silentMs(): number {
    return this.#init.now() - this.#heardAtMs;
  }

  get isSilent(): boolean {
    return this.silentMs > 3 * this.#heartbeatMs;
  }

  /** A connection is open; the answer is what to send first. */
  begin(): Buffer {
    this.#isWelcome = false;
    this.#hasLeft = false;
    this.#useless = undefined;
    this.#refusal = undefined;
    this.#reader = new FrameReader(maxBodyBytes, (kind, body) => this.#frame(kind, body));
    const { id, scope } = this.#init.identity;
    const read =
      this.#peer === undefined || this.#offset === undefined || this.#isReplacing
        ? undefined
        : { id: this.#peer, offset: this.#offset };
    return encodeSubscription({ id, scope, read, wantsKnown: !this.#hasKnown });
  }

  /** Throws PeerProtocolError. */
  receive(chunk: Buffer): void {
    this.#init.counters.heardBytes += chunk.length;
    this.#heardAtMs = this.#init.now();
    this.#reader?.receive(chunk);
  }

  /** To be sent at each heartbeat. */
  progress(): Buffer {
    return encodeOffsetFrame("read", this.#offset ?? 0);
  }

  /** The connection is over: what it broke off in is read anew by the next. */
  ended(): void {
    this.#reader = undefined;
    this.#isWelcome = false;
    if (this.#hasLeft) this.drop();
  }

  /** The peer counts no more. */
  drop(): void {
    const peer = this.#peer;
    if (peer === undefined) return;
    this.#peer = undefined;
    this.#offset = undefined;
    this.#isReplacing = false;
    this.#hasKnown = false;
    this.#init.topics.gone(peer);
    this.#init.claims.release(peer, this);
  }

  #frame(kind: FrameKind, body: Buffer): void {
    if (this.#useless !== undefined || this.#hasLeft) return;
    if (!this.#isWelcome) {
      this.#greeted(kind, body);
      return;
    }
    const peer = this.#peer as PeerId;
    const { topics } = this.#init;
    switch (kind) {
      case "replace":
        this.#offset = offsetOf(body);
        this.#isReplacing = true;
        topics.replacing(peer);
        return;
      case "own":
        if (!this.#isReplacing) throw new PeerProtocolError("values of nothing that is replaced");
        this.#apply(peer, body);
        return;
      case "replaced":
        if (!this.#isReplacing) throw new PeerProtocolError("an end without a beginning");
        this.#isReplacing = false;
        topics.replaced(peer);
        return;
      case "changes":
        this.#changes(peer, body);
        return;
      case "known":
        this.#apply(peer, body);
        return;
      case "known-end":
        this.#hasKnown = true;
        return;
      case "alive":
        this.#peerHead = offsetOf(body);
        return;
      case "bye":
        this.#hasLeft = true;
        return;
      default:
        throw new PeerProtocolError(`${kind} is not for readers`);
    }
  }

  #greeted(kind: FrameKind, body: Buffer): void {
    if (kind === "refused") {
      this.#useless = "refused";
      this.#refusal = body.toString("utf8", 0, 256);
      return;
    }
    if (kind !== "welcome") throw new PeerProtocolError(`${kind} before a welcome`);
    const { id, heartbeatMs } = parseWelcome(body);
    const { identity, claims } = this.#init;
    if (id === identity.id) this.#useless = "self";
    else if (id !== this.#peer) {
      this.drop();
      if (claims.claim(id, this)) this.#peer = id;
      else this.#useless = "known-elsewhere";
    }
    if (this.#useless !== undefined) return;
    this.#heartbeatMs = heartbeatMs;
    this.#isWelcome = true;
  }

  #changes(peer: PeerId, body: Buffer): void {
    const offset = offsetOf(body);
    if (this.#isReplacing || offset !== this.#offset) {
      // Nothing of it can be trusted to be whole: the next connection begins anew.
      this.#offset = undefined;
      throw new PeerProtocolError(`changes from ${offset} on, where ${String(this.#offset)} was to come`);
    }
    this.#init.counters.heardChanges++;
    this.#apply(peer, body.subarray(8));
    this.#offset = offset + body.length - 8;
    this.#peerHead = Math.max(this.#peerHead, this.#offset);
  }

  #apply(peer: PeerId, entries: Buffer): void {
    if (this.#init.topics.apply(peer, entries, this.#init.now())) return;
    this.#offset = undefined;
    throw new PeerProtocolError("an entry that does not end where its frame does");
  }
}
