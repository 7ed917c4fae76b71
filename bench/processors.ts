/** Which processors a measurement may use: the picker gets one to itself, the client another where there is one. */
import { readFileSync } from "node:fs";

/** The numbers of a Linux processor list such as "0-3,8". */
export function parseProcessors(list: string): number[] {
  return list
    .trim()
    .split(",")
    .flatMap((range) => {
      const [first = Number.NaN, last = first] = range.split("-").map(Number);
      return Array.from({ length: last - first + 1 }, (_, i) => first + i);
    });
}

const allowed = /^Cpus_allowed_list:\s+(\S+)$/m.exec(readFileSync("/proc/self/status", "latin1"))?.[1] ?? "0";
const [first = 0, second = first] = parseProcessors(allowed);

export const pickerCpu = String(first);
export const clientCpu = String(second);
export const anyCpu = allowed;
