import { describe, expect, it } from "@jest/globals";
import { decode, encode } from "@msgpack/msgpack";
import {
  encodeReplicaEvent,
  parseReplicaEvent,
  type ReplicaChange,
} from "../../../../src/prefill-router/service/replica-codec.ts";
import fc from "../../../properties.ts";

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const u32 = fc.nat({ max: 0xffff_ffff });
const added = fc.record({
  kind: fc.constant("add" as const),
  sequenceHashes: fc.array(fc.tuple(u32, u32), { maxLength: 20 }).map((pairs) => Uint32Array.from(pairs.flat())),
  tracksPrefillTokens: fc.boolean(),
  expectedOutputTokens: fc.option(u32, { nil: undefined }),
});
const hint = fc.oneof(
  fc.record({ prefillTokens: u32, expectedPrefillMs: fc.option(fc.nat(100_000), { nil: undefined }) }),
  fc.constant({ prefillTokens: undefined, expectedPrefillMs: undefined }),
);
const change: fc.Arbitrary<ReplicaChange> = fc.oneof(
  fc.tuple(added, hint).map(([add, of]) => ({ ...add, ...of })),
  fc.constant<ReplicaChange>({ kind: "free" }),
  fc.constant<ReplicaChange>({ kind: "prefill-completed" }),
);
const event = fc.record({
  modelName: fc.string(),
  routingGroup: fc.string(),
  blockSize: u32,
  bookingId: fc.string(),
  workerId: u64,
  dpRank: u32,
  senderId: u64,
  loraName: fc.option(fc.string(), { nil: undefined }),
  change,
});

describe("the messages between selectors", () => {
  it("come back as they were sent", () => {
    fc.assert(
      fc.property(event, (sent) => expect(parseReplicaEvent(encodeReplicaEvent(sent))).toEqual(sent)),
      { numRuns: 200 },
    );
  });

  it("are spelt as Dynamo spells them", () => {
    const bytes = encodeReplicaEvent({
      modelName: "m",
      routingGroup: "g",
      blockSize: 16,
      bookingId: "r",
      workerId: 1n,
      dpRank: 0,
      senderId: 42n,
      loraName: undefined,
      change: {
        kind: "add",
        sequenceHashes: Uint32Array.of(5, 0),
        tracksPrefillTokens: true,
        expectedOutputTokens: undefined,
        prefillTokens: 12,
        expectedPrefillMs: undefined,
      },
    });
    expect(decode(bytes)).toEqual({
      model_name: "m",
      routing_group: "g",
      block_size: 16,
      event: {
        request_id: "r",
        worker: { worker_id: 1, dp_rank: 0 },
        data: {
          AddRequest: {
            token_sequence: [5],
            track_prefill_tokens: true,
            expected_output_tokens: null,
            prefill_load_hint: { initial_effective_prefill_tokens: 12, expected_prefill_duration: null },
          },
        },
        router_id: 42,
        lora_name: null,
      },
    });
  });

  it("are dropped where they are none", () => {
    for (const message of [1, null, [], {}, { event: {} }, { event: { data: "Free" }, model_name: 1 }]) {
      expect(parseReplicaEvent(encode(message))).toBeUndefined();
    }
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        parseReplicaEvent(bytes);
      }),
    );
    expect(parseReplicaEvent(Uint8Array.of(0xc1))).toBeUndefined();
  });
});
