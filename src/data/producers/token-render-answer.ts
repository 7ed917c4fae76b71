/**
 * Reads token ids from an engine's answer, in the forms of vLLM's releases: the render endpoints answer one object a prompt with `token_ids` and the
 * media in them, older ones `[conversation, [{prompt_token_ids}]]`; the tokenize endpoint answers `tokens`. SGLang's renderer answers the request that
 * its engine would get, with `input_ids`.
 */
import { parseMmHash } from "../../tokens/block-hash.ts";
import type { MediaSpan, PromptTokens } from "../attributes.ts";

type Json = Readonly<Record<string, unknown>>;

/** Undefined where the answer holds no tokens of these forms. */
export function tokensOfAnswer(body: Buffer): PromptTokens | undefined {
  let answer: unknown;
  try {
    answer = JSON.parse(body.toString("utf8"));
  } catch {
    return undefined;
  }
  const prompts = promptsIn(answer);
  if (prompts.length === 0) return undefined;
  const ids: Uint32Array[] = [];
  const media: (readonly MediaSpan[])[] = [];
  for (const prompt of prompts) {
    const list = idsOf(prompt);
    if (list === undefined) return undefined;
    ids.push(list);
    media.push(mediaOf(prompt["features"]));
  }
  return media.every((spans) => spans.length === 0) ? { ids, exact: true } : { ids, exact: true, media };
}

function promptsIn(answer: unknown): readonly Json[] {
  if (isObject(answer)) return [answer];
  if (!Array.isArray(answer)) return [];
  const items = answer as readonly unknown[];
  const [, second] = items;
  const list = items.length === 2 && Array.isArray(second) ? (second as readonly unknown[]) : items;
  return list.every(isObject) ? (list as readonly Json[]) : [];
}

function idsOf(prompt: Json): Uint32Array | undefined {
  const list = prompt["token_ids"] ?? prompt["prompt_token_ids"] ?? prompt["tokens"] ?? prompt["input_ids"];
  if (!Array.isArray(list)) return undefined;
  const ids = new Uint32Array(list.length);
  for (let i = 0; i < list.length; i++) {
    const id: unknown = list[i];
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > 0xffffffff) return undefined;
    ids[i] = id;
  }
  return ids;
}

/** `{mm_hashes: {image: […]}, mm_placeholders: {image: [{offset, length}]}}`: the same position in both is the same object. */
function mediaOf(features: unknown): readonly MediaSpan[] {
  if (!isObject(features)) return [];
  const { mm_hashes: hashes, mm_placeholders: places } = features;
  if (!isObject(hashes) || !isObject(places)) return [];
  const spans: MediaSpan[] = [];
  for (const [kind, identifiers] of Object.entries(hashes)) {
    const ranges = places[kind];
    if (!Array.isArray(identifiers) || !Array.isArray(ranges)) continue;
    for (const [i, range] of (ranges as readonly unknown[]).entries()) {
      const identifier: unknown = identifiers[i];
      const hash = typeof identifier === "string" ? parseMmHash(identifier) : undefined;
      if (hash === undefined || !isObject(range)) continue;
      const { offset, length } = range;
      if (!isCount(offset) || !isCount(length) || length === 0) continue;
      spans.push({ hash, firstToken: offset, tokens: length });
    }
  }
  return spans;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
