/** The first frame each way: who speaks, which protocol, which pool, and from where on the reader wants to be told. */
import type { PeerId } from "../shared-state.ts";
import { encodeFrame, PeerProtocolError } from "./peer-frame.ts";

/** "SBPR" */
const magic = 0x53425052;
/** Grows with every change that an older replica could not read. */
export const protocolVersion = 1;
const idBytes = 8;
export const maxScopeBytes = 512;
export const maxGreetingBytes = 5 + 2 * idBytes + 8 + 1 + maxScopeBytes;

/** Heartbeats that a peer may ask to be measured by. */
const shortestHeartbeatMs = 20;
const longestHeartbeatMs = 60_000;

/** What a replica says of itself. */
export interface PeerIdentity {
  /** Drawn anew by every process. */
  readonly id: PeerId;
  /** Whose replicas they are: namespace and pool. Others are not listened to. */
  readonly scope: string;
  readonly heartbeatMs: number;
}

export interface Subscription {
  readonly id: PeerId;
  readonly scope: string;
  /** Whose log it has read so far, and up to where; undefined for one that begins. */
  readonly read: { readonly id: PeerId; readonly offset: number } | undefined;
  /** It has not been told all that is known yet. */
  readonly wantsKnown: boolean;
}

export interface Welcome {
  readonly id: PeerId;
  readonly heartbeatMs: number;
}

/** An id of eight random bytes. */
export function peerIdOf(bytes: Buffer): PeerId {
  return bytes.toString("hex") as PeerId;
}

export function encodeSubscription({ id, scope, read, wantsKnown }: Subscription): Buffer {
  const scopeBytes = Buffer.from(scope);
  const body = Buffer.alloc(5 + 2 * idBytes + 8 + 1 + scopeBytes.length);
  let at = writeStart(body, id);
  body.write(read?.id ?? "", at, "hex");
  at = body.writeDoubleLE(read?.offset ?? 0, at + idBytes);
  at = body.writeUInt8((wantsKnown ? 1 : 0) | (read === undefined ? 0 : 2), at);
  scopeBytes.copy(body, at);
  return encodeFrame("subscribe", body);
}

/** Throws PeerProtocolError. */
export function parseSubscription(body: Buffer): Subscription {
  const id = readStart(body);
  let at = 5 + idBytes;
  if (body.length < at + idBytes + 9 || body.length > maxGreetingBytes) {
    throw new PeerProtocolError(`a subscription of ${body.length} bytes`);
  }
  const readId = body.toString("hex", at, at + idBytes) as PeerId;
  at += idBytes;
  const offset = body.readDoubleLE(at);
  const flags = body.readUInt8(at + 8);
  return {
    id,
    scope: body.toString("utf8", at + 9),
    read: (flags & 2) !== 0 && Number.isSafeInteger(offset) && offset >= 0 ? { id: readId, offset } : undefined,
    wantsKnown: (flags & 1) !== 0,
  };
}

export function encodeWelcome({ id, heartbeatMs }: Welcome): Buffer {
  const body = Buffer.alloc(5 + idBytes + 4);
  body.writeUInt32LE(heartbeatMs, writeStart(body, id));
  return encodeFrame("welcome", body);
}

/** Throws PeerProtocolError. */
export function parseWelcome(body: Buffer): Welcome {
  const id = readStart(body);
  if (body.length !== 5 + idBytes + 4) throw new PeerProtocolError(`a welcome of ${body.length} bytes`);
  const heartbeatMs = body.readUInt32LE(5 + idBytes);
  return { id, heartbeatMs: Math.min(Math.max(heartbeatMs, shortestHeartbeatMs), longestHeartbeatMs) };
}

function writeStart(body: Buffer, id: PeerId): number {
  body.writeUInt32BE(magic, 0);
  body.writeUInt8(protocolVersion, 4);
  body.write(id, 5, "hex");
  return 5 + idBytes;
}

function readStart(body: Buffer): PeerId {
  if (body.length < 5 + idBytes || body.readUInt32BE(0) !== magic) {
    throw new PeerProtocolError("the other end is no picker");
  }
  const version = body.readUInt8(4);
  if (version !== protocolVersion) {
    throw new PeerProtocolError(`the other end speaks version ${version}, this one ${protocolVersion}`);
  }
  return body.toString("hex", 5, 5 + idBytes) as PeerId;
}
