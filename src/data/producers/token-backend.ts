/** What makes the exact tokens of a request: an engine asked over HTTP, or a tokenizer in this process. */
import type { InferenceRequest } from "../../request/inference-request.ts";
import type { PromptTokens } from "../attributes.ts";
import type { Closable } from "../plugin.ts";

export interface TokenBackend extends Closable {
  /** How long an answer may take; whoever waits may give up by then. */
  readonly timeoutMs: number;
  /**
   * Undefined where the backend knows no tokens for this kind of request. Rejects when it should have known them: the request then goes on
   * without. The body is read before the call returns.
   */
  tokens(request: InferenceRequest): Promise<PromptTokens | undefined> | undefined;
}
