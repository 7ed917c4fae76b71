import { describe, expect, it } from "@jest/globals";
import { encode } from "@msgpack/msgpack";
import { EngineFeed } from "../../../../src/data/kv-events/engine-feed.ts";
import { createEventCounters } from "../../../../src/data/kv-events/event-counters.ts";
import { createTokenHasher, hashTokens } from "../../../../src/tokens/block-hash.ts";
import { createRecordingIndex, u64 } from "./recording-index.ts";

const blockSize = 4;
const tokens = [1, 2, 3, 4, 5, 6, 7, 8];

interface Stored {
  readonly hashes: readonly (number | bigint | Uint8Array)[];
  readonly parent?: number;
  readonly tokens?: readonly unknown[];
  readonly blockSize?: number;
  readonly medium?: string | null;
  readonly lora?: string | object | null;
  readonly extra?: unknown;
  readonly tail?: readonly unknown[];
}

/** vLLM's positional form. */
function stored({ hashes, parent, lora = null, medium = "GPU", extra = null, tail = [], ...more }: Stored): unknown {
  const ids = more.tokens ?? tokens.slice(0, hashes.length * blockSize);
  return ["BlockStored", hashes, parent ?? null, ids, more.blockSize ?? blockSize, null, medium, lora, extra, ...tail];
}

function setUp(maxBlocksPerRank = 1000) {
  const index = createRecordingIndex();
  const counters = createEventCounters();
  const adapters = new Set<string>();
  const sizes: number[] = [];
  const feed = new EngineFeed({
    index,
    hasher: createTokenHasher(),
    blockSize,
    maxBlocksPerRank,
    counters,
    adapters,
    replayEndpoint: undefined,
    now: () => 0,
    onBlockSize: (size) => sizes.push(size),
    onRank: () => {},
  });
  let sequence = 0;
  const send = (...events: unknown[]): void => {
    feed.message(sequence++, Buffer.from(encode([1.5, events, 0], { useBigInt64: true })));
  };
  return { index, counters, adapters, sizes, feed, send };
}

function expectedHashes(options: Partial<Parameters<typeof hashTokens>[1]> = {}): string[] {
  const { blockHashes } = hashTokens(Uint32Array.from(tokens), { blockSize, ...options });
  return [0, 1].map((block) => u64(blockHashes[2 * block] ?? 0, blockHashes[2 * block + 1] ?? 0));
}

const tokensHashes = (index: ReturnType<typeof createRecordingIndex>, at = -1): (string | undefined)[] | undefined =>
  index.told.at(at)?.stored?.map(([, hash]) => hash);

const digest = "ab12".repeat(16);

describe("an engine's rank", () => {
  it("takes no batch of more events than a step has, and no more than a thousand keys of a block", () => {
    const { index, counters, send } = setUp();
    send(...Array.from({ length: 16_385 }, () => ["AllBlocksCleared"]));
    expect([counters.malformed, counters.cleared]).toEqual([1, 0]);
    const keys = Array.from({ length: 2000 }, (_, key) => key.toString(16).padStart(64, "0"));
    send(stored({ hashes: [1, 2], extra: [keys, null] }));
    const media = keys.slice(0, 1024).map((key) => BigInt(`0x${key.slice(0, 16)}`));
    expect(tokensHashes(index)).toEqual(expectedHashes({ mmHashes: [media] }));
    send(...Array.from({ length: 16_384 }, () => ["AllBlocksCleared"]));
    expect(counters.cleared).toBe(16_384);
  });

  it.each([
    ["no salt", {}, null],
    ["a bare salt", { cacheSalt: "tenant" }, [["tenant"], null]],
    ["a salt that Dynamo's worker marked", { cacheSalt: "tenant" }, [["dynamo-cache-salt:tenant"], null]],
    ["an image in its second block", { mmHashes: [undefined, [0xab12ab12ab12ab12n]] }, [null, [digest]]],
    ["an image with its offset", { mmHashes: [[0xab12ab12ab12ab12n]] }, [[[digest, 2]], null]],
    ["a salt behind an image", { cacheSalt: "t", mmHashes: [[0xab12ab12ab12ab12n]] }, [[digest, "t"], null]],
  ])("hashes a prompt with %s as its request is hashed", (_what, options, extra) => {
    const { index, send } = setUp();
    send(stored({ hashes: [1, 2], extra }));
    expect(tokensHashes(index)).toEqual(expectedHashes(options));
  });

  it("tells the adapter's name among the extra keys from the salt, even where both are the same text", () => {
    const { index, adapters, send } = setUp();
    send(stored({ hashes: [1, 2], lora: "sql", extra: [["sql", "sql"], ["sql"]] }));
    expect(tokensHashes(index)).toEqual(expectedHashes({ loraName: "sql", cacheSalt: "sql" }));
    expect([...adapters]).toEqual(["sql"]);
    send(stored({ hashes: [3, 4], lora: "sql", extra: [["sql"], ["sql"]] }));
    expect(tokensHashes(index)).toEqual(expectedHashes({ loraName: "sql" }));
  });

  it("takes SGLang's salt from the object in the adapter's place", () => {
    const { index, send } = setUp();
    send(stored({ hashes: [1, 2], lora: { cache_salt: "tenant" } }));
    expect(tokensHashes(index)).toEqual(expectedHashes({ cacheSalt: "tenant" }));
  });

  it("gives blocks the salt of the chain they continue", () => {
    const { index, send } = setUp();
    send(stored({ hashes: [1], extra: [["tenant"]] }));
    send(stored({ hashes: [2], parent: 1, tokens: tokens.slice(4) }));
    expect(tokensHashes(index)).toEqual([expectedHashes({ cacheSalt: "tenant" })[1]]);
    send(["AllBlocksCleared"], stored({ hashes: [1] }), stored({ hashes: [2], parent: 1, tokens: tokens.slice(4) }));
    expect(tokensHashes(index)).toEqual([expectedHashes()[1]]);
  });

  it("leaves out what continues a block that was stored under two salts", () => {
    const { index, counters, send } = setUp();
    send(stored({ hashes: [1], extra: [["a"]] }), stored({ hashes: [1], extra: [["b"]] }));
    send(stored({ hashes: [2], parent: 1, tokens: tokens.slice(4) }));
    expect(index.told.length).toBe(2);
    expect(counters.filtered).toBe(1);
  });

  it("reads windows of neighbouring tokens as blocks that overlap by one", () => {
    const { index, send } = setUp();
    const pairs = [1, 2, 3, 4, 5, 6, 7, 8].map((token) => [token, token + 1]);
    send(stored({ hashes: [1, 2], tokens: pairs }));
    const { blockHashes } = hashTokens(Uint32Array.from([...tokens, 9]), { blockSize, isEagle: true });
    expect(tokensHashes(index)).toEqual([0, 1].map((i) => u64(blockHashes[2 * i] ?? 0, blockHashes[2 * i + 1] ?? 0)));
  });

  it.each([
    ["a fixed tail", [1, "sliding_window", 128, null, null]],
    ["a tail in the order of older engines", ["sliding_window", 1]],
    ["a kind nobody knows", [1, "next_attention", null, null]],
    ["a group alone that is not the first", [1]],
  ])("leaves a cache group out that does not stand for the prompt: %s", (_what, tail) => {
    const { index, counters, send } = setUp();
    send(stored({ hashes: [1], tail }));
    expect(index.told).toEqual([]);
    expect(counters.filtered).toBe(1);
  });

  it("learns which group stands for the prompt", () => {
    const { index, send } = setUp();
    send(stored({ hashes: [1], tail: [1, "full_attention", null, null] }));
    send(
      stored({ hashes: [2], parent: 1, tail: [1] }),
      ["BlockRemoved", [2], "GPU", 1],
      ["BlockRemoved", [1], "GPU", 2],
    );
    expect(index.told.map(({ removed }) => removed)).toEqual([undefined, undefined, ["2"]]);
  });

  it.each([["REMOTE"], ["ELSEWHERE"]])("leaves blocks out that lie at %s", (locality) => {
    const { index, send } = setUp();
    send(stored({ hashes: [1], tail: [null, null, null, locality] }));
    expect(index.told).toEqual([]);
  });

  it("leaves out events of another owner than the engine", () => {
    const { index, counters, send } = setUp();
    send(stored({ hashes: [1], tail: [null, null, null, null, "kvcr"] }), ["AllBlocksCleared", "kvcr"]);
    expect(index.told).toEqual([]);
    expect(counters.filtered).toBe(2);
  });

  it("names a block size that is not the configured one, and takes none of its blocks", () => {
    const { index, sizes, counters, send } = setUp();
    send(stored({ hashes: [1], blockSize: 64, tokens: Array.from({ length: 64 }, (_, i) => i) }));
    expect([index.told.length, sizes, counters.otherBlockSize]).toEqual([0, [64], 1]);
  });

  it("reads the other events of a batch beside one that cannot be read", () => {
    const { index, counters, send } = setUp();
    send(["BlockStored", "no list", null, [], 4], { type: "Unheard" }, [], 7, stored({ hashes: [1] }));
    expect(index.told.length).toBe(1);
    expect(counters.malformed).toBe(4);
  });

  it("forgets nothing of blocks whose parent is unknown, for it never held them", () => {
    const { index, counters, feed, send } = setUp();
    index.outcome = "unknown-parent";
    send(stored({ hashes: [1], parent: 99 }));
    expect([counters.unknownParent, feed.blocks]).toEqual([1, 0]);
    send(["BlockRemoved", [1], "GPU"]);
    expect(index.told.at(-1)?.removed).toEqual(["1"]);
  });

  it("takes no more blocks than it has room for", () => {
    const { index, counters, feed, send } = setUp(3);
    send(stored({ hashes: [1, 2] }), stored({ hashes: [3, 4] }));
    expect([index.told.length, counters.full, feed.blocks]).toEqual([1, 1, 2]);
  });

  it("gives its holder back when it is closed, and hears nothing more", async () => {
    const { index, feed, send } = setUp();
    send(stored({ hashes: [1] }));
    expect(index.attached.size).toBe(1);
    await feed.close();
    send(stored({ hashes: [2], parent: 1 }));
    expect([index.attached.size, index.told.length, feed.blocks]).toEqual([0, 1, 0]);
  });
});
