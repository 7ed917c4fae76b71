/**
 * Picks endpoints at random in proportion to their totals: weighted reservoir sampling without replacement, key U^(1/w)
 * (Efraimidis and Spirakis, 2006, algorithm A-Res). Kept as ln U / w, the same order without the underflow that small weights cause.
 */
import type { Cycle, Endpoints, Picker, PluginDefinition } from "../../contracts.ts";
import { anyOne, at, largest, type PickerParameters, pickerParameters, shuffledPositions } from "./random-order.ts";

class WeightedRandomPicker implements Picker {
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  pick(cycle: Cycle, endpoints: Endpoints, totals: Float64Array): Endpoints {
    let anyWeight = false;
    const keys = new Float64Array(endpoints.length);
    for (let i = 0; i < keys.length; i++) {
      const weight = totals[i] ?? 0;
      if (weight > 0) {
        anyWeight = true;
        // 1 − random() is in (0, 1]: the logarithm is finite.
        keys[i] = Math.log(1 - cycle.random()) / weight;
      } else {
        // The lowest finite key: weightless endpoints come last, as fallbacks only.
        keys[i] = -Number.MAX_VALUE;
      }
    }
    if (anyWeight) return largest(cycle, endpoints, keys, this.#most);
    return this.#most === 1
      ? anyOne(cycle, endpoints)
      : at(endpoints, shuffledPositions(cycle, endpoints.length), this.#most);
  }
}

export const weightedRandomPicker: PluginDefinition<PickerParameters, Picker> = {
  type: "weighted-random-picker",
  kinds: ["picker"],
  summary:
    "Picks an endpoint at random with a probability proportional to its total score; uniformly when every total is zero.",
  parameters: pickerParameters,
  create: ({ maxNumOfEndpoints }) => new WeightedRandomPicker(maxNumOfEndpoints),
};
