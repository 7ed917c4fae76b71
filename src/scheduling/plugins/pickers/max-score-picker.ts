/** Picks the endpoints with the highest totals; equal totals are decided at random, every one of them equally likely. */
import type { Cycle, Endpoint, Endpoints, Picker, PluginDefinition } from "../../contracts.ts";
import { largest, type PickerParameters, pickerParameters } from "./random-order.ts";

class MaxScorePicker implements Picker {
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  pick(cycle: Cycle, endpoints: Endpoints, totals: Float64Array): Endpoints {
    return this.#most === 1 ? best(cycle, endpoints, totals) : largest(cycle, endpoints, totals, this.#most);
  }
}

/** One pass; the n-th endpoint of a tie replaces the choice with probability 1/n. */
function best(cycle: Cycle, endpoints: Endpoints, totals: Float64Array): Endpoints {
  let chosen: Endpoint | undefined;
  let highest = Number.NEGATIVE_INFINITY;
  let tied = 0;
  let i = 0;
  for (const endpoint of endpoints) {
    const total = totals[i++] ?? 0;
    if (total > highest) {
      highest = total;
      chosen = endpoint;
      tied = 1;
    } else if (total === highest) {
      tied += 1;
      if (cycle.random() * tied < 1) chosen = endpoint;
    }
  }
  return chosen === undefined ? [] : [chosen];
}

export const maxScorePicker: PluginDefinition<PickerParameters, Picker> = {
  type: "max-score-picker",
  kinds: ["picker"],
  summary: "Picks the endpoint with the highest total score; ties are decided at random.",
  parameters: pickerParameters,
  create: ({ maxNumOfEndpoints }) => new MaxScorePicker(maxNumOfEndpoints),
};
