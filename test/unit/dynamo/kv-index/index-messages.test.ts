/** What is asked of a served index and what it answers, in both codecs: as Dynamo writes it, as we write it, and as nobody should. */
import { describe, expect, it } from "@jest/globals";
import { MalformedMessage, type PayloadCodec } from "../../../../src/dynamo/encoding/value-reader.ts";
import { maxBlocks } from "../../../../src/dynamo/kv-index/block-hashes.ts";
import { encodeIndexAnswer, type RankOverlap, readIndexAnswer } from "../../../../src/dynamo/kv-index/index-answer.ts";
import { encodeIndexQuestion, readIndexQuestion } from "../../../../src/dynamo/kv-index/index-question.ts";
import {
  encodeRecordAnswer,
  encodeRoutingRecord,
  readRecordAnswer,
  readRoutingRecord,
} from "../../../../src/dynamo/kv-index/routing-record.ts";
import { createTokenHasher } from "../../../../src/tokens/block-hash.ts";
import fc from "../../../properties.ts";
import { wires } from "../wires.ts";

const codecs: readonly PayloadCodec[] = ["json", "msgpack"];
const u32 = fc.nat(0xffff_ffff);
const hashes = fc.array(fc.tuple(u32, u32), { maxLength: 300 }).map((pairs) => Uint32Array.from(pairs.flat()));
const count = fc.nat(1000);
const overlap: fc.Arbitrary<RankOverlap> = fc.record({
  workerId: fc.bigInt(0n, 0xffff_ffff_ffff_ffffn),
  dpRank: fc.nat(64),
  device: count,
  host: count,
  disk: count,
});
const overlaps = fc.uniqueArray(overlap, {
  selector: ({ workerId, dpRank }) => `${workerId}/${dpRank}`,
  maxLength: 50,
});

const holdsSomething = ({ device, host, disk }: RankOverlap): boolean => device + host + disk > 0;
const byRank = (a: RankOverlap, b: RankOverlap): number =>
  a.workerId === b.workerId ? a.dpRank - b.dpRank : a.workerId < b.workerId ? -1 : 1;

describe.each(codecs)("in %s", (codec) => {
  const { question, answer, record, recorded, error } = wires.servedIndex[codec];
  const bytes = (hex: string): Buffer => Buffer.from(hex, "hex");
  const tokens = Uint32Array.from({ length: 51 }, (_, index) => 1 + ((index * 7) % 200));
  const prompt = createTokenHasher().hash(tokens, { blockSize: 16 });

  it("what Dynamo asks, answers and writes is read", () => {
    const { blockHashes, sequenceHashes } = prompt;
    expect(readIndexQuestion(bytes(question), codec)).toEqual({ model: "tiny", blockHashes, isDeviceOnly: false });
    expect(readRoutingRecord(bytes(record), codec)).toMatchObject({
      model: "tiny",
      dpRank: 0,
      blockHashes,
      sequenceHashes,
    });
    const read = readIndexAnswer(bytes(answer), codec);
    if (read.kind === "error") throw new Error(read.message);
    expect(read.overlaps[0]).toEqual({ workerId: expect.any(BigInt), dpRank: 0, device: 3, host: 0, disk: 0 });
    expect(readRecordAnswer(bytes(recorded), codec)).toEqual({ kind: "recorded" });
    const refusal = { kind: "error", message: "served indexer model other is not registered" };
    expect(readIndexAnswer(bytes(error), codec)).toEqual(refusal);
    expect(readRecordAnswer(bytes(error), codec)).toEqual(refusal);
  });

  it("what we ask, answer and write is what Dynamo does, byte for byte", () => {
    expect(encodeIndexQuestion(readIndexQuestion(bytes(question), codec), codec)).toEqual(bytes(question));
    expect(encodeRoutingRecord(readRoutingRecord(bytes(record), codec), codec)).toEqual(bytes(record));
    expect(encodeIndexAnswer(readIndexAnswer(bytes(answer), codec), codec)).toEqual(bytes(answer));
    expect(encodeRecordAnswer({ kind: "recorded" }, codec)).toEqual(bytes(recorded));
    expect(encodeRecordAnswer(readRecordAnswer(bytes(error), codec), codec)).toEqual(bytes(error));
  });

  it("every message comes back as it was", () => {
    fc.assert(
      fc.property(fc.string(), hashes, fc.boolean(), (model, blockHashes, isDeviceOnly) => {
        const asked = { model, blockHashes, isDeviceOnly };
        expect(readIndexQuestion(encodeIndexQuestion(asked, codec), codec)).toEqual(asked);
      }),
    );
    fc.assert(
      fc.property(fc.string(), overlap, hashes, (model, { workerId, dpRank }, blockHashes) => {
        const written = { model, workerId, dpRank, blockHashes, sequenceHashes: blockHashes };
        expect(readRoutingRecord(encodeRoutingRecord(written, codec), codec)).toEqual(written);
      }),
    );
    fc.assert(
      fc.property(overlaps, (told) => {
        const read = readIndexAnswer(encodeIndexAnswer({ kind: "overlaps", overlaps: told }, codec), codec);
        if (read.kind === "error") throw new Error(read.message);
        expect(read.overlaps.toSorted(byRank)).toEqual(told.filter(holdsSomething).toSorted(byRank));
      }),
    );
  });

  it("a part of a message, or one with other bytes in it, is malformed or another message, and nothing else", () => {
    const messages = [
      [bytes(question), readIndexQuestion],
      [bytes(answer), readIndexAnswer],
      [bytes(record), readRoutingRecord],
      [bytes(error), readRecordAnswer],
    ] as const;
    fc.assert(
      fc.property(
        fc.constantFrom(...messages),
        fc.nat(),
        fc.uint8Array({ maxLength: 4 }),
        ([whole, read], at, noise) => {
          const changed = Buffer.from(whole.subarray(0, at % (whole.length + 1)));
          changed.set(noise.subarray(0, changed.length), Math.max(0, changed.length - noise.length));
          try {
            read(changed, codec);
          } catch (error_) {
            expect(error_).toBeInstanceOf(MalformedMessage);
          }
        },
      ),
    );
  });
});

describe("an answer", () => {
  const rank = { worker_id: 7, dp_rank: 0 };
  const answerOf = (device: unknown, lower: unknown) =>
    readIndexAnswer(
      Buffer.from(JSON.stringify({ TieredScores: { device: { scores: device }, lower_tier: lower } })),
      "json",
    );

  it("counts disk and external memory as one, and of what comes twice the last", () => {
    const read = answerOf(
      [
        [rank, 1],
        [rank, 2],
      ],
      [
        ["host_pinned", { hits: [[rank, 9]] }],
        ["host_pinned", { hits: [[rank, 3]] }],
        ["disk", { hits: [[rank, 4]] }],
        ["external", { hits: [[rank, 5]] }],
        ["tape", { hits: [[rank, 6]] }],
      ],
    );
    expect(read).toEqual({
      kind: "overlaps",
      overlaps: [{ workerId: 7n, dpRank: 0, device: 2, host: 3, disk: 9 }],
    });
  });

  it.each([
    ["without a rank", [[3]], []],
    ["of a rank without blocks", [[rank]], []],
    ["of three parts", [[rank, 1, 2]], []],
    ["of no rank's", [[{ worker_id: 7 }, 1]], []],
    ["below nothing", [[rank, -1]], []],
    ["of a tier without hits", [], [["disk"]]],
    ["of more ranks than there can be", Array.from({ length: 65_537 }, () => [rank, 1]), []],
  ])("is malformed with an entry %s", (_what, device, lower) => {
    expect(() => answerOf(device, lower)).toThrow(MalformedMessage);
  });

  it("of more blocks than a prompt has is never asked for", () => {
    const blockHashes = new Uint32Array(2 * maxBlocks + 2);
    const asked = encodeIndexQuestion({ model: "m", blockHashes, isDeviceOnly: false }, "msgpack");
    expect(() => readIndexQuestion(asked, "msgpack")).toThrow(MalformedMessage);
  });
});
