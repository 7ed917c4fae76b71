import { describe, expect, it } from "@jest/globals";
import { parseBody, readHashList, readU32List, readU64 } from "../../../../src/prefill-router/service/body.ts";
import { readSelection } from "../../../../src/prefill-router/service/requests.ts";
import fc from "../../../properties.ts";

function hashesOf(words: Uint32Array | undefined): bigint[] {
  const wide = words ?? new Uint32Array(0);
  return Array.from({ length: wide.length / 2 }, (_, index) =>
    BigInt.asIntN(64, (BigInt(wide[2 * index + 1] ?? 0) << 32n) | BigInt(wide[2 * index] ?? 0)),
  );
}

describe("a request's body", () => {
  it("keeps every 64-bit integer", () => {
    const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    const i64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
    fc.assert(
      fc.property(u64, fc.array(i64, { maxLength: 20 }), (id, hashes) => {
        const body = parseBody(`{"id": ${id},\n"hashes":[${hashes.join(" , ")}]}`) as Record<string, unknown>;
        expect(readU64(body["id"], "id")).toBe(id);
        expect(hashesOf(readHashList(body["hashes"], ""))).toEqual(hashes);
      }),
      { numRuns: 200 },
    );
  });

  it.each([[2n ** 63n], [-(2n ** 63n) - 1n]])("has no hash %s, which needs a 65th bit", (hash) => {
    expect(() => readHashList(parseBody(`[${hash}]`), "")).toThrow(/expected i64/);
  });

  it("reads token ids as they are, and nothing else as one", () => {
    const u32 = fc.nat({ max: 0xffff_ffff });
    fc.assert(
      fc.property(fc.array(u32), (tokens) => expect([...(readU32List(tokens, "") ?? [])]).toEqual(tokens)),
      { numRuns: 50 },
    );
    for (const item of [-1, 1.5, 2 ** 32, -(2n ** 53n), 2n ** 70n, "1", null, true, [], {}, Number.NaN]) {
      expect(() => readU32List([1, item], "")).toThrow(/expected u32/);
    }
  });

  it("never ends in anything but a refusal, whatever is sent", () => {
    const named = fc.dictionary(
      fc.constantFrom(
        "token_ids",
        "block_hashes",
        "pinned_worker",
        "session_context",
        "routing_constraints",
        "mm_routing_info",
        "block_mm_infos",
        "router_config_override",
        "allowed_worker_ids",
        "isl_tokens",
        "advisory",
      ),
      fc.jsonValue(),
    );
    fc.assert(
      fc.property(fc.oneof(named, fc.jsonValue()), (value) => {
        try {
          readSelection(parseBody(JSON.stringify(value)), "struct SelectRequest");
        } catch (error) {
          expect(error).toMatchObject({ name: "BadRequest", status: expect.any(Number) });
        }
      }),
      { numRuns: 500 },
    );
  });
});
