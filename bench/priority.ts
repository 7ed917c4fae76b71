/** The priority of this process, of those it starts and, where Linux shares processors out by session, of its session. */
import { writeFileSync } from "node:fs";
import { setPriority } from "node:os";

export function setNice(nice: number): void {
  setPriority(nice);
  try {
    writeFileSync("/proc/self/autogroup", String(nice));
  } catch {
    // Sessions are no groups of the scheduler here: the nice value alone decides.
  }
}
