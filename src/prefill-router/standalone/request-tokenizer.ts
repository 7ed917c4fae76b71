/**
 * Prompt tokens of requests to raw engines: an engine's render endpoint or a tokenizer of this process, as the token producer asks them. Ids that the
 * client sent are taken as they are. Without a backend no request has tokens.
 */
import type { PromptTokens } from "../../data/attributes.ts";
import { type TokenBackend, TokenizeError } from "../../data/producers/token-backend.ts";
import type { InferenceRequest } from "../../request/inference-request.ts";
import type { RequestTokens, TokenizeRequest } from "../fleet/route-table.ts";

const nothingPending = { cancel: () => {} };

export function tokenizeThrough(backend: Pick<TokenBackend, "tokens"> | undefined): TokenizeRequest {
  return (request, done) => {
    const { prompt } = request.parsed;
    if (prompt.kind === "tokens") {
      done(tokensOf({ ids: prompt.chains, exact: true }));
      return nothingPending;
    }
    const answer = ask(backend, request);
    if (!(answer instanceof Promise)) {
      done(answer);
      return nothingPending;
    }
    let isCancelled = false;
    void answer.then((tokens) => {
      if (!isCancelled) done(tokens);
    });
    return {
      cancel: () => {
        isCancelled = true;
      },
    };
  };
}

/** Never rejects. */
function ask(
  backend: Pick<TokenBackend, "tokens"> | undefined,
  request: InferenceRequest,
): RequestTokens | Promise<RequestTokens> {
  try {
    const tokens = backend?.tokens(request);
    return tokens !== undefined && "then" in tokens ? tokens.then(tokensOf, failureOf) : tokensOf(tokens);
  } catch (error) {
    return failureOf(error);
  }
}

/** Never to be sent along: an engine takes the prompt itself. */
function tokensOf(tokens: PromptTokens | undefined): RequestTokens {
  if (tokens?.exact !== true) return { kind: "none" };
  return { kind: "tokens", prompts: tokens.ids, isAuthoritative: false, media: tokens.media };
}

/** A prompt that an engine refuses to tokenize is its own to answer for: whatever failed but the time goes on without tokens. */
function failureOf(error: unknown): RequestTokens {
  const message = error instanceof Error ? error.message : String(error);
  const isLate = error instanceof TokenizeError && error.code === "TIMEOUT";
  return isLate ? { kind: "timeout", message: "the prompt was not tokenized in time" } : { kind: "failed", message };
}
