/** A worker set's tokenizer as requests use it: by the dialect of their API. Other APIs have no tokens here. */
import type { PromptDialect, PromptTokenizer } from "../../tokens/prompt-tokenizer.ts";
import type { TokenizeRequest } from "./route-table.ts";

const dialects: ReadonlyMap<string, PromptDialect> = new Map([
  ["openai-chat", "chat"],
  ["openai-completions", "completions"],
  ["openai-embeddings", "embeddings"],
]);
const nothingPending = { cancel: () => {} };

export function tokenizeBy(tokenizer: Pick<PromptTokenizer, "tokenize">): TokenizeRequest {
  return (request, done) => {
    const dialect = dialects.get(request.parsed.api);
    if (dialect !== undefined) return tokenizer.tokenize(dialect, request.body, done);
    done({ kind: "none" });
    return nothingPending;
  };
}
