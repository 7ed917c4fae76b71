/** KV events as plain values, their encoding in both codecs, and what a reader makes of a message: for tests of whatever reads them. */
import { encode } from "@msgpack/msgpack";
import { bigintOf } from "../../../../src/dynamo/encoding/value-reader.ts";
import { eventKinds } from "../../../../src/dynamo/kv-events/router-event.ts";
import type { RouterEventReader } from "../../../../src/dynamo/kv-events/router-event-reader.ts";
import { encodeExactJson } from "../../../../src/dynamo/record-json.ts";
import fc from "../../../properties.ts";

export interface PlainBlock {
  readonly block_hash: bigint;
  readonly tokens_hash: bigint;
  readonly mm_extra_info: unknown;
}

export type PlainData =
  | "cleared"
  | {
      readonly stored: {
        readonly parent_hash: bigint | null;
        readonly start_position?: number | null;
        readonly blocks: readonly PlainBlock[];
      };
    }
  | { readonly removed: { readonly block_hashes: readonly bigint[] } };

export interface PlainEvent {
  readonly worker_id: bigint;
  readonly storage_tier?: string;
  readonly residency_domain?: unknown;
  readonly event: { readonly event_id: number; readonly data: PlainData; readonly dp_rank?: number };
}

export const tiers = ["device", "host_pinned", "disk", "external"] as const;

export const hash = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });

const block: fc.Arbitrary<PlainBlock> = fc.record({
  block_hash: fc.oneof(hash, fc.bigInt({ min: 0n, max: 300n })),
  tokens_hash: hash,
  mm_extra_info: fc.option(fc.constant({ mm_objects: [{ mm_hash: 7n, offsets: [[1, 2]] }] }), { nil: null, freq: 3 }),
});

const data: fc.Arbitrary<PlainData> = fc.oneof(
  fc.constant("cleared" as const),
  fc.record({
    stored: fc.record(
      {
        parent_hash: fc.option(hash, { nil: null }),
        start_position: fc.option(fc.nat(1000), { nil: null }),
        blocks: fc.array(block, { maxLength: 20 }),
      },
      { requiredKeys: ["parent_hash", "blocks"] },
    ),
  }),
  fc.record({ removed: fc.record({ block_hashes: fc.array(hash, { maxLength: 20 }) }) }),
);

export const event: fc.Arbitrary<PlainEvent> = fc.record(
  {
    worker_id: hash,
    storage_tier: fc.constantFrom(...tiers),
    residency_domain: fc.constantFrom("worker", "cache_owner", null),
    event: fc.record({ event_id: fc.nat(), data, dp_rank: fc.nat(7) }, { requiredKeys: ["event_id", "data"] }),
  },
  { requiredKeys: ["worker_id", "event"] },
);

export function encodeEvents(codec: "json" | "msgpack", value: unknown): Buffer {
  if (codec === "msgpack") return Buffer.from(encode(value, { useBigInt64: true }));
  return Buffer.from(encodeExactJson(value));
}

/** Everything the reader says, in one comparable value per event. */
export function readAll(reader: RouterEventReader): unknown[] {
  const seen: unknown[] = [];
  while (reader.next()) {
    const { event: now } = reader;
    const hashes = (words: Uint32Array): bigint[] =>
      Array.from({ length: now.count }, (_, index) => bigintOf(words[2 * index] ?? 0, words[2 * index + 1] ?? 0));
    seen.push({
      worker: bigintOf(now.workerLow, now.workerHigh),
      dpRank: now.dpRank,
      eventId: now.eventId,
      kind: now.kind,
      tier: now.tier,
      domain: now.domain,
      parent: now.kind === eventKinds.stored && now.hasParent ? bigintOf(now.parentLow, now.parentHigh) : undefined,
      startPosition: now.kind === eventKinds.stored ? now.startPosition : -1,
      engineHashes: hashes(now.engineHashes),
      tokensHashes: now.kind === eventKinds.stored ? hashes(now.tokensHashes) : [],
    });
  }
  return seen;
}

/** What a reader should say. */
export function plainView({
  worker_id,
  storage_tier = "device",
  residency_domain,
  event: { event_id, data: what, dp_rank = 0 },
}: PlainEvent): unknown {
  const stored = what !== "cleared" && "stored" in what ? what.stored : undefined;
  const removed = what !== "cleared" && "removed" in what ? what.removed : undefined;
  return {
    worker: worker_id,
    dpRank: dp_rank,
    eventId: event_id,
    kind: stored !== undefined ? 0 : removed !== undefined ? 1 : 2,
    tier: tiers.indexOf(storage_tier as (typeof tiers)[number]),
    domain: residency_domain === undefined ? 0 : residency_domain === "worker" ? 1 : 2,
    parent: stored?.parent_hash ?? undefined,
    startPosition: stored?.start_position ?? -1,
    engineHashes: stored?.blocks.map(({ block_hash }) => block_hash) ?? removed?.block_hashes ?? [],
    tokensHashes: stored?.blocks.map(({ tokens_hash }) => tokens_hash) ?? [],
  };
}
