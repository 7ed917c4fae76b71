/** What makes the exact tokens of a request: an engine asked over HTTP, or a tokenizer in this process. */
import type { InferenceRequest } from "../../request/inference-request.ts";
import type { PromptTokens } from "../attributes.ts";
import type { Closable } from "../plugin.ts";

export interface TokenBackend extends Closable {
  /** How long an answer may take; whoever waits may give up by then. */
  readonly timeoutMs: number;
  /**
   * Undefined where the backend knows no tokens for this kind of request. Throws or rejects with a TokenizeError when it should have known them: the
   * request then goes on without.
   */
  tokens(request: InferenceRequest): PromptTokens | Promise<PromptTokens | undefined> | undefined;
}

export type TokenizeFault = "BUSY" | "STATUS" | "TOO_LARGE" | "TIMEOUT" | "BROKEN" | "UNREADABLE" | "CLOSED";

export class TokenizeError extends Error {
  readonly code: TokenizeFault;
  constructor(code: TokenizeFault, message: string, cause?: unknown) {
    super(message, { cause });
    this.code = code;
  }
}
