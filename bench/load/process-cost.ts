/** What a process has cost so far, all its threads together, read from /proc. Linux only, as the benchmark is. */
import { readdirSync, readFileSync } from "node:fs";

const clockTickMicros = 10_000;

function threadMicros(pid: number, thread: string): number {
  try {
    return Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "latin1").split(" ")[0]) / 1000;
  } catch {
    // A thread that ended in between, or a kernel without schedstat: told apart below by the sum.
    return 0;
  }
}

/** CPU microseconds of every thread that runs now: nanosecond accounting where the kernel has it, else 10 ms ticks. */
export function cpuMicros(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`);
  const precise = threads.reduce((sum, thread) => sum + threadMicros(pid, thread), 0);
  if (precise > 0) return precise;
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  // After the command's name, which may hold anything, utime and stime are the 12th and 13th fields.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * clockTickMicros;
}

export function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "latin1");
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? Number.NaN) * 1024;
}
