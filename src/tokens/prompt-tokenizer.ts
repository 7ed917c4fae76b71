/** The contract of exact tokenization: a request body in, the prompt's token ids out. */

export type PromptDialect = "chat" | "completions" | "embeddings";

/** Why there are no tokens. `invalid` is the client's fault (400), `timeout` and `failed` are not. */
export interface TokenizeFailure {
  readonly kind: "invalid" | "timeout" | "failed";
  readonly message: string;
}

export interface TokenizedPrompt {
  readonly kind: "tokens";
  /** One array a prompt; more than one for a batch. */
  readonly prompts: readonly Uint32Array[];
  /**
   * The ids may stand in for the prompt (nvext.token_data): a single chat or a single text prompt, never a batch, token arrays the client
   * sent itself, or embeddings of prompts.
   */
  readonly isAuthoritative: boolean;
}

/** A prompt that has no tokens: prompt_embeds, an opaque body. Routed without. */
export interface NoTokens {
  readonly kind: "none";
}

export type TokenizeOutcome = TokenizedPrompt | NoTokens | TokenizeFailure;

export interface PromptTokenizer {
  /**
   * Calls done exactly once: before it returns for short prompts, later for long ones (a worker thread), unless cancelled. `body` is read
   * until then, and must not change. Rules of completions, batches and embeddings: docs/protocol.md.
   */
  tokenize(dialect: PromptDialect, body: Buffer, done: (outcome: TokenizeOutcome) => void): { cancel(): void };
  /** For tests and explanations. */
  decode(ids: Uint32Array): string;
  readonly vocabularySize: number;
  close(): Promise<void>;
}
