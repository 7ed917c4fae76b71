/**
 * What is to be tokenized in a request body, by dialect, as Dynamo 1.6.1's preprocessor takes it: completions without a template and without
 * special tokens around them, embeddings with them, token lists as they are, batches prompt by prompt.
 */
import { isUtf8 } from "node:buffer";
import type { ChatRenderer } from "./chat/chat-renderer.ts";
import type { TemplateBounds } from "./chat/template-engine.ts";
import { isRecord, type JsonRecord, recordAt } from "./json-record.ts";
import type { NoTokens, PromptDialect, TokenizedPrompt, TokenizeFailure } from "./prompt-tokenizer.ts";

export interface PromptTexts {
  readonly kind: "texts";
  readonly texts: readonly string[];
  readonly withSpecialTokens: boolean;
  /** Ids of one text at most. */
  readonly maxIds: number | undefined;
  readonly isAuthoritative: boolean;
}

/** `budget`: the template takes more steps than it may here. */
export type PromptInput = PromptTexts | TokenizedPrompt | NoTokens | TokenizeFailure | { readonly kind: "budget" };

export interface InputContext {
  /** Undefined: the model has no chat template. */
  readonly chat: ChatRenderer | undefined;
  /** Every id a client may send is below it. */
  readonly idBound: number;
  readonly templateBounds: TemplateBounds;
  readonly now: Date;
}

const none: NoTokens = { kind: "none" };

export function readPromptInput(dialect: PromptDialect, bytes: Buffer, context: InputContext): PromptInput {
  if (!isUtf8(bytes)) return invalid("the body is not UTF-8");
  const text = bytes.toString("utf8");
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return invalid("the body is not JSON");
  }
  if (!isRecord(body)) return invalid("the body is not a JSON object");
  switch (dialect) {
    case "chat":
      return readChat(body, text, context);
    case "completions":
      if (body["prompt_embeds"] !== undefined && body["prompt_embeds"] !== null) return none;
      return readPrompt(body["prompt"], "prompt", context);
    case "embeddings":
      return readEmbeddings(body, context);
    default: {
      const never: never = dialect;
      return never;
    }
  }
}

function invalid(message: string): TokenizeFailure {
  return { kind: "invalid", message };
}

function readChat(body: JsonRecord, text: string, context: InputContext): PromptInput {
  if (context.chat === undefined || recordAt(body, "nvext")?.["use_raw_prompt"] === true) return none;
  const rendered = context.chat.render(body, text, context.templateBounds, context.now);
  if (rendered.kind !== "rendered") return rendered;
  return oneText(rendered.text, rendered.isExact);
}

/** Dynamo takes NULs out of a prompt; a lone surrogate it refuses, so such ids never stand in for it. */
function oneText(text: string, isExact: boolean): PromptTexts {
  return {
    kind: "texts",
    texts: [text.includes("\0") ? text.replaceAll("\0", "") : text],
    withSpecialTokens: false,
    maxIds: undefined,
    isAuthoritative: isExact && text.isWellFormed(),
  };
}

function readPrompt(prompt: unknown, name: string, context: InputContext): PromptInput {
  if (typeof prompt === "string") return oneText(prompt, true);
  if (!Array.isArray(prompt))
    return prompt === undefined || prompt === null ? none : invalid(`\`${name}\` must be text or tokens`);
  const items = prompt as readonly unknown[];
  if (items.length === 0) return invalid(`\`${name}\` must not be empty`);
  if (items.every((item) => typeof item === "string")) {
    const texts = items.map((item) => item.replaceAll("\0", ""));
    return { kind: "texts", texts, withSpecialTokens: false, maxIds: undefined, isAuthoritative: false };
  }
  const lists = typeof items[0] === "number" ? [items] : items;
  const prompts: Uint32Array[] = [];
  for (const list of lists) {
    const ids = readIds(list, context.idBound);
    if (ids === undefined) return invalid(`\`${name}\` must be text or token ids of the vocabulary`);
    prompts.push(ids);
  }
  return { kind: "tokens", prompts, isAuthoritative: false };
}

function readIds(list: unknown, bound: number): Uint32Array | undefined {
  if (!Array.isArray(list)) return undefined;
  const ids = new Uint32Array(list.length);
  for (let at = 0; at < list.length; at++) {
    const id: unknown = list[at];
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= bound) return undefined;
    ids[at] = id;
  }
  return ids;
}

function readEmbeddings(body: JsonRecord, context: InputContext): PromptInput {
  const input = body["input"];
  const read = readPrompt(input, "input", context);
  const truncate = body["truncate_prompt_tokens"];
  const maxIds = typeof truncate === "number" && truncate > 0 ? Math.floor(truncate) : undefined;
  if (read.kind === "tokens" && maxIds !== undefined) {
    return { ...read, prompts: read.prompts.map((ids) => ids.subarray(0, maxIds)) };
  }
  if (read.kind !== "texts") return read;
  const texts = typeof input === "string" ? [input] : (input as readonly string[]);
  return { ...read, texts, withSpecialTokens: body["add_special_tokens"] !== false, maxIds, isAuthoritative: false };
}
