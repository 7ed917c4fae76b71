/**
 * What a parser found in a request body: values and byte ranges, never a tree. Ranges index the contiguous body and stay valid
 * as long as the body does.
 */

/** Half-open byte range [start, end) of the request body. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/**
 * The part of the body that the engine turns into prompt tokens. A chain is what one KV-cache prefix is made of: the ranges of one chain
 * are read one after the other; several chains are independent prompts of one request.
 */
export type Prompt =
  | { readonly kind: "opaque" }
  | { readonly kind: "bytes"; readonly chains: readonly (readonly ByteRange[])[] }
  | { readonly kind: "tokens"; readonly chains: readonly Uint32Array[] };

/** The API dialect a request speaks; decides how usage is read from its answer. */
export type ApiName =
  | "openai-chat"
  | "openai-completions"
  | "openai-embeddings"
  | "openai-responses"
  | "openai-conversations"
  | "openai-images"
  | "anthropic-messages"
  | "anthropic-count-tokens"
  | "vllm-generate"
  | "sglang-generate"
  | "opaque";

export interface ParsedBody {
  readonly api: ApiName;
  /** Plugin type of the parser, e.g. "openai-parser". */
  readonly parser: string;
  /** The model the client asked for; "" where the dialect carries none (passthrough). */
  readonly model: string;
  /** Range of the JSON string of the model, quotes included; undefined where there is none to rewrite. */
  readonly modelRange: ByteRange | undefined;
  /** Ranges of the values of earlier `model` members of a body that repeats the key, in order; a rewrite replaces them too. */
  readonly earlierModelRanges?: readonly ByteRange[];
  readonly stream: boolean;
  /** max_completion_tokens, else max_tokens (or the dialect's field); undefined when absent. */
  readonly maxOutputTokens: number | undefined;
  readonly user: string | undefined;
  readonly cacheSalt: string | undefined;
  /** Range of the value of a top-level `nvext` object. */
  readonly nvextRange: ByteRange | undefined;
  readonly prompt: Prompt;
  /** False where the answer holds nothing the picker reads (Anthropic count_tokens, a request without a body that was seen). */
  readonly readsResponse: boolean;
}

/** A request whose body nobody reads: none, or one that the gateway's mode hides. */
export const opaqueBody: ParsedBody = {
  api: "opaque",
  parser: "passthrough-parser",
  model: "",
  modelRange: undefined,
  stream: false,
  maxOutputTokens: undefined,
  user: undefined,
  cacheSalt: undefined,
  nvextRange: undefined,
  prompt: { kind: "opaque" },
  readsResponse: false,
};
