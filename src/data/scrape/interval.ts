/** Durations of plugin parameters in Go's notation. */

const unitsMs: Readonly<Record<string, number>> = {
  ns: 1e-6,
  us: 1e-3,
  µs: 1e-3,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
};

/** Milliseconds of e.g. "1m30s" or "500ms"; 0 for "" and "0"; undefined when the text is no duration or negative. */
export function parseIntervalMs(text: string): number | undefined {
  if (text === "" || text === "0") return 0;
  if (!/^(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, amount, unit] of text.matchAll(/([0-9.]+)([a-zµ]+)/g)) {
    total += Number(amount) * (unitsMs[unit ?? ""] ?? Number.NaN);
  }
  return total;
}
