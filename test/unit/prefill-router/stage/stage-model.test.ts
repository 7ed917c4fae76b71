/** The stage against a model of maps and sets that counts everything anew, over random lives of workers and bookings. */
import { describe, expect, it } from "@jest/globals";
import { createWorkerStage } from "../../../../src/prefill-router/stage/worker-stage.ts";
import type { StageBooking } from "../../../../src/prefill-router/stage.ts";
import fc from "../../../properties.ts";
import { chain, matches, plainSettings, request, unmodeled, worker } from "./fleet.ts";

const blockSize = 8;

interface ModelBooking {
  readonly rank: string;
  readonly blocks: readonly string[];
  privateWeights: number[];
  prefillTokens: number;
  booking: StageBooking;
}

/** What each rank has in use: block → fraction, and how often. */
class Model {
  readonly ranks = new Map<string, Map<string, { uses: number; fraction: number }>>();
  readonly bookings = new Map<string, ModelBooking>();

  add(id: string, booked: ModelBooking): void {
    this.bookings.set(id, booked);
    const held = this.ranks.get(booked.rank);
    for (const block of booked.blocks) {
      const entry = held?.get(block);
      if (entry === undefined) held?.set(block, { uses: 1, fraction: 1 });
      else entry.uses++;
    }
  }

  end(id: string): void {
    const booked = this.bookings.get(id);
    this.bookings.delete(id);
    const held = this.ranks.get(booked?.rank ?? "");
    for (const block of booked?.blocks ?? []) {
      const entry = held?.get(block);
      if (entry !== undefined && --entry.uses === 0) held?.delete(block);
    }
  }

  output(id: string, decay: number | undefined): void {
    const booked = this.bookings.get(id);
    if (booked === undefined) return;
    booked.privateWeights.push(1);
    if (decay === undefined) return;
    booked.privateWeights = booked.privateWeights.map(() => decay);
    const held = this.ranks.get(booked.rank);
    for (const block of booked.blocks.toReversed()) {
      const entry = held?.get(block);
      if (entry === undefined || entry.uses > 1) return;
      entry.fraction = decay;
    }
  }

  load(rank: string): { tokens: number; blocks: number; requests: number } {
    const own = [...this.bookings.values()].filter((booked) => booked.rank === rank);
    let blocks = 0;
    for (const { fraction } of this.ranks.get(rank)?.values() ?? []) blocks += fraction;
    for (const { privateWeights } of own) for (const weight of privateWeights) blocks += weight;
    const tokens = own.reduce((sum, { prefillTokens }) => sum + prefillTokens, 0);
    return { tokens, blocks: Math.round(blocks), requests: own.length };
  }

  shared(rank: string, blocks: readonly string[]): number {
    const held = this.ranks.get(rank);
    const depth = blocks.findIndex((block) => held?.has(block) !== true);
    return depth < 0 ? blocks.length : depth;
  }
}

function names(hashes: Uint32Array): string[] {
  return Array.from({ length: hashes.length / 2 }, (_, block) => `${hashes[block * 2]}/${hashes[block * 2 + 1]}`);
}

/** Prompts from few seeds, so that prefixes meet. */
const prompt = fc.array(fc.integer({ min: 0, max: 2 }), { maxLength: 12 });
// Eighths add up exactly, so that rounding to whole blocks is the same in any order.
const decay = fc.option(
  fc.integer({ min: 0, max: 8 }).map((eighths) => eighths / 8),
  { nil: undefined },
);
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("book" as const),
      prompt,
      reuse: fc.integer({ min: 0, max: 4 }),
      remote: fc.boolean(),
      pick: fc.nat(),
    }),
  },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("free" as const), pick: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("complete" as const), pick: fc.nat() }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("output" as const), pick: fc.nat(), decay }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("worker" as const),
      id: fc.integer({ min: 0, max: 39 }),
      ranks: fc.integer({ min: 0, max: 2 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("ask" as const),
      prompt,
      device: fc.array(fc.integer({ min: 0, max: 12 }), { minLength: 4, maxLength: 4 }),
    }),
  },
);

describe("a stage", () => {
  it("counts, costs and chooses as a model that counts everything anew", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const stage = createWorkerStage({ stage: "decode", blockSize });
        const model = new Model();
        const upsert = (id: number, ranks: number): void => {
          for (let dpRank = 0; dpRank < 3; dpRank++) {
            const rank = `${id}/${dpRank}`;
            if (dpRank < ranks) {
              if (!model.ranks.has(rank)) model.ranks.set(rank, new Map());
              continue;
            }
            for (const [booking, { rank: of }] of model.bookings) if (of === rank) model.end(booking);
            model.ranks.delete(rank);
          }
          if (ranks === 0) {
            stage.removeWorker(BigInt(id));
            return;
          }
          stage.upsertWorker(worker(id, { dataParallelSize: ranks }));
          for (let dpRank = 0; dpRank < ranks; dpRank++)
            stage.setHolder({ workerId: BigInt(id), dpRank }, (id + dpRank) % 4);
        };
        for (let id = 0; id < 30; id++) upsert(id, 1);
        let next = 0;
        for (const each of steps) {
          const ids = [...model.bookings.keys()];
          const id = ids.length === 0 ? "" : (ids[("pick" in each ? each.pick : 0) % ids.length] ?? "");
          const booked = model.bookings.get(id);
          switch (each.kind) {
            case "book": {
              const sequenceHashes = chain(...each.prompt);
              const ranks = [...model.ranks.keys()];
              const rank = ranks[each.pick % ranks.length];
              if (rank === undefined) break;
              const [workerId, dpRank] = rank.split("/").map(Number);
              const on = { workerId: BigInt(workerId ?? 0), dpRank: dpRank ?? 0 };
              const name = `b${next++}`;
              const isShared = each.remote || each.reuse > 0;
              const isl = each.prompt.length * blockSize + 3;
              let booking: StageBooking;
              if (each.remote) {
                booking = stage.bookRemote(name, on, sequenceHashes, unmodeled(isl), undefined, 0);
              } else {
                const settings = { ...plainSettings, assumeKvReuse: isShared };
                const of = request({ sequenceHashes, isl, settings, pinned: on });
                const selection = stage.select(of, 0, Math.random);
                if (selection.kind === "none") throw new Error(selection.message);
                booking = stage.book(name, selection, of, 0);
              }
              model.add(name, {
                rank,
                blocks: isShared ? names(sequenceHashes) : [],
                privateWeights: isShared ? [] : each.prompt.map(() => 1),
                prefillTokens: isl,
                booking,
              });
              break;
            }
            case "free":
              booked?.booking.free();
              booked?.booking.free();
              model.end(id);
              break;
            case "complete":
              booked?.booking.prefillCompleted();
              if (booked !== undefined) booked.prefillTokens = 0;
              break;
            case "output":
              booked?.booking.outputBlock(each.decay);
              model.output(id, each.decay);
              break;
            case "worker":
              upsert(each.id, each.ranks);
              break;
            case "ask": {
              const sequenceHashes = chain(...each.prompt);
              const blocks = names(sequenceHashes);
              const isl = blocks.length * blockSize + 1;
              const of = request({ sequenceHashes, isl, matches: matches(...each.device) });
              const costs = stage.explain(of, 0);
              const expected = [...model.ranks.keys()].map((rank) => {
                const [workerId, dpRank] = rank.split("/").map(Number);
                const load = model.load(rank);
                const device = each.device[((workerId ?? 0) + (dpRank ?? 0)) % 4] ?? 0;
                const cached = device * blockSize;
                const prefill = Math.max(0, (load.tokens + Math.max(0, isl - cached) + cached) / blockSize - device);
                return [rank, prefill + load.blocks + blocks.length - model.shared(rank, blocks)];
              });
              const ours = costs.map(({ workerId, dpRank, cost }) => [`${workerId}/${dpRank}`, cost]);
              const byName = (a: readonly unknown[], b: readonly unknown[]) => (String(a[0]) < String(b[0]) ? -1 : 1);
              expect(ours.toSorted(byName)).toEqual(expected.toSorted(byName));
              const selection = stage.select(of, 0, Math.random);
              const least = Math.min(...expected.map(([, cost]) => Number(cost)));
              if (expected.length === 0) expect(selection.kind).toBe("none");
              else expect(selection).toMatchObject({ kind: "selected", cost: least });
              break;
            }
            default: {
              const never: never = each;
              throw new Error(String(never));
            }
          }
        }
        for (const { workerId, dpRank, ...load } of stage.loads()) {
          const { tokens, blocks, requests } = model.load(`${workerId}/${dpRank}`);
          expect(load).toEqual({ activePrefillTokens: tokens, activeDecodeBlocks: blocks, activeRequests: requests });
        }
        expect(stage.activeBookings).toBe(model.bookings.size);
        for (const { booking } of model.bookings.values()) booking.free();
        for (const load of stage.loads()) {
          expect([load.activePrefillTokens, load.activeDecodeBlocks, load.activeRequests]).toEqual([0, 0, 0]);
        }
      }),
      { numRuns: 150 },
    );
  });
});
