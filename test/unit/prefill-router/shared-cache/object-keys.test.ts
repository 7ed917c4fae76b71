/** Keys of the objects a page is stored as. The vectors are facts of SGLang's key scheme as Dynamo 1.6.1 tests it. */
import { describe, expect, it } from "@jest/globals";
import type { HicacheLayout } from "../../../../src/dynamo/model-card/model-card.ts";
import {
  keyPrefixOf,
  keySuffixesOf,
  ObjectKeyReader,
  partsPerPage,
} from "../../../../src/prefill-router/shared-cache/object-keys.ts";
import { plainLayout } from "../../../mooncake.ts";

const layouts: readonly (readonly [string, Partial<HicacheLayout>, readonly string[]])[] = [
  ["one rank", {}, ["hash_0_k", "hash_0_v"]],
  ["a backend tag", { extraBackendTag: "tag" }, ["tag_hash_0_k", "tag_hash_0_v"]],
  ["an empty backend tag", { extraBackendTag: "" }, ["hash_0_k", "hash_0_v"]],
  [
    "a key prefix before a backend tag",
    { extraBackendTag: "tag", keyPrefix: "tag_Qwen-Qwen3-0.6B" },
    ["tag_Qwen-Qwen3-0.6B_hash_0_k", "tag_Qwen-Qwen3-0.6B_hash_0_v"],
  ],
  ["an empty key prefix", { extraBackendTag: "tag", keyPrefix: "" }, ["_hash_0_k", "_hash_0_v"]],
  [
    "two ranks by two stages",
    { tpSize: 2, ppSize: 2 },
    ["hash_0_0_k", "hash_0_0_v", "hash_1_0_k", "hash_1_0_v", "hash_0_1_k", "hash_0_1_v", "hash_1_1_k", "hash_1_1_v"],
  ],
  ["MLA", { isMla: true, tpSize: 8 }, ["hash__k"]],
  ["MLA in two stages", { isMla: true, ppSize: 2 }, ["hash_0_k", "hash_1_k"]],
  [
    "split heads",
    { tpSize: 2, tpLcmSize: 4, splitsHeads: true, extraBackendTag: "tag" },
    [0, 1, 2, 3].flatMap((rank) => [`tag_hash_${rank}_k`, `tag_hash_${rank}_v`]),
  ],
  ["heads that are not split", { tpSize: 1, tpLcmSize: 4 }, ["hash_0_k", "hash_0_v"]],
  ["sizes of nothing", { tpSize: 0, ppSize: 0 }, ["hash_0_k", "hash_0_v"]],
];

describe("the objects of a page", () => {
  it.each(layouts)("with %s", (_name, changes, keys) => {
    const layout = { ...plainLayout, ...changes };
    expect(keySuffixesOf(layout).map((suffix) => `${keyPrefixOf(layout)}hash${suffix}`)).toEqual(keys);
    expect(partsPerPage(layout)).toBe(keys.length);
  });

  it.each(layouts)("are read back, each as a part of its own, with %s", (_name, changes, keys) => {
    const hash = "cf97adeedb59e05bfd73a2b4c2a8885708c4f4f70c84c64b27120e72ab733b72";
    const reader = new ObjectKeyReader({ ...plainLayout, ...changes });
    const parts = keys.map((key) => {
      const bytes = Buffer.from(`xx${key.replace("hash", hash)}yy`);
      expect(reader.read(bytes, 2, bytes.length - 4)).toBe(true);
      expect(Buffer.from(reader.page, "latin1").toString("hex")).toBe(hash);
      return reader.part;
    });
    expect(parts).toEqual(keys.map((_key, part) => part));
  });

  const hex = "0a".repeat(32);
  it.each([
    "",
    hex,
    `tag_${hex}`,
    `${hex}_0_k`,
    `tag_${hex}_1_k`,
    `tag_${hex}_0_x`,
    `tag_${hex.toUpperCase()}_0_k`,
    `tag_${"0g".repeat(32)}_0_k`,
    `tag_${hex.slice(2)}_0_k`,
    `tog_${hex}_0_k`,
    `tag_tag_${hex}_0_k`,
  ])("are not %j with a tag", (key) => {
    const reader = new ObjectKeyReader({ ...plainLayout, extraBackendTag: "tag" });
    expect(reader.read(Buffer.from(key), 0, key.length)).toBe(false);
  });
});
