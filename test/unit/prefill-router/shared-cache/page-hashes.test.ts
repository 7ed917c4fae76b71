/** SGLang's page hashes, by vectors of Dynamo 1.6.1's tests and against a plain implementation. */
import { describe, expect, it } from "@jest/globals";
import { PageHasher } from "../../../../src/prefill-router/shared-cache/page-hashes.ts";
import { pageHashes } from "../../../mooncake.ts";
import fc from "../../../properties.ts";

function hashesOf(tokens: readonly number[], pageSize: number, isEagle: boolean): string[] {
  const hashes: string[] = [];
  const hasher = new PageHasher(pageSize, isEagle);
  hasher.hash(Uint32Array.from(tokens), (hash, index) => {
    expect(index).toBe(hashes.length);
    hashes.push(Buffer.from(hash, "latin1").toString("hex"));
  });
  return hashes;
}

describe("page hashes", () => {
  it("are SGLang's, of whole pages only", () => {
    expect(hashesOf([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 4, false)).toEqual([
      "cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72",
      "4ebfa8a1f3c341517621838c6e1b9aa350307e3f00b3cbd1a07ef740f54396d6",
    ]);
  });

  it("are SGLang's of token pairs with EAGLE", () => {
    expect(hashesOf([10, 11, 12, 13, 14], 2, true)).toEqual([
      "4bde82677ba8b6de843da1713b58a439678ec01b642bbdcffec4acfa81b0ec8e",
      "75ab93a767bad1e254945d1a0ccfa1588d6ebb803303e412d984baedcbbf04b9",
    ]);
  });

  it.each([true, false])("are those of a plain implementation, whatever the tokens (EAGLE: %s)", (isEagle) => {
    const token = fc.integer({ min: 0, max: 0xffff_ffff });
    fc.assert(
      fc.property(fc.array(token, { maxLength: 40 }), fc.integer({ min: 1, max: 9 }), (tokens, pageSize) => {
        expect(hashesOf(tokens, pageSize, isEagle)).toEqual(pageHashes(tokens, pageSize, isEagle));
      }),
    );
  });

  it("leave nothing of one prompt for the next", () => {
    const hasher = new PageHasher(2, false);
    const first = (tokens: readonly number[]): string => {
      let found = "";
      hasher.hash(Uint32Array.from(tokens), (hash, index) => {
        if (index === 0) found = hash;
      });
      return found;
    };
    const alone = first([7, 8]);
    first([1, 2, 3, 4, 5, 6]);
    expect(first([7, 8, 9, 10])).toBe(alone);
  });
});
