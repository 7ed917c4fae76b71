/**
 * What selectors tell each other over ZeroMQ: [topic, msgpack], one change of one booking a message, with the partition it belongs to (dynamo-kv-router
 * 1.6.1, services/common/replica_sync.rs). Not the event plane's messages, which carry an envelope and many.
 */
import { decode, encode } from "@msgpack/msgpack";

export const replicaTopic = "dynamo.slot-tracker.v1";

export type ReplicaChange =
  | {
      readonly kind: "add";
      readonly sequenceHashes: Uint32Array;
      readonly tracksPrefillTokens: boolean;
      readonly expectedOutputTokens: number | undefined;
      readonly prefillTokens: number | undefined;
      /** How long those take, alone on the rank; undefined where nobody knows. */
      readonly expectedPrefillMs: number | undefined;
    }
  | { readonly kind: "prefill-completed" }
  | { readonly kind: "free" };

export interface ReplicaEvent {
  readonly modelName: string;
  readonly routingGroup: string;
  readonly blockSize: number;
  readonly bookingId: string;
  readonly workerId: bigint;
  readonly dpRank: number;
  /** The process that booked. */
  readonly senderId: bigint;
  readonly loraName: string | undefined;
  readonly change: ReplicaChange;
}

const maxHashes = 1 << 18;

export function encodeReplicaEvent(event: ReplicaEvent): Uint8Array {
  return encode(
    {
      model_name: event.modelName,
      routing_group: event.routingGroup,
      block_size: event.blockSize,
      event: {
        request_id: event.bookingId,
        worker: { worker_id: event.workerId, dp_rank: event.dpRank },
        data: encodeChange(event.change),
        router_id: event.senderId,
        lora_name: event.loraName ?? null,
      },
    },
    { useBigInt64: true },
  );
}

function encodeChange(change: ReplicaChange): unknown {
  switch (change.kind) {
    case "free":
      return "Free";
    case "prefill-completed":
      return "MarkPrefillCompleted";
    case "add": {
      const { sequenceHashes: words, prefillTokens, expectedPrefillMs } = change;
      const hint = {
        initial_effective_prefill_tokens: prefillTokens,
        expected_prefill_duration: expectedPrefillMs === undefined ? null : durationOf(expectedPrefillMs),
      };
      return {
        AddRequest: {
          token_sequence: Array.from({ length: words.length / 2 }, (_, index) => wide(words, index)),
          track_prefill_tokens: change.tracksPrefillTokens,
          expected_output_tokens: change.expectedOutputTokens ?? null,
          prefill_load_hint: prefillTokens === undefined ? null : hint,
        },
      };
    }
    default:
      return change satisfies never;
  }
}

/** Undefined for what is no such message. */
export function parseReplicaEvent(payload: Uint8Array): ReplicaEvent | undefined {
  let message: unknown;
  try {
    message = decode(payload, { useBigInt64: true });
  } catch {
    return undefined;
  }
  if (!isMap(message) || !isMap(message["event"])) return undefined;
  const { model_name: modelName, routing_group: routingGroup, block_size: blockSize, event } = message;
  const { request_id: bookingId, worker, data, router_id: sender, lora_name: lora } = event;
  const workerId = isMap(worker) ? u64(worker["worker_id"]) : undefined;
  const dpRank = isMap(worker) ? worker["dp_rank"] : undefined;
  const senderId = u64(sender);
  const change = parseChange(data);
  if (typeof modelName !== "string" || typeof routingGroup !== "string" || typeof bookingId !== "string")
    return undefined;
  if (typeof blockSize !== "number" || typeof dpRank !== "number") return undefined;
  if (workerId === undefined || senderId === undefined || change === undefined) return undefined;
  const loraName = typeof lora === "string" ? lora : undefined;
  return { modelName, routingGroup, blockSize, bookingId, workerId, dpRank, senderId, loraName, change };
}

function parseChange(data: unknown): ReplicaChange | undefined {
  if (data === "Free") return { kind: "free" };
  if (data === "MarkPrefillCompleted") return { kind: "prefill-completed" };
  const added = isMap(data) ? data["AddRequest"] : undefined;
  if (!isMap(added)) return undefined;
  const hashes: unknown = added["token_sequence"] ?? [];
  if (!Array.isArray(hashes) || hashes.length > maxHashes) return undefined;
  const words = new Uint32Array(2 * hashes.length);
  for (const [index, hash] of hashes.entries()) {
    const exact = u64(hash);
    if (exact === undefined) return undefined;
    words[2 * index] = Number(exact & 0xffff_ffffn);
    words[2 * index + 1] = Number(exact >> 32n);
  }
  const hint = added["prefill_load_hint"];
  const prefillTokens = isMap(hint) ? u64(hint["initial_effective_prefill_tokens"]) : undefined;
  const expected = u64(added["expected_output_tokens"]);
  return {
    kind: "add",
    sequenceHashes: words,
    tracksPrefillTokens: added["track_prefill_tokens"] !== false,
    expectedOutputTokens: expected === undefined ? undefined : Number(expected),
    prefillTokens: prefillTokens === undefined ? undefined : Number(prefillTokens),
    expectedPrefillMs: isMap(hint) ? durationMsOf(hint["expected_prefill_duration"]) : undefined,
  };
}

/** As Rust writes a Duration. */
function durationOf(durationMs: number): { readonly secs: number; readonly nanos: number } {
  const nanos = Math.round(durationMs * 1e6);
  return { secs: Math.floor(nanos / 1e9), nanos: nanos % 1e9 };
}

function durationMsOf(value: unknown): number | undefined {
  const secs = isMap(value) ? u64(value["secs"]) : undefined;
  const nanos = isMap(value) ? u64(value["nanos"]) : undefined;
  return secs === undefined || nanos === undefined ? undefined : Number(secs) * 1000 + Number(nanos) / 1e6;
}

function wide(words: Uint32Array, index: number): bigint {
  return (BigInt(words[2 * index + 1] ?? 0) << 32n) | BigInt(words[2 * index] ?? 0);
}

function u64(value: unknown): bigint | undefined {
  if (typeof value === "bigint") return value >= 0n ? value : undefined;
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? BigInt(value) : undefined;
}

function isMap(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
}
