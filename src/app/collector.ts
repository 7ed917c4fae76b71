/** Settings of V8's garbage collector that a process of ours runs with. */
import { getHeapStatistics, setFlagsFromString } from "node:v8";

/**
 * By default V8 collects the whole heap for every 64 MB of buffers allocated, however short their life: with long bodies dozens of times
 * a second, a third of what they cost. With the first flag buffers count towards the heap's own limit, which grows with what survives.
 *
 * At a low rate V8 sets that limit a few megabytes above what survives, and 200 bodies of 64 KiB a second pass it three times a second:
 * a pause of 10 to 20 ms each time, which is the 99th percentile of what the gateway waits. With the second flag the limit is five times what survives.
 */
export function tuneCollector(): void {
  setFlagsFromString("--external-memory-accounted-in-global-limit");
  setFlagsFromString("--heap-growing-percent=400");
}

const MiB = 2 ** 20;
/** What may be added to what survives before V8 collects: with up to a quarter of it surviving, the five times above. */
const roomBytes = 80 * MiB;
const lookMs = 500;

/**
 * Five times what survives is little in a small process and a great deal in one that knows 10,000 endpoints. While it runs, the growth is held to
 * a size in place of a share: as little as `roomBytes` is of what survived last, or of what there is now where that is much, since V8 sets the next limit
 * before anybody can say what survived.
 */
export function boundHeapGrowth(): { close(): Promise<void> } {
  let lastUsed = 0;
  let survived = 0;
  let percent = 400;
  const look = setInterval(() => {
    const used = getHeapStatistics().used_heap_size;
    if (used < lastUsed * 0.8) survived = used;
    lastUsed = used;
    const wanted = growthPercent(survived, used);
    if (wanted === percent) return;
    percent = wanted;
    setFlagsFromString(`--heap-growing-percent=${percent}`);
  }, lookMs);
  look.unref();
  return {
    async close() {
      clearInterval(look);
    },
  };
}

/** In steps of ten, so that it is not set anew at every look. */
export function growthPercent(survivedBytes: number, usedBytes: number): number {
  const expected = Math.max(survivedBytes, usedBytes > roomBytes * 1.25 ? usedBytes : 0, 1);
  return Math.min(400, Math.max(20, Math.floor((10 * roomBytes) / expected) * 10));
}
