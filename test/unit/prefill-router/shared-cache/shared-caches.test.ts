/** The shared caches of a worker set: what its workers say of them, and what is looked up where. */
import { describe, expect, it } from "@jest/globals";
import type { HicacheCard, HicacheLayout } from "../../../../src/dynamo/model-card/model-card.ts";
import { agreementOf } from "../../../../src/prefill-router/shared-cache/agreed-layout.ts";
import { SharedCaches, type SharedCachesInit } from "../../../../src/prefill-router/shared-cache/shared-caches.ts";
import { pageHashes, plainLayout, storedPages } from "../../../mooncake.ts";
import { fakeSources, warningLog } from "./fake-source.ts";

const endpoint = "tcp://127.0.0.1:5557";
const other = "tcp://127.0.0.1:5558";
const tokens = Uint32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
const stored = storedPages(pageHashes([...tokens], 4));

function says(changes: Partial<HicacheLayout> = {}, eventsEndpoint: string | undefined = endpoint): HicacheCard {
  return { kind: "hicache", layout: { ...plainLayout, ...changes }, eventsEndpoint };
}
const unreadable: HicacheCard = { kind: "unreadable", reason: "page_size: expected an integer" };
const hears = (card: HicacheCard): HicacheCard =>
  card.kind === "hicache" ? { ...card, eventsEndpoint: undefined } : card;

describe("what workers agree on", () => {
  const agree = (cards: readonly (HicacheCard | undefined)[], configured?: string) =>
    agreementOf(
      cards.map((hicache, index) => ({ id: BigInt(index + 1), hicache })),
      4,
      configured,
    );
  const reasonOf = (agreement: ReturnType<typeof agreementOf>): string =>
    agreement.kind === "degraded" ? agreement.reason : agreement.kind;

  it.each<[string, readonly (HicacheCard | undefined)[], string | undefined, string]>([
    ["all say the same", [says(), says()], undefined, endpoint],
    ["some say nothing", [undefined, says(), undefined], undefined, endpoint],
    ["one cannot be read", [unreadable, says()], undefined, endpoint],
    ["one does not know where the events are", [hears(says()), says()], undefined, endpoint],
    ["the configuration knows better", [says(), says({}, other)], "tcp://10.0.0.9:1", "tcp://10.0.0.9:1"],
    ["only the configuration knows", [hears(says())], other, other],
  ])("is one layout where %s", (_name, cards, configured, where) => {
    expect(agree(cards, configured)).toEqual({ kind: "agreed", layout: plainLayout, endpoint: where });
  });

  it.each<[string, readonly (HicacheCard | undefined)[], RegExp]>([
    ["nobody says anything", [undefined], /^silent$/],
    ["none can be read", [unreadable], /^worker 1: page_size/],
    ["layouts differ", [says(), says({ tpSize: 2 })], /^workers 1 and 2 differ in tpSize$/],
    ["places of events differ", [says(), says({}, other)], /differ in where events are/],
    ["nobody knows where events are", [hears(says())], /^nothing says where/],
    ["the place cannot be connected to", [says({}, "http://x")], /invalid ZMQ endpoint/],
    ["the store is another", [says({ backend: "file" })], /the store is file/],
    ["a page is no block", [says({ pageSize: 8 })], /8 tokens, a block of the model 4/],
    ["a page has no tokens", [says({ pageSize: 0 })], /0 tokens/],
    ["a layout cannot be true", [says({ tpSize: 4_000_000_000 })], /more than 1024/],
  ])("is nothing where %s", (_name, cards, reason) => {
    expect(reasonOf(agree(cards))).toMatch(reason);
  });
});

describe("shared caches", () => {
  function start(init: Partial<SharedCachesInit> = {}) {
    const { open, opened } = fakeSources();
    const { log, warnings } = warningLog();
    const asked: number[] = [];
    let nowMs = 0;
    const caches = new SharedCaches({
      set: "ns/tiny",
      blockSize: 4,
      eventsEndpoint: undefined,
      stages: ["prefill", "decode"],
      now: () => nowMs++,
      asked: (ms) => asked.push(ms),
      log,
      open,
      ...init,
    });
    const add = (
      id: number,
      hicache: HicacheCard | undefined,
      role: "aggregated" | "prefill" | "decode" = "aggregated",
    ) => caches.upsertWorker({ id: BigInt(id), role, hicache });
    const hits = (stage: "prefill" | "decode" = "decode", salt?: string) => [...caches.hitsOf(tokens, salt).of(stage)];
    return { add, asked, caches, hits, opened, warnings };
  }

  it("follow what the first worker says and keep to it while the others say the same", () => {
    const { add, caches, hits, opened } = start();
    expect(caches.stateOf("decode")).toBe("silent");
    for (let id = 1; id <= 3; id++) add(id, says());
    expect(opened).toHaveLength(1);
    expect(caches.stateOf("decode")).toBe("disconnected");
    opened[0]?.handler.connected?.();
    expect([caches.stateOf("decode"), caches.stateOf("prefill")]).toEqual(["following", "silent"]);
    opened[0]?.say(1, stored);
    expect(hits()).toEqual([0, 2]);
    caches.removeWorker(1n);
    expect(hits()).toEqual([0, 2]);
    expect(caches.pages).toBe(2);
  });

  it("look nothing up while workers differ, say so once, and begin anew when they agree", () => {
    const { add, caches, hits, opened, warnings } = start();
    add(1, says());
    opened[0]?.say(1, stored);
    add(2, says({ tpSize: 2 }));
    add(3, undefined);
    expect(caches.stateOf("decode")).toBe("degraded");
    expect(hits()).toEqual([]);
    expect(opened[0]?.isClosed).toBe(true);
    expect(warnings).toEqual(["the workers' shared cache cannot be looked up"]);
    expect(caches.state()).toMatchObject({
      stages: { decode: { state: "degraded", reason: "workers 1 and 2 differ in tpSize", endpoint: null, pages: 0 } },
    });
    caches.removeWorker(2n);
    expect(opened).toHaveLength(2);
    expect(hits()).toEqual([]);
    opened[1]?.say(9, stored);
    expect(hits()).toEqual([0, 2]);
  });

  it("begin anew with another layout and another place of events", () => {
    const { add, hits, opened } = start();
    add(1, says());
    opened[0]?.say(1, stored);
    add(1, says({ keyPrefix: "tag" }));
    expect(hits()).toEqual([]);
    add(1, says({ keyPrefix: "tag" }, other));
    expect(opened.map(({ endpoint: where, isClosed }) => [where, isClosed])).toEqual([
      [endpoint, true],
      [endpoint, true],
      [other, false],
    ]);
  });

  it("are one for both stages that say the same, and one each otherwise", () => {
    const { add, caches, hits, opened } = start();
    add(1, says(), "prefill");
    add(2, says(), "decode");
    expect(opened).toHaveLength(1);
    opened[0]?.say(1, stored);
    expect([hits("prefill"), hits("decode")]).toEqual([
      [0, 2],
      [0, 2],
    ]);
    add(2, says({ isMla: true }), "decode");
    expect(opened).toHaveLength(2);
    expect([hits("prefill"), hits("decode")]).toEqual([[0, 2], []]);
    expect(caches.stateOf("decode")).toBe("disconnected");
  });

  it("are followed for the stages that count them", () => {
    const { add, caches, opened } = start({ stages: ["prefill"] });
    add(2, says(), "decode");
    expect(opened).toEqual([]);
    expect(caches.stateOf("decode")).toBe("silent");
  });

  it("warn once of cards that cannot be read alike", () => {
    const { add, warnings } = start();
    add(1, says());
    add(2, unreadable);
    add(3, { ...unreadable });
    expect(warnings).toEqual(["what a worker says of its shared cache cannot be read"]);
  });

  it("look a prompt up once a stage, when first asked, and have nothing of salted ones", () => {
    const { add, asked, caches, hits, opened } = start();
    add(1, says());
    opened[0]?.say(1, stored);
    const found = caches.hitsOf(tokens, "");
    expect(asked).toEqual([]);
    expect([...found.of("decode")]).toEqual([0, 2]);
    opened[0]?.say(9, []);
    expect([...found.of("decode")]).toEqual([0, 2]);
    expect(asked).toEqual([1]);
    expect(hits()).toEqual([]);
    opened[0]?.say(10, stored);
    expect(hits("decode", "salt")).toEqual([]);
    expect(hits()).toEqual([0, 2]);
  });

  it("close all they opened and open nothing after", async () => {
    const { add, caches, opened } = start();
    add(1, says());
    add(2, says({ isMla: true }), "prefill");
    await caches.close();
    add(3, says({ ppSize: 3 }));
    expect(opened.map(({ isClosed }) => isClosed)).toEqual([true, true]);
  });
});
