/**
 * Reads tokenizer.json and decides who encodes: our byte-level BPE where every part of the file is one it reproduces exactly, else the native
 * tokenizer, with the reason. Special tokens that only tokenizer_config.json declares are added as Dynamo adds them (dynamo-tokenizers, hf.rs).
 */
import type { AddedToken } from "./added-tokens.ts";
import { buildBpeTables } from "./bpe/bpe-tables.ts";
import type { ByteLevelModel, NormalForm } from "./bpe/byte-level-tokenizer.ts";
import { readWordCuts } from "./bpe/word-cuts.ts";
import { isRecord, type JsonRecord, recordAt, recordsAt } from "./json-record.ts";

export type TokenizerReading =
  | { readonly kind: "byte-level"; readonly model: ByteLevelModel }
  | { readonly kind: "native"; readonly reason: string };

/** Throws when the text is no tokenizer.json at all. */
export function readTokenizer(tokenizerJson: string, config: JsonRecord): TokenizerReading {
  const file: unknown = JSON.parse(tokenizerJson);
  if (!isRecord(file) || !isRecord(file["model"])) throw new TypeError("tokenizer.json has no model");
  const native = (reason: string): TokenizerReading => ({ kind: "native", reason });
  const model = file["model"];
  const odd = oddModel(file, model);
  if (odd !== undefined) return native(odd);
  const normalForms = readNormalForms(file["normalizer"]);
  if (normalForms === undefined) return native(`normalizer ${typeOf(file["normalizer"])}`);
  const cuts = readWordCuts(flatten(file["pre_tokenizer"], "pretokenizers"));
  if ("failure" in cuts) return native(cuts.failure);
  const around = readTemplate(file["post_processor"]);
  if (around === undefined) return native(`post-processor ${typeOf(file["post_processor"])}`);
  const vocabulary = readVocabulary(model["vocab"]);
  const merges = readMerges(model["merges"]);
  if (vocabulary === undefined || merges === undefined) return native("a vocabulary of another form");
  const addedTokens = readAddedTokens(file, config, vocabulary);
  const oddToken = oddAddedToken(addedTokens);
  if (oddToken !== undefined) return native(oddToken);
  const tables = buildBpeTables({ vocabulary, merges, ignoresMerges: model["ignore_merges"] === true });
  if ("failure" in tables) return native(tables.failure);
  let idLimit = 0;
  for (const id of vocabulary.values()) idLimit = Math.max(idLimit, id + 1);
  for (const token of addedTokens) idLimit = Math.max(idLimit, token.id + 1);
  return { kind: "byte-level", model: { tables, addedTokens, ...cuts, normalForms, ...around, idLimit } };
}

/** Special tokens of tokenizer_config.json that tokenizer.json does not have, for the native tokenizer. */
export function specialTokensOfConfig(config: JsonRecord): readonly JsonRecord[] {
  const declared = recordAt(config, "added_tokens_decoder");
  if (declared === undefined) return [];
  return Object.values(declared).filter(
    (token): token is JsonRecord =>
      isRecord(token) && token["special"] === true && typeof token["content"] === "string",
  );
}

function oddModel(file: JsonRecord, model: JsonRecord): string | undefined {
  if (model["type"] !== "BPE") return `model ${typeOf(model)}`;
  for (const name of ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] as const) {
    const value = model[name];
    if (value !== undefined && value !== null && value !== "" && value !== 0) return `BPE with ${name}`;
  }
  if (model["byte_fallback"] === true) return "BPE with byte fallback";
  for (const name of ["truncation", "padding"] as const) {
    if (file[name] !== undefined && file[name] !== null) return `a tokenizer with ${name}`;
  }
  return undefined;
}

function oddAddedToken(tokens: readonly AddedToken[]): string | undefined {
  const strips = tokens.some((token) => token.stripsLeft || token.stripsRight);
  for (const token of tokens) {
    if (token.isSingleWord) return "an added token that is a whole word only";
    if (strips && token.content !== token.content.trim()) return "added tokens that begin or end with white space";
  }
  return undefined;
}

function readNormalForms(normalizer: unknown): readonly NormalForm[] | undefined {
  const forms: NormalForm[] = [];
  for (const step of flatten(normalizer, "normalizers")) {
    const type = step["type"];
    if (type !== "NFC" && type !== "NFD" && type !== "NFKC" && type !== "NFKD") return undefined;
    forms.push(type);
  }
  return forms;
}

function readVocabulary(vocab: unknown): ReadonlyMap<string, number> | undefined {
  if (!isRecord(vocab)) return undefined;
  const vocabulary = new Map<string, number>();
  for (const [token, id] of Object.entries(vocab)) {
    if (typeof id !== "number") return undefined;
    vocabulary.set(token, id);
  }
  return vocabulary;
}

/** Either form: `"a b"` or `["a", "b"]`. */
function readMerges(merges: unknown): (readonly [string, string])[] | undefined {
  if (!Array.isArray(merges)) return undefined;
  const pairs: (readonly [string, string])[] = [];
  for (const merge of merges as readonly unknown[]) {
    const parts: unknown = typeof merge === "string" ? merge.split(" ") : merge;
    if (!Array.isArray(parts) || parts.length !== 2) return undefined;
    const [left, right] = parts as readonly unknown[];
    if (typeof left !== "string" || typeof right !== "string") return undefined;
    pairs.push([left, right]);
  }
  return pairs;
}

function readAddedTokens(
  file: JsonRecord,
  config: JsonRecord,
  vocabulary: ReadonlyMap<string, number>,
): readonly AddedToken[] {
  const byContent = new Map<string, AddedToken>();
  let highest = -1;
  for (const token of [...recordsAt(file, "added_tokens"), ...specialTokensOfConfig(config)]) {
    const content = token["content"];
    if (typeof content !== "string" || content === "" || byContent.has(content)) continue;
    const next = highest >= vocabulary.size || vocabulary.size === 0 ? highest + 1 : vocabulary.size;
    const id = vocabulary.get(content) ?? next;
    if (id > highest) highest = id;
    const isSpecial = token["special"] === true;
    byContent.set(content, {
      id,
      content,
      isSpecial,
      isNormalized: token["normalized"] === undefined ? !isSpecial : token["normalized"] === true,
      stripsLeft: token["lstrip"] === true,
      stripsRight: token["rstrip"] === true,
      isSingleWord: token["single_word"] === true,
    });
  }
  return [...byContent.values()];
}

interface AroundIds {
  readonly leadingIds: readonly number[];
  readonly trailingIds: readonly number[];
}

/** Undefined when the post-processor is not one that only puts tokens before and after. */
function readTemplate(processor: unknown): AroundIds | undefined {
  const leadingIds: number[] = [];
  const trailingIds: number[] = [];
  for (const step of flatten(processor, "processors")) {
    if (step["type"] === "ByteLevel") continue;
    if (step["type"] !== "TemplateProcessing") return undefined;
    let isBefore = true;
    for (const item of recordsAt(step, "single")) {
      if (isRecord(item["Sequence"])) {
        isBefore = false;
        continue;
      }
      const name = recordAt(item, "SpecialToken")?.["id"];
      const ids =
        typeof name === "string" ? recordAt(recordAt(step, "special_tokens") ?? {}, name)?.["ids"] : undefined;
      if (!Array.isArray(ids)) return undefined;
      for (const id of ids as readonly unknown[])
        if (typeof id === "number") (isBefore ? leadingIds : trailingIds).push(id);
    }
  }
  return { leadingIds, trailingIds };
}

/** A step, or the steps of a Sequence however deep, in order. */
function flatten(step: unknown, name: string): readonly JsonRecord[] {
  if (!isRecord(step)) return [];
  if (step["type"] !== "Sequence") return [step];
  return recordsAt(step, name).flatMap((inner) => flatten(inner, name));
}

function typeOf(value: unknown): string {
  return isRecord(value) && typeof value["type"] === "string" ? value["type"] : "of an unknown type";
}
