/**
 * Turns a trace's request into a chat body. A hash id becomes a text of its own, so equal leading ids give equal leading bytes of
 * the body, and the length in bytes is about four times the length in tokens.
 */
import { answerText, answerToken } from "../engine/answer-tokens.ts";
import { type TraceRequest, traceBlockTokens } from "./trace.ts";

/** Below this many words two blocks could have the same text by chance. */
const leastWordsABlock = 8;

export interface PromptOptions {
  readonly model: string;
  readonly stream: boolean;
  /** Tokens of prompt sent for each of the trace's; 0.1 makes prompts a tenth as long. */
  readonly tokenScale: number;
  /** The same for answers. */
  readonly outputScale: number;
}

/** Words sent for a whole block of the trace. */
function wordsOfBlock(tokenScale: number): number {
  return Math.max(leastWordsABlock, Math.round(traceBlockTokens * tokenScale));
}

/** The prompt as text: words of four bytes, one a token. */
export function promptTextOf(request: TraceRequest, tokenScale: number): string {
  const full = wordsOfBlock(tokenScale);
  const lastTokens = request.inputTokens - (request.hashIds.length - 1) * traceBlockTokens;
  const last = Math.max(1, Math.round((full * lastTokens) / traceBlockTokens));
  let text = "";
  for (const [index, id] of request.hashIds.entries()) {
    const words = index === request.hashIds.length - 1 ? last : full;
    for (let word = 0; word < words; word++) text += answerText(answerToken(id, word));
  }
  return text;
}

/** Tokens of answer to ask for. */
export function outputTokensOf(request: TraceRequest, outputScale: number): number {
  return Math.max(1, Math.round(request.outputTokens * outputScale));
}

/** The JSON body of POST /v1/chat/completions. The prompt stands before all that differs between requests. */
export function promptOf(request: TraceRequest, options: PromptOptions): string {
  return JSON.stringify({
    model: options.model,
    messages: [{ role: "user", content: promptTextOf(request, options.tokenScale) }],
    max_tokens: outputTokensOf(request, options.outputScale),
    stream: options.stream,
    ...(options.stream ? { stream_options: { include_usage: true } } : {}),
  });
}
