/** The parameters of every producer as a configuration sees them: the reference's names and defaults, and nothing else. */
import { describe, expect, it } from "@jest/globals";
import { Ajv } from "ajv";
import { approxPrefixCacheProducerDefinition } from "../../../../src/data/producers/approx-prefix-cache-producer.ts";
import { inflightLoadProducerDefinition } from "../../../../src/data/producers/inflight-load-producer.ts";
import { sessionIdProducerDefinition } from "../../../../src/data/producers/session-id-producer.ts";
import { tokenProducerDefinition } from "../../../../src/data/producers/token-producer.ts";

const ajv = new Ajv({ allErrors: true, useDefaults: true, keywords: ["x-producer"] });

const cases = [
  [
    approxPrefixCacheProducerDefinition,
    {
      autoTune: true,
      blockSizeTokens: 16,
      maxPrefixTokensToMatch: 131_072,
      maxPrefixBlocksToMatch: 2_048,
      lruCapacityPerServer: 31_250,
    },
    { blockSize: 64, autoTune: false },
  ],
  [
    inflightLoadProducerDefinition,
    { addEstimatedOutputTokens: false, outputRatio: 1.5 },
    { maxEstimatedOutputTokens: 0, prefixMatchInfoProducerName: "precise" },
  ],
  [sessionIdProducerDefinition, {}, { headerName: "a", cookieName: "b" }],
  [tokenProducerDefinition, {}, { estimate: { image: {} }, vllm: { url: "http://localhost:8000" }, modelName: "m" }],
] as const;

describe.each(cases.map(([definition, defaults, accepted]) => ({ definition, defaults, accepted })))(
  "$definition.type",
  ({ definition, defaults, accepted }) => {
    const validate = ajv.compile(definition.parameters);

    it("fills in the reference's defaults", () => {
      const parameters = {};
      expect(validate(parameters)).toBe(true);
      expect(parameters).toEqual(defaults);
    });

    it("accepts every parameter of the reference", () => {
      expect(validate({ ...accepted })).toBe(true);
    });

    it("refuses a parameter that it does not know", () => {
      expect(validate({ tokens: 1 })).toBe(false);
    });
  },
);
