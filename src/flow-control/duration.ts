/** Durations in plugin parameters, in Go's syntax ("200ms", "1m30s"). */

const unitMs: ReadonlyMap<string, number> = new Map([
  ["us", 0.001],
  ["ms", 1],
  ["s", 1000],
  ["m", 60_000],
  ["h", 3_600_000],
]);

/** Milliseconds; undefined when the text is no duration. */
export function parseDurationMs(text: string): number | undefined {
  if (!/^(?:\d+(?:\.\d+)?(?:us|ms|s|m|h))+$/.test(text)) return undefined;
  let totalMs = 0;
  for (const [, amount, unit] of text.matchAll(/(\d+(?:\.\d+)?)(us|ms|s|m|h)/g)) {
    totalMs += Number(amount) * (unitMs.get(unit ?? "") ?? Number.NaN);
  }
  return totalMs;
}
