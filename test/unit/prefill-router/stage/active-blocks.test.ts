import { describe, expect, it } from "@jest/globals";
import { createAddressSecrets } from "../../../../src/data/prefix-index/block-address.ts";
import { ActiveBlocks } from "../../../../src/prefill-router/stage/active-blocks.ts";
import { chain } from "./fleet.ts";

function numbered(count: number, first: number): Uint32Array {
  return chain(...Array.from({ length: count }, (_, block) => first + block));
}

describe("active blocks", () => {
  it("tell how deep each of hundreds of ranks shares a chain", () => {
    const blocks = new ActiveBlocks(createAddressSecrets(Math.random));
    const hashes = numbered(300, 0);
    const held: Int32Array[] = [];
    for (let slot = 0; slot < 260; slot++) {
      blocks.reserveSlots(slot + 1);
      const nodes = new Int32Array(slot);
      expect(blocks.acquire(slot, hashes, nodes)).toBe(slot);
      held.push(nodes);
    }
    const depths = new Int32Array(512);
    blocks.match(hashes, 300, depths);
    expect([...depths.subarray(0, 260)]).toEqual(Array.from({ length: 260 }, (_, slot) => slot));
    blocks.match(hashes, 100, depths);
    expect([depths[50], depths[99], depths[100], depths[259]]).toEqual([50, 99, 100, 100]);
    expect(blocks.blocks).toBe(259);
    for (const [slot, nodes] of held.entries()) expect(blocks.release(slot, nodes)).toBe(slot);
    expect(blocks.blocks).toBe(0);
    blocks.match(hashes, 300, depths);
    expect(depths.some((depth) => depth !== 0)).toBe(false);
  });

  it("find every chain again while the table grows, and the hash of all zeroes too", () => {
    const blocks = new ActiveBlocks(createAddressSecrets(Math.random));
    const chains = [new Uint32Array(2), ...Array.from({ length: 200 }, (_, index) => numbered(30, index * 1000))];
    const held = chains.map((hashes) => new Int32Array(hashes.length / 2));
    const depths = new Int32Array(32);
    for (const [index, hashes] of chains.entries()) blocks.acquire(index % 8, hashes, held[index] ?? new Int32Array(0));
    for (const [index, hashes] of chains.entries()) {
      blocks.match(hashes, hashes.length / 2, depths);
      expect(depths[index % 8]).toBe(hashes.length / 2);
    }
    const full = blocks.sizeBytes;
    for (const [index, nodes] of held.entries()) blocks.release(index % 8, nodes);
    expect(blocks.sizeBytes).toBeLessThan(full / 8);
  });

  it("count a chain that names a block twice as one that has it", () => {
    const blocks = new ActiveBlocks(createAddressSecrets(Math.random));
    const nodes = new Int32Array(2);
    expect(blocks.acquire(0, Uint32Array.of(1, 2, 1, 2), nodes)).toBe(1);
    expect(blocks.release(0, nodes)).toBe(1);
    expect(blocks.blocks).toBe(0);
  });
});
