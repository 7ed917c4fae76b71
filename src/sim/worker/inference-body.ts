/** Reads the bodies of the inference endpoints into what the engine needs, or into vLLM's refusal. Unknown fields are ignored. */
import { type ApiError, badRequest } from "./api-error.ts";
import { type ChatMessage, piecesOfChat, tokensOfPieces } from "./tokenizer.ts";

export type InferenceKind = "chat" | "completion" | "embedding";

export interface InferenceBody {
  readonly kind: InferenceKind;
  /** Undefined is the served model. */
  readonly model: string | undefined;
  /** Token ids, one list a prompt. */
  readonly prompts: readonly Uint32Array[];
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly continuousUsage: boolean;
  /** Infinity when none is set. */
  readonly maxTokens: number;
  readonly ignoreEos: boolean;
  readonly cacheSalt: string;
  readonly seed: number;
}

export type BodyReading = { readonly body: InferenceBody } | { readonly error: ApiError };

export type JsonObject = Readonly<Record<string, unknown>>;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The body as a JSON object, or a refusal. */
export function parseJsonObject(bytes: Buffer): { readonly value: JsonObject } | { readonly error: ApiError } {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString("utf8"));
  } catch (error) {
    return { error: badRequest(`Invalid JSON body: ${error instanceof Error ? error.message : "not JSON"}`) };
  }
  return isObject(value) ? { value } : { error: badRequest("The body must be a JSON object") };
}

export function parseInferenceBody(kind: InferenceKind, value: JsonObject): BodyReading {
  const model = value["model"];
  if (model !== undefined && model !== null && typeof model !== "string") {
    return { error: badRequest("model must be a string", "model") };
  }
  const n = value["n"];
  if (n !== undefined && n !== null && n !== 1) {
    return { error: badRequest("this simulated worker answers n = 1 only", "n") };
  }
  const prompts = promptsOf(kind, value);
  if (!Array.isArray(prompts)) return { error: prompts };
  const maxTokens = kind === "embedding" ? 0 : maxTokensOf(value);
  if (typeof maxTokens !== "number") return { error: maxTokens };
  const streamOptions = isObject(value["stream_options"]) ? value["stream_options"] : {};
  const stream = kind !== "embedding" && value["stream"] === true;
  if (!stream && Object.keys(streamOptions).length > 0 && kind !== "embedding") {
    return { error: badRequest("Stream options can only be defined when `stream=True`.", "stream_options") };
  }
  return {
    body: {
      kind,
      model: typeof model === "string" ? model : undefined,
      prompts,
      stream,
      includeUsage: streamOptions["include_usage"] === true,
      continuousUsage: streamOptions["continuous_usage_stats"] === true,
      maxTokens,
      ignoreEos: value["ignore_eos"] === true,
      cacheSalt: typeof value["cache_salt"] === "string" ? value["cache_salt"] : "",
      seed: typeof value["seed"] === "number" ? value["seed"] | 0 : 0,
    },
  };
}

function maxTokensOf(value: JsonObject): number | ApiError {
  const given = value["max_completion_tokens"] ?? value["max_tokens"];
  if (given === undefined || given === null) return Number.POSITIVE_INFINITY;
  if (typeof given !== "number" || !Number.isSafeInteger(given) || given < 1) {
    return badRequest(`max_tokens must be at least 1, got ${JSON.stringify(given)}.`, "max_tokens");
  }
  return given;
}

function promptsOf(kind: InferenceKind, value: JsonObject): Uint32Array[] | ApiError {
  switch (kind) {
    case "chat": {
      const chat = chatTokensOf(value);
      return chat instanceof Uint32Array ? [chat] : chat;
    }
    case "completion":
      return promptListOf(value["prompt"], "prompt");
    case "embedding":
      return promptListOf(value["input"], "input");
    default:
      return kind satisfies never;
  }
}

/** Tokens of a chat body, or a refusal. */
export function chatTokensOf(value: JsonObject): Uint32Array | ApiError {
  const messages = value["messages"];
  if (!Array.isArray(messages) || messages.length === 0) {
    return badRequest("messages must be a non-empty list", "messages");
  }
  const read: ChatMessage[] = [];
  for (const message of messages as readonly unknown[]) {
    if (!isObject(message) || typeof message["role"] !== "string") {
      return badRequest("every message needs a role", "messages");
    }
    read.push({ role: message["role"], parts: partsOf(message["content"]) });
  }
  const tools = value["tools"];
  return tokensOfPieces(piecesOfChat(read, tools === undefined ? undefined : JSON.stringify(tools)));
}

function partsOf(content: unknown): string[] {
  if (typeof content === "string") return [content];
  if (!Array.isArray(content)) return [];
  return (content as readonly unknown[]).map((part) => {
    if (typeof part === "string") return part;
    return isObject(part) && typeof part["text"] === "string" ? part["text"] : JSON.stringify(part);
  });
}

/** A text, a list of token ids, or a list of either. */
function promptListOf(value: unknown, param: string): Uint32Array[] | ApiError {
  const one = promptOf(value);
  if (one !== undefined) return [one];
  if (!Array.isArray(value) || value.length === 0) return badRequest(`${param} must not be empty`, param);
  const prompts: Uint32Array[] = [];
  for (const item of value as readonly unknown[]) {
    const prompt = promptOf(item);
    if (prompt === undefined) return badRequest(`${param} must be text, token ids, or a list of either`, param);
    prompts.push(prompt);
  }
  return prompts;
}

function promptOf(value: unknown): Uint32Array | undefined {
  if (typeof value === "string") return value === "" ? undefined : tokensOfPieces([value]);
  if (!Array.isArray(value) || value.length === 0) return undefined;
  return value.every((token) => typeof token === "number") ? Uint32Array.from(value as number[]) : undefined;
}
