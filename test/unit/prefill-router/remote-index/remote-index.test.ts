/** A router that keeps no index: plans by what another process said, by what was routed a moment ago, and by load when nothing was said. */
import { describe, expect, it } from "@jest/globals";
import type { RankOverlap } from "../../../../src/dynamo/kv-index/index-answer.ts";
import type { WorkerRank } from "../../../../src/prefill-router/contracts.ts";
import { createRemoteIndex } from "../../../../src/prefill-router/remote-index/remote-index.ts";

const chain = Uint32Array.of(1, 0, 2, 0, 3, 0, 4, 0);
const rank = (workerId: number, dpRank = 0): WorkerRank => ({ workerId: BigInt(workerId), dpRank });
const overlap = (workerId: number, device: number, host = 0, disk = 0, dpRank = 0): RankOverlap => ({
  ...rank(workerId, dpRank),
  device,
  host,
  disk,
});

function start(predictedTtlMs?: number) {
  const recorded: WorkerRank[] = [];
  const index = createRemoteIndex({ predictedTtlMs, random: () => 0.5, record: (to) => recorded.push(to) });
  const match = (overlaps: readonly RankOverlap[] | undefined, nowMs = 0) => {
    const matches = index.createMatches();
    matches.device.fill(9);
    index.match(chain, matches, nowMs, overlaps);
    return (holder: number) => [matches.device[holder], matches.host[holder], matches.disk[holder]];
  };
  return { index, recorded, match };
}

describe("a remote index", () => {
  it("shows each rank what was said of it, no more than the prompt has", () => {
    const { index, match } = start();
    const [first, second, third] = [rank(1), rank(1, 1), rank(2)].map((of) => index.ownHolders.attach(undefined, of));
    const at = match([overlap(1, 2, 1, 1), overlap(1, 3, 8, 8, 1), overlap(2, 1_000_000, 5, 5), overlap(3, 4)]);
    expect(at(first ?? -1)).toEqual([2, 1, 1]);
    expect(at(second ?? -1)).toEqual([3, 1, 0]);
    expect(at(third ?? -1)).toEqual([4, 0, 0]);
  });

  it("knows nothing where nothing was said, and nothing of the one who had a number before", () => {
    const { index, match } = start();
    const holder = index.ownHolders.attach(undefined, rank(1));
    expect(match(undefined)(holder)).toEqual([0, 0, 0]);
    index.ownHolders.detach(holder);
    index.ownHolders.detach(holder);
    expect(index.ownHolders.attach(undefined, rank(2))).toBe(holder);
    expect(match([overlap(1, 4)])(holder)).toEqual([0, 0, 0]);
    expect(match([overlap(2, 4)])(holder)).toEqual([4, 0, 0]);
  });

  it("lays over what it predicts, for as long as it does, on the device alone", () => {
    const { index, match } = start(5000);
    const [first, second] = [rank(1), rank(2)].map((of) => index.ownHolders.attach(undefined, of));
    index.routed?.(first ?? -1, chain.subarray(0, 6), 0, chain.subarray(0, 6));
    const said = [overlap(1, 1, 2), overlap(2, 2)];
    expect([match(said, 1000)(first ?? -1), match(said, 1000)(second ?? -1)]).toEqual([
      [3, 2, 0],
      [2, 0, 0],
    ]);
    expect(match(undefined, 1000)(first ?? -1)).toEqual([3, 0, 0]);
    expect(match(said, 6000)(first ?? -1)).toEqual([1, 2, 0]);
    expect(index.upkeep?.(7000)).toBe(false);
  });

  it("passes decisions on with the rank that its number stands for", () => {
    const { index, recorded } = start();
    const holder = index.ownHolders.attach(undefined, rank(7, 3));
    index.routed?.(holder, chain, 0, chain);
    index.routed?.(holder + 1, chain, 0, chain);
    expect(recorded).toEqual([rank(7, 3)]);
  });
});
