/** Picks endpoints uniformly at random and ignores scores. */
import type { Cycle, Endpoints, Picker, PluginDefinition } from "../../contracts.ts";
import { anyOne, at, type PickerParameters, pickerParameters, shuffledPositions } from "./random-order.ts";

class RandomPicker implements Picker {
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  pick(cycle: Cycle, endpoints: Endpoints): Endpoints {
    if (this.#most === 1) return anyOne(cycle, endpoints);
    return at(endpoints, shuffledPositions(cycle, endpoints.length), this.#most);
  }
}

export const randomPicker: PluginDefinition<PickerParameters, Picker> = {
  type: "random-picker",
  kinds: ["picker"],
  summary: "Picks an endpoint uniformly at random, whatever the scores.",
  parameters: pickerParameters,
  create: ({ maxNumOfEndpoints }) => new RandomPicker(maxNumOfEndpoints),
};
