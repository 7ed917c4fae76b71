import { describe, expect, it } from "@jest/globals";
import { createAddressSecrets } from "../../../../src/data/prefix-index/block-address.ts";
import { createKvIndex } from "../../../../src/data/prefix-index/exact-kv-index.ts";
import { BlockLog, logParts } from "../../../../src/prefill-router/service/block-log.ts";
import { applyDump, dumpEvents, parseDump } from "../../../../src/prefill-router/service/dump.ts";
import { LoggedIndex } from "../../../../src/prefill-router/service/logged-index.ts";
import fc from "../../../properties.ts";

const secrets = createAddressSecrets(() => 0.37);

function blocksOf(log: BlockLog) {
  return Array.from({ length: logParts }, (_, part) => log.blocksOfPart(part)).flat();
}

/** Few distinct hashes, so that they meet, with words of both signs. */
const hash = fc.tuple(fc.constantFrom(0, 1, 7, 0x8000_0000, 0xffff_ffff), fc.nat({ max: 60 }));

describe("the log of blocks", () => {
  it("holds what a map holds", () => {
    const change = fc.record({
      isSet: fc.boolean(),
      of: hash,
      tokens: hash,
      parent: fc.option(hash, { nil: undefined }),
    });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 400 }), (changes) => {
        const log = new BlockLog(secrets);
        const model = new Map<bigint, object>();
        const wide = ([low, high]: readonly [number, number]): bigint => (BigInt(high) << 32n) | BigInt(low);
        for (const { isSet, of, tokens, parent } of changes) {
          if (isSet) {
            const [low, high] = parent ?? [0, 0];
            log.set(of[0], of[1], tokens[0], tokens[1], { low, high, isThere: parent !== undefined });
            const parentHash = parent === undefined ? undefined : wide(parent);
            model.set(wide(of), { engineHash: wide(of), tokensHash: wide(tokens), parentHash });
          } else {
            log.delete(of[0], of[1]);
            model.delete(wide(of));
          }
        }
        const byHash = (a: { engineHash: bigint }, b: { engineHash: bigint }) => (a.engineHash < b.engineHash ? -1 : 1);
        expect(log.size).toBe(model.size);
        expect(blocksOf(log).sort(byHash)).toEqual(
          [...model.values()].sort(byHash as (a: object, b: object) => number),
        );
      }),
      { numRuns: 100 },
    );
  });
});

async function textOf(events: AsyncIterable<string>): Promise<string> {
  const texts: string[] = [];
  for await (const event of events) texts.push(event);
  return `{"m:g:h":{"block_size":4,"events":[${texts.join(",")}]}}`;
}

describe("a dump", () => {
  it("gives another index the same blocks, however chains branch", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat({ max: 40 }), { minLength: 1, maxLength: 120 }), async (parents) => {
        const source = new LoggedIndex(createKvIndex({ random: () => 0.3 }), () => 0.4);
        const holder = source.attach();
        for (const [block, parent] of parents.entries()) {
          const hasParent = parent > 0 && parent <= block;
          source.stored(holder, 0, parent, 9, hasParent, Uint32Array.of(block + 1, 9), Uint32Array.of(block, 5), 0, 1);
        }
        const rank = { workerId: 2n ** 64n - 1n, dpRank: 3 };
        const text = await textOf(dumpEvents([{ rank, logs: source.logsOf(holder) }]));
        const [dumped] = parseDump(text);
        expect(dumped).toMatchObject({ modelName: "m", routingGroup: "g:h", blockSize: 4 });

        const copy = new LoggedIndex(createKvIndex({ random: () => 0.3 }), () => 0.4);
        const holders = new Map<string, number>();
        const taken = await applyDump(dumped?.events ?? [], copy, ({ workerId, dpRank }) => {
          const known = holders.get(`${workerId}/${dpRank}`) ?? copy.attach();
          holders.set(`${workerId}/${dpRank}`, known);
          return known;
        });
        expect([...holders.keys()]).toEqual([`${2n ** 64n - 1n}/3`]);
        expect(taken).toBe(parents.length);
        expect(copy.heldBlocks).toBe(source.heldBlocks);
        const again = await textOf(dumpEvents([{ rank, logs: copy.logsOf([...holders.values()][0] ?? 0) }]));
        const sorted = (of: string) => [...of.matchAll(/"block_hash":\d+,"tokens_hash":\d+/g)].map(String).sort();
        expect(sorted(again)).toEqual(sorted(text));
      }),
      { numRuns: 60 },
    );
  });

  it.each([
    ["no object", "[]"],
    ["no group", '{"m":{"block_size":4,"events":[]}}'],
    ["no events", '{"m:g":{"block_size":4}}'],
    ["no JSON", '{"m:g":'],
  ])("is refused where it is %s", (_, text) => {
    expect(() => parseDump(text)).toThrow();
  });

  it("is taken without the events that are not whole", async () => {
    const index = createKvIndex({ random: () => 0.3 });
    const holder = index.attach();
    const block = { block_hash: 1, tokens_hash: 2 };
    const event = { data: { stored: { parent_hash: null, blocks: [block] } } };
    const events = [
      1,
      {},
      { worker_id: 1, event: { data: "cleared" } },
      { worker_id: -1, event },
      { worker_id: 1, event },
    ];
    expect(await applyDump(events, index, () => holder)).toBe(1);
  });
});
