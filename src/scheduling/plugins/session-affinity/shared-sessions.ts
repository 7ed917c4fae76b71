/**
 * Session bindings, shared, so that a session is followed whichever replica it comes to.
 *
 *   0 new (1) or known (2) │ 2 length of the id │ 4 version │ 8 age in ms │ id │ name of the endpoint
 */
import type { ChangeSink, EndpointName, PeerId, SharedKnowledge } from "../../contracts.ts";

export interface SharedBinding {
  readonly sessionId: string;
  readonly endpoint: EndpointName;
  readonly version: number;
  /** Since its last request. */
  readonly ageMs: number;
  /** It has just been made or used; else it is told to a peer that begins. */
  readonly isNew: boolean;
}

export interface SessionTable {
  take(binding: SharedBinding, nowMs: number): void;
  /** Last used first. */
  all(nowMs: number): Iterable<SharedBinding>;
}

const fixedBytes = 12;
const longestIdBytes = 1024;
const longestNameBytes = 1024;

export class SharedSessions implements SharedKnowledge {
  readonly kind = "knowledge";
  readonly topic: string;
  readonly #table: SessionTable;
  #changes: ChangeSink | undefined;

  constructor(name: string, table: SessionTable) {
    this.topic = `sessions/${name}`;
    this.#table = table;
  }

  shareWith(changes: ChangeSink | undefined): void {
    this.#changes = changes;
  }

  bound(sessionId: string, endpoint: EndpointName, version: number): void {
    if (this.#changes === undefined) return;
    const payload = encodeBinding({ sessionId, endpoint, version, ageMs: 0, isNew: true });
    this.#changes.append(payload, payload.length);
  }

  apply(_peer: PeerId, payload: Buffer, nowMs: number): boolean {
    const binding = parseBinding(payload);
    if (binding === undefined) return false;
    this.#table.take(binding, nowMs);
    return true;
  }

  *known(nowMs: number): Iterable<Uint8Array> {
    for (const binding of this.#table.all(nowMs)) yield encodeBinding(binding);
  }
}

function encodeBinding({ sessionId, endpoint, version, ageMs, isNew }: SharedBinding): Buffer {
  const idBytes = Buffer.byteLength(sessionId);
  const payload = Buffer.alloc(fixedBytes + idBytes + Buffer.byteLength(endpoint));
  payload.writeUInt8(isNew ? 1 : 2, 0);
  payload.writeUInt16LE(idBytes, 2);
  payload.writeUInt32LE(Math.min(version, 0xffff_ffff), 4);
  payload.writeUInt32LE(Math.min(Math.max(Math.round(ageMs), 0), 0xffff_ffff), 8);
  payload.write(sessionId, fixedBytes);
  payload.write(endpoint, fixedBytes + idBytes);
  return payload;
}

function parseBinding(payload: Buffer): SharedBinding | undefined {
  if (payload.length <= fixedBytes) return undefined;
  const kind = payload.readUInt8(0);
  const idEnd = fixedBytes + payload.readUInt16LE(2);
  const nameBytes = payload.length - idEnd;
  if ((kind !== 1 && kind !== 2) || idEnd > fixedBytes + longestIdBytes) return undefined;
  if (idEnd === fixedBytes || nameBytes < 1 || nameBytes > longestNameBytes) return undefined;
  return {
    sessionId: payload.toString("utf8", fixedBytes, idEnd),
    endpoint: payload.toString("utf8", idEnd) as EndpointName,
    version: payload.readUInt32LE(4),
    ageMs: payload.readUInt32LE(8),
    isNew: kind === 1,
  };
}
