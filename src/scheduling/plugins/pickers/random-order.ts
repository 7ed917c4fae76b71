/** The order that every picker starts from: candidates shuffled, so that ties fall at random, then by key, the largest first. */
import type { Cycle, Endpoint, Endpoints, JsonSchema } from "../../contracts.ts";

export interface PickerParameters {
  readonly maxNumOfEndpoints: number;
}

export const pickerParameters: JsonSchema = {
  type: "object",
  additionalProperties: false,
  properties: {
    maxNumOfEndpoints: {
      type: "integer",
      minimum: 1,
      default: 1,
      description:
        "Most endpoints to name, best first. More than one only where the gateway walks a list of fallbacks; ORIGINAL_DST clusters and agentgateway take one, and kgateway none of several.",
    },
  },
};

/** Fisher-Yates over the positions of `count` candidates. */
export function shuffledPositions(cycle: Cycle, count: number): number[] {
  const positions: number[] = [];
  for (let i = 0; i < count; i++) positions.push(i);
  for (let i = count - 1; i > 0; i--) {
    const other = Math.floor(cycle.random() * (i + 1));
    const moved = positions[i] ?? 0;
    positions[i] = positions[other] ?? 0;
    positions[other] = moved;
  }
  return positions;
}

/** The first `most` endpoints when sorted by descending key; equal keys in random order. */
export function largest(cycle: Cycle, endpoints: Endpoints, keys: Float64Array, most: number): Endpoints {
  const positions = shuffledPositions(cycle, endpoints.length);
  positions.sort((a, b) => (keys[b] ?? 0) - (keys[a] ?? 0));
  return at(endpoints, positions, most);
}

export function at(endpoints: Endpoints, positions: readonly number[], most: number): Endpoint[] {
  const picked: Endpoint[] = [];
  for (const position of positions) {
    if (picked.length === most) break;
    const endpoint = endpoints[position];
    if (endpoint !== undefined) picked.push(endpoint);
  }
  return picked;
}

export function anyOne(cycle: Cycle, endpoints: Endpoints): Endpoint[] {
  const endpoint = endpoints[Math.floor(cycle.random() * endpoints.length)];
  return endpoint === undefined ? [] : [endpoint];
}
