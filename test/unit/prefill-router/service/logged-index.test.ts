/** What an engine takes back while a peer's blocks are taken over stays away: the peer's word is older. */
import { describe, expect, it } from "@jest/globals";
import { createKvIndex } from "../../../../src/data/prefix-index/exact-kv-index.ts";
import { LoggedIndex } from "../../../../src/prefill-router/service/logged-index.ts";

const device = 0;
/** As many blocks as ids, each with itself for its tokens. */
const words = (...ids: readonly number[]): Uint32Array => Uint32Array.from(ids.flatMap((id) => [id, 0]));

function made() {
  const index = new LoggedIndex(createKvIndex({ random: () => 0.5 }), () => 0.5);
  const holder = index.attach();
  const store = (to: Pick<LoggedIndex, "stored">, ids: readonly number[], parent?: number) =>
    to.stored(holder, device, parent ?? 0, 0, parent !== undefined, words(...ids), words(...ids), 0, ids.length);
  const logged = () => index.logsOf(holder)[device]?.size ?? 0;
  return { index, holder, store, logged };
}

describe("a takeover", () => {
  it("adds what the peer tells, but for what was removed meanwhile and what hangs from it", () => {
    const { index, holder, store, logged } = made();
    const takeover = index.beginTakeover();
    index.removed(holder, device, words(9, 3), 0, 2);
    expect(store(takeover.index, [1, 2, 3, 4])).toBe("applied");
    expect([index.heldBlocks, logged()]).toEqual([2, 2]);
    expect(store(takeover.index, [9, 10])).toBe("invalid");
    takeover.end();
    expect([index.heldBlocks, logged()]).toEqual([2, 2]);
  });

  it("adds nothing of an engine that has begun anew, and all of the others", () => {
    const { index, holder, store } = made();
    const takeover = index.beginTakeover();
    index.cleared(holder);
    expect(store(takeover.index, [1, 2])).toBe("invalid");
    const other = index.attach();
    expect(takeover.index.stored(other, device, 0, 0, false, words(1, 2), words(1, 2), 0, 2)).toBe("applied");
    // What the engine says after that counts.
    expect(store(index, [5])).toBe("applied");
    expect(index.heldBlocks).toBe(3);
    takeover.end();
  });

  it("forgets what was taken back before it", () => {
    const { index, holder, store } = made();
    store(index, [1]);
    index.removed(holder, device, words(1), 0, 1);
    const takeover = index.beginTakeover();
    expect(store(takeover.index, [1])).toBe("applied");
    takeover.end();
    expect(index.heldBlocks).toBe(1);
  });
});
