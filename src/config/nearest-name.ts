/** The name someone probably meant: for flags, plugin types and references. Nothing is suggested that is not close. */

/** ` (did you mean x?)`, or "" when no candidate is within a third of the name's length. */
export function didYouMean(name: string, candidates: Iterable<string>, prefix = ""): string {
  let nearest: string | undefined;
  let least = Math.min(4, Math.max(1, Math.floor(name.length / 3))) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(name, candidate);
    if (distance < least) {
      least = distance;
      nearest = candidate;
    }
  }
  return nearest === undefined ? "" : ` (did you mean ${prefix}${nearest}?)`;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(
        (next[j - 1] ?? 0) + 1,
        (row[j] ?? 0) + 1,
        (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
