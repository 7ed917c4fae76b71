import { readFileSync } from "node:fs";
import { describe, expect, it } from "@jest/globals";
import {
  routerConfigFromEnvironment,
  type StageSettings,
  stageSettings,
} from "../../../../src/prefill-router/config.ts";
import { CostFunction, cachedTokensOf } from "../../../../src/prefill-router/stage/cost.ts";
import { plainSettings } from "./fleet.ts";

interface Vector {
  readonly blockSize: number;
  readonly isl: number;
  readonly ranks: readonly (readonly [number, number, number, number, number, number])[];
  readonly chosen: number;
  readonly cost: number;
}

interface VectorSet {
  readonly environment: Readonly<Record<string, string>>;
  readonly vectors: readonly Vector[];
}

const file = new URL("../../../fixtures/dynamo/routing-vectors.json", import.meta.url);
const { sets } = JSON.parse(readFileSync(file, "utf8")) as { readonly sets: readonly VectorSet[] };

function costs(settings: StageSettings, { blockSize, isl, ranks }: Vector): number[] {
  const cost = new CostFunction();
  cost.prepare(settings, true, blockSize, isl, undefined);
  cost.leastActiveTokens = Math.min(...ranks.map(([tokens]) => tokens));
  return ranks.map(([tokens, blocks, requests, device, host, disk]) =>
    cost.cost(tokens, blocks, requests, device, host, disk, cachedTokensOf(settings, blockSize, device, host, disk), 1),
  );
}

describe("the cost of a rank", () => {
  it.each(
    sets.map(
      ({ environment, vectors }) =>
        [Object.entries(environment).join(" ") || "defaults", environment, vectors] as const,
    ),
  )("is Dynamo's to the last bit, with %s", (_name, environment, vectors) => {
    const settings = stageSettings(routerConfigFromEnvironment(environment).config);
    for (const vector of vectors) {
      const all = costs(settings, vector);
      expect([all[vector.chosen], Math.min(...all)]).toEqual([vector.cost, vector.cost]);
    }
  });

  it("is recorded for 66 states", () => {
    expect(sets.reduce((sum, { vectors }) => sum + vectors.length, 0)).toBe(66);
  });

  function terms(members: Partial<StageSettings>, isDecode = true, sharedHits?: Uint32Array): Record<string, number> {
    const cost = new CostFunction();
    cost.prepare({ ...plainSettings, ...members }, isDecode, 16, 160, sharedHits);
    cost.leastActiveTokens = 0;
    const value = cost.cost(320, 12, 2, 4, 2, 1, 92, 1);
    return { value, ...cost.terms() };
  }

  it("takes prefixes off the prompt to be computed, tier by tier", () => {
    expect(terms({})).toEqual({
      value: 30 - 4 - 1.5 - 0.25 + 12,
      creditBlocks: 5.75,
      creditDecay: 1,
      prefillBlocks: 24.25,
      decodeBlocks: 12,
      requestBlocks: 0,
      taintMultiplier: 1,
    });
  });

  it("takes the credit off decode blocks where a decode stage tracks no prompts, never below nothing", () => {
    const untracked = { trackPrefillTokens: false, decodeActiveRequestWeight: 0.5 };
    expect(terms(untracked)).toMatchObject({ value: 12 - 5.75 + 1, prefillBlocks: 0 });
    expect(terms({ ...untracked, overlapScoreCredit: 9 })["value"]).toBe(1);
    expect(terms(untracked, false)).toMatchObject({ value: 13, prefillBlocks: 0 });
  });

  it("leaves lower tiers out too where the credit is zero", () => {
    expect(terms({ overlapScoreCredit: 0 })).toMatchObject({ value: 42, creditBlocks: 0 });
  });

  it("counts blocks of a shared cache beyond those on the device", () => {
    const ranges = Uint32Array.of(0, 6, 8, 10);
    expect(terms({ sharedCacheMultiplier: 0.5 }, true, ranges)).toMatchObject({
      creditBlocks: 5.75 + 0.5 * (2 + 2),
      sharedBlocks: 4,
    });
  });

  it("gives less credit to a rank with a longer queue", () => {
    const decayed = terms({ overlapScoreCreditDecay: 2 });
    expect(decayed["creditDecay"]).toBe(1 / (1 + (2 * 20) / 10));
    expect(terms({ overlapScoreCreditDecay: 2, trackPrefillTokens: false })["creditDecay"]).toBe(1);
  });

  it("is finite for a prompt without tokens", () => {
    const cost = new CostFunction();
    cost.prepare({ ...plainSettings, overlapScoreCreditDecay: 1 }, true, 16, 0, undefined);
    cost.leastActiveTokens = 10;
    expect(cost.cost(10, 0, 0, 0, 0, 0, 0, 1)).toBe(10 / 16);
  });
});
