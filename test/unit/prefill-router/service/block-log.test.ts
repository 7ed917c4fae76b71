import { describe, expect, it } from "@jest/globals";
import { createAddressSecrets } from "../../../../src/data/prefix-index/block-address.ts";
import { createKvIndex } from "../../../../src/data/prefix-index/exact-kv-index.ts";
import type { WorkerRank } from "../../../../src/prefill-router/contracts.ts";
import { BlockLog, logParts } from "../../../../src/prefill-router/service/block-log.ts";
import { dumpEvents, dumpText } from "../../../../src/prefill-router/service/dump.ts";
import { takeDump } from "../../../../src/prefill-router/service/dump-reader.ts";
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

async function textOf(events: AsyncIterable<string>, modelName = "m"): Promise<string> {
  let whole = "";
  for await (const text of dumpText([{ modelName, routingGroup: "g:h", blockSize: 4, events }])) whole += text;
  return whole;
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
        const copy = new LoggedIndex(createKvIndex({ random: () => 0.3 }), () => 0.4);
        const holders = new Map<string, number>();
        const partitions: unknown[] = [];
        const holderOf = ({ workerId, dpRank }: WorkerRank): number => {
          const known = holders.get(`${workerId}/${dpRank}`) ?? copy.attach();
          holders.set(`${workerId}/${dpRank}`, known);
          return known;
        };
        const taken = await takeDump(Buffer.from(text), (partition) => {
          partitions.push(partition);
          return { index: copy, holderOf };
        });
        expect(partitions).toEqual([{ modelName: "m", routingGroup: "g:h", blockSize: 4 }]);
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
    ["what an index says that could not be dumped", '{"m:g":{"error":"gone"}}'],
    ["no block size before the events", '{"m:g":{"events":[],"block_size":4}}'],
    ["no event among them", '{"m:g":{"block_size":4,"events":[{}]}}'],
    ["no JSON", '{"m:g":'],
    ["a bad escape", String.raw`{"m\x:g":{"block_size":4,"events":[]}}`],
  ])("is refused where it is %s", async (_, text) => {
    await expect(takeDump(Buffer.from(text), () => undefined)).rejects.toMatchObject({ code: "MALFORMED" });
  });

  it("is taken, or refused as what it is, whatever its bytes", async () => {
    const index = createKvIndex({ random: () => 0.3 });
    const holder = index.attach();
    const block = '{"block_hash":18446744073709551615,"tokens_hash":1,"mm_extra_info":null}';
    const stored = `{"stored":{"parent_hash":null,"start_position":null,"blocks":[${block}]}}`;
    const event = `{"worker_id":1,"storage_tier":"disk","event":{"event_id":0,"data":${stored},"dp_rank":0}}`;
    const whole = Buffer.from(
      `{"m:g":{"block_size":4,"events":[${event},${event}]},"n:g":{"block_size":4,"events":[]}}`,
    );
    const change = fc.record({ at: fc.nat({ max: whole.length - 1 }), byte: fc.nat({ max: 255 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(change, { maxLength: 4 }), fc.nat({ max: whole.length }), async (changes, length) => {
        const bytes = Buffer.from(whole.subarray(0, changes.length === 0 ? whole.length : length));
        for (const { at, byte } of changes) if (at < bytes.length) bytes[at] = byte;
        const outcome = await takeDump(bytes, () => ({ index, holderOf: () => holder })).catch(
          (error: unknown) => (error as { readonly code?: unknown }).code,
        );
        expect([0, 1, 2, "MALFORMED"]).toContain(outcome);
      }),
      { numRuns: 500 },
    );
  });

  it("is taken without what is no stored block of a worker that is known, and lets others have their turn", async () => {
    const index = createKvIndex({ random: () => 0.3 });
    const holder = index.attach();
    const block = (id: number): object => ({ block_hash: id, tokens_hash: id, mm_extra_info: null });
    const event = (worker: number, changes: object, data: unknown): object => ({
      worker_id: worker,
      storage_tier: "device",
      ...changes,
      event: { event_id: 1, data, dp_rank: 0 },
    });
    const stored = (...ids: readonly number[]): object => ({ stored: { parent_hash: null, blocks: ids.map(block) } });
    const events = [
      event(1, {}, "cleared"),
      event(1, {}, { removed: { block_hashes: [1] } }),
      event(1, { residency_domain: "owner" }, stored(1)),
      event(1, { storage_tier: "tape" }, stored(2)),
      event(2, {}, stored(3)),
      event(1, {}, stored(4, 5)),
      ...Array.from({ length: 600 }, (_, i) =>
        event(1, {}, stored(...Array.from({ length: 16 }, (_, j) => 100 + 16 * i + j))),
      ),
    ];
    const other = { block_size: 8, events: [event(1, {}, stored(7))] };
    const dump = { 'an "ö" model:default': { block_size: 4, events }, "m:default": other };
    let turns = 0;
    const beat = setInterval(() => (turns += 1), 0);
    const taken = await takeDump(Buffer.from(JSON.stringify(dump)), ({ modelName, blockSize }) =>
      modelName === 'an "ö" model' && blockSize === 4
        ? { index, holderOf: ({ workerId }) => (workerId === 1n ? holder : undefined) }
        : undefined,
    );
    clearInterval(beat);
    expect(taken).toBe(2 + 600 * 16);
    expect(index.heldBlocks).toBe(taken);
    expect(turns).toBeGreaterThan(0);
  });
});
