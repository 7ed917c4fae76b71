/** The small models of test/fixtures/models/, trained for these tests, and the native tokenizer over the same files. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import type { Tokenizer } from "tokenizers";
import { ByteLevelTokenizer } from "../../../src/tokens/bpe/byte-level-tokenizer.ts";
import { readTokenizer } from "../../../src/tokens/tokenizer-json.ts";

const native = createRequire(import.meta.url)("tokenizers") as { Tokenizer: typeof Tokenizer };

export const byteLevelModels = ["gpt2", "llama3", "qwen", "deepseek", "o200k", "roberta"] as const;
export const nativeModels = ["sentencepiece", "unigram", "wordpiece"] as const;

export function modelFile(model: string, file = "tokenizer.json"): string {
  return join(import.meta.dirname, "../../fixtures/models", model, file);
}

export function tokenizerJson(model: string): string {
  return readFileSync(modelFile(model), "utf8");
}

export function byteLevelTokenizer(model: string, segmentCacheBytes = 0): ByteLevelTokenizer {
  const reading = readTokenizer(tokenizerJson(model), {});
  if (reading.kind !== "byte-level") throw new Error(reading.reason);
  return new ByteLevelTokenizer(reading.model, { segmentCacheBytes });
}

export interface Reference {
  encode(text: string, withSpecialTokens?: boolean): Promise<number[]>;
}

export function nativeTokenizer(model: string): Reference {
  const tokenizer = native.Tokenizer.fromString(tokenizerJson(model));
  return {
    encode: async (text, withSpecialTokens = false) =>
      (await tokenizer.encode(text, null, { addSpecialTokens: withSpecialTokens })).getIds(),
  };
}
