/** What a card says of a shared cache, as dynamo.sglang writes it. */
import { describe, expect, it } from "@jest/globals";
import { parseHicacheCard } from "../../../../src/dynamo/model-card/hicache-card.ts";
import { Fields } from "../../../../src/dynamo/record-json.ts";
import { cardLayout, plainLayout } from "../../../mooncake.ts";

const parse = (runtimeData: unknown) => parseHicacheCard(new Fields({ runtime_data: runtimeData }, "runtime_config"));
const saying = (changes: object) => parse({ sglang_hicache_mooncake: { ...cardLayout(plainLayout), ...changes } });

describe("a card's shared cache", () => {
  it("is nothing where the engine says nothing", () => {
    expect([parse(undefined), parse(null), parse({}), parse({ sglang_hicache_mooncake: null })]).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
  });

  it("has the layout of its keys and where its events are", () => {
    const layout = { ...plainLayout, tpSize: 2, tpLcmSize: 8, splitsHeads: true, keyPrefix: "tag_model", isMla: false };
    expect(parse({ sglang_hicache_mooncake: cardLayout(layout, "tcp://10.0.0.9:5557") })).toEqual({
      kind: "hicache",
      layout,
      eventsEndpoint: "tcp://10.0.0.9:5557",
    });
    expect(saying({ kv_events_endpoint: "", extra_backend_tag: "", later: 1 })).toEqual({
      kind: "hicache",
      layout: { ...plainLayout, extraBackendTag: "" },
      eventsEndpoint: undefined,
    });
  });

  it.each([
    [{ backend: undefined }, /backend: expected a string/],
    [{ page_size: "64" }, /page_size: expected an integer/],
    [{ tp_size: -1 }, /tp_size: expected an integer/],
    [{ pp_size: 2 ** 32 }, /pp_size: expected an integer/],
    [{ is_mla_model: null }, /is_mla_model: expected true or false/],
    [{ should_split_heads: 1 }, /should_split_heads: expected true or false/],
    [{ kv_events_endpoint: 5557 }, /kv_events_endpoint: expected a string/],
  ])("is unreadable with %j, and the card none the worse", (changes, reason) => {
    expect(saying(changes)).toEqual({ kind: "unreadable", reason: expect.stringMatching(reason) });
  });

  it.each(["text", 7, [1]])("is unreadable where all of it is %j", (value) => {
    expect(parse({ sglang_hicache_mooncake: value })).toMatchObject({ kind: "unreadable" });
  });
});
