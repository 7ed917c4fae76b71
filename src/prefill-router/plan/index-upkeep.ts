/** Gives an index its turns for what it puts off: blocks of ranks that left and of entries that expired. Slices, with room for requests between. */
import type { RouterIndex, Timers } from "./contracts.ts";

/** How often an index without work is asked, and the room between two slices of one that has some. */
const restMs = 1_000;
const gapMs = 2;

/** Starts at once; returns what ends it. */
export function keepUp(index: RouterIndex | undefined, now: () => number, timers: Timers): () => void {
  if (index?.upkeep === undefined) return () => {};
  let isClosed = false;
  const wait = (ms: number): (() => void) =>
    timers.after(ms, () => {
      if (isClosed) return;
      cancel = wait(index.upkeep?.(now()) === true ? gapMs : restMs);
    });
  let cancel = wait(restMs);
  return () => {
    isClosed = true;
    cancel();
  };
}
