/** The native tokenizer (package tokenizers) over a tokenizer.json: for what our own does not cover. Loaded where it is used: it is large. */
import { createRequire } from "node:module";
import type { Tokenizer } from "tokenizers";
import type { JsonRecord } from "./json-record.ts";
import { specialTokensOfConfig } from "./tokenizer-json.ts";

interface NativePackage {
  readonly Tokenizer: { fromString(json: string): Tokenizer };
}

export class NativeTokenizer {
  readonly #tokenizer: Tokenizer;
  readonly idLimit: number;

  /** Takes a second for a large vocabulary. */
  constructor(tokenizerJson: string, config: JsonRecord) {
    const { Tokenizer: Native } = createRequire(import.meta.url)("tokenizers") as NativePackage;
    this.#tokenizer = Native.fromString(tokenizerJson);
    this.#tokenizer.addSpecialTokens(
      specialTokensOfConfig(config)
        .map((token) => String(token["content"]))
        .filter((content) => content !== "" && this.#tokenizer.tokenToId(content) === null),
    );
    this.idLimit = Math.max(0, ...chunkMaxima(Object.values(this.#tokenizer.getVocab(true)))) + 1;
  }

  async encode(text: string, withSpecialTokens: boolean): Promise<Uint32Array> {
    const encoding = await this.#tokenizer.encode(text, null, { addSpecialTokens: withSpecialTokens });
    return Uint32Array.from(encoding.getIds());
  }

  decode(ids: Uint32Array): string {
    const tokens = Array.from(ids, (id) => this.#tokenizer.idToToken(id) ?? "");
    return this.#tokenizer.getDecoder()?.decode(tokens) ?? tokens.join(" ");
  }
}

/** A call takes some ten thousand arguments, not a vocabulary. */
function chunkMaxima(values: readonly number[]): number[] {
  const maxima: number[] = [];
  for (let at = 0; at < values.length; at += 10_000) maxima.push(Math.max(...values.slice(at, at + 10_000)));
  return maxima;
}
