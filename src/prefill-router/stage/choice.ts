/**
 * Chooses among costs. Temperature 0: the least one; of the equally cheap, which Dynamo draws lots among, the one that had the least to compute of
 * late, so that no cache must forget more than the others; lots (a reservoir of one) where that is equal too. Above 0: softmax over costs divided
 * by their range, so a temperature means the same at any load.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep

/** What the equally cheap are told apart by: less of it is better. */
export interface TieBreak {
  readonly values: Float64Array;
  /** Where in `values` each cost's is. */
  readonly slots: Int32Array;
}

/** Index of the choice among the first `count` costs, which are finite; count ≥ 1. `random` is uniform in [0, 1). */
export function chooseCost(
  costs: Float64Array,
  count: number,
  temperature: number,
  ties: TieBreak,
  random: () => number,
  scratch: Float64Array,
): number {
  return temperature === 0
    ? chooseLeast(costs, count, ties, random)
    : sampleSoftmax(costs, count, temperature, random(), scratch);
}

function chooseLeast(costs: Float64Array, count: number, { values, slots }: TieBreak, random: () => number): number {
  let best = 0;
  let least = costs[0]!;
  let ties = 1;
  for (let index = 1; index < count; index++) {
    const cost = costs[index]!;
    if (cost > least) continue;
    const value = values[slots[index]!]!;
    const bestValue = values[slots[best]!]!;
    if (cost < least || value < bestValue) {
      best = index;
      least = cost;
      ties = 1;
    } else if (value === bestValue) {
      ties++;
      if (Math.floor(random() * ties) === 0) best = index;
    }
  }
  return best;
}

function sampleSoftmax(
  costs: Float64Array,
  count: number,
  temperature: number,
  sample: number,
  weights: Float64Array,
): number {
  let least = Number.POSITIVE_INFINITY;
  let most = Number.NEGATIVE_INFINITY;
  for (let index = 0; index < count; index++) {
    least = Math.min(least, costs[index]!);
    most = Math.max(most, costs[index]!);
  }
  if (least === most) return Math.min(count - 1, Math.floor(sample * count));
  const range = most - least;
  // Two huge costs can be further apart than a double reaches; dividing first keeps the range finite.
  const magnitude = Number.isFinite(range) ? 1 : Math.max(Math.abs(least), Math.abs(most));
  const scale = -1 / ((most / magnitude - least / magnitude) * temperature);
  const highest = (least / magnitude) * scale;
  let sum = 0;
  for (let index = 0; index < count; index++) {
    const weight = Math.exp((costs[index]! / magnitude) * scale - highest);
    weights[index] = weight;
    sum += weight;
  }
  let cumulative = 0;
  for (let index = 0; index < count; index++) {
    cumulative += weights[index]! / sum;
    if (sample <= cumulative) return index;
  }
  return count - 1;
}
