/** Settings of V8's garbage collector that a process of ours runs with. */
import { setFlagsFromString } from "node:v8";

/**
 * By default V8 collects the whole heap for every 64 MB of buffers allocated, however short their life: with long bodies dozens of times
 * a second, a third of what they cost. With this flag buffers count towards the heap's own limit, which grows with what survives.
 */
export function tuneCollector(): void {
  setFlagsFromString("--external-memory-accounted-in-global-limit");
}
