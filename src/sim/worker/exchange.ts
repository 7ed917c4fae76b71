/**
 * One inference request on HTTP: its sequences in the engine and the answer being written. Exactly one of three things ends it:
 * all sequences finished, the client went away, or a fault on purpose.
 */
import type { ServerResponse } from "node:http";
import { answerText } from "../engine/answer-tokens.ts";
import { mix } from "../engine/block-hash.ts";
import type { FinishReason, Sequence } from "../engine/sequence.ts";
import type { InferenceBody } from "./inference-body.ts";

/** Owner of a sequence: which exchange, and which of its prompts. */
export interface Turn {
  readonly exchange: Exchange;
  readonly index: number;
  text: string;
  reason: FinishReason | undefined;
  promptTokens: number;
  answered: number;
  cachedTokens: number;
}

export interface AnswerIdentity {
  readonly id: string;
  readonly model: string;
  readonly createdSeconds: number;
  readonly embeddingDimensions: number;
}

export class Exchange {
  readonly body: InferenceBody;
  readonly turns: Turn[] = [];
  readonly sequences: Sequence<Turn>[] = [];
  isEnded = false;
  tokens = 0;
  readonly #response: ServerResponse;
  readonly #identity: AnswerIdentity;
  /** What every event of the stream begins with, up to the choices. */
  readonly #eventHead: string;
  #unfinished: number;

  constructor(body: InferenceBody, response: ServerResponse, identity: AnswerIdentity) {
    this.body = body;
    this.#response = response;
    this.#identity = identity;
    this.#unfinished = body.prompts.length;
    const object = body.kind === "chat" ? "chat.completion.chunk" : "text_completion";
    this.#eventHead = `data: {"id":${JSON.stringify(identity.id)},"object":"${object}","created":${identity.createdSeconds},"model":${JSON.stringify(identity.model)},"choices":[`;
    for (const [index, prompt] of body.prompts.entries()) {
      this.turns.push({
        exchange: this,
        index,
        text: "",
        reason: undefined,
        promptTokens: prompt.length,
        answered: 0,
        cachedTokens: 0,
      });
    }
  }

  /** Sends a stream's headers: as vLLM does, when the request is accepted, long before the first token. */
  open(): void {
    if (!this.body.stream) return;
    this.#response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8" });
    this.#response.flushHeaders();
  }

  /** Writes a token as an event of its own, or keeps it for the whole answer. */
  token(turn: Turn, token: number): void {
    this.tokens++;
    turn.answered++;
    const text = answerText(token);
    if (!this.body.stream) {
      turn.text += text;
      return;
    }
    // Answer texts come from a fixed vocabulary without a character that JSON escapes.
    if (this.body.kind === "chat") {
      if (turn.answered === 1) {
        this.#event(
          `{"index":${turn.index},"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}`,
        );
      }
      this.#event(`{"index":${turn.index},"delta":{"content":"${text}"},"logprobs":null,"finish_reason":null}`);
      return;
    }
    this.#event(`{"index":${turn.index},"text":"${text}","logprobs":null,"finish_reason":null,"stop_reason":null}`);
  }

  /** One sequence is done; the last one ends the answer. True when it did. */
  finished(turn: Turn, reason: FinishReason): boolean {
    turn.reason = reason;
    if (this.body.stream) this.#finalEvent(turn, reason);
    this.#unfinished--;
    if (this.#unfinished > 0) return false;
    this.isEnded = true;
    if (this.body.stream) this.#closeStream();
    else this.#sendWhole();
    return true;
  }

  /** Cuts the connection, as a dying process does. */
  destroy(): void {
    this.#response.destroy();
  }

  #event(choice: string): void {
    const tail = this.body.continuousUsage ? `],"usage":${this.#usage()}}\n\n` : "]}\n\n";
    this.#response.write(this.#eventHead + choice + tail);
  }

  #finalEvent(turn: Turn, reason: FinishReason): void {
    if (this.body.kind === "chat") {
      this.#event(`{"index":${turn.index},"delta":{},"logprobs":null,"finish_reason":"${reason}","stop_reason":null}`);
    } else {
      this.#event(`{"index":${turn.index},"text":"","logprobs":null,"finish_reason":"${reason}","stop_reason":null}`);
    }
  }

  #closeStream(): void {
    if (this.body.includeUsage) this.#response.write(`${this.#eventHead}],"usage":${this.#usage()}}\n\n`);
    this.#response.end("data: [DONE]\n\n");
  }

  #usage(): string {
    let prompt = 0;
    let answered = 0;
    let cached = 0;
    for (const turn of this.turns) {
      prompt += turn.promptTokens;
      answered += turn.answered;
      cached += turn.cachedTokens;
    }
    return `{"prompt_tokens":${prompt},"total_tokens":${prompt + answered},"completion_tokens":${answered},"prompt_tokens_details":{"cached_tokens":${cached}}}`;
  }

  #sendWhole(): void {
    const { id, model, createdSeconds } = this.#identity;
    const { kind } = this.body;
    const object = kind === "chat" ? "chat.completion" : kind === "completion" ? "text_completion" : "list";
    const head = `{"id":${JSON.stringify(id)},"object":"${object}","created":${createdSeconds},"model":${JSON.stringify(model)}`;
    const list = this.turns.map((turn) => this.#item(turn)).join(",");
    const page = `${head},"${kind === "embedding" ? "data" : "choices"}":[${list}],"usage":${this.#usage()}}`;
    this.#response.writeHead(200, {
      "content-type": "application/json",
      "content-length": String(Buffer.byteLength(page)),
    });
    this.#response.end(page);
  }

  #item(turn: Turn): string {
    switch (this.body.kind) {
      case "chat":
        return `{"index":${turn.index},"message":{"role":"assistant","content":${JSON.stringify(turn.text)},"refusal":null,"tool_calls":[]},"logprobs":null,"finish_reason":"${turn.reason}","stop_reason":null}`;
      case "completion":
        return `{"index":${turn.index},"text":${JSON.stringify(turn.text)},"logprobs":null,"finish_reason":"${turn.reason}","stop_reason":null,"prompt_logprobs":null}`;
      case "embedding":
        return `{"index":${turn.index},"object":"embedding","embedding":${this.#embedding(turn)}}`;
      default:
        return this.body.kind satisfies never;
    }
  }

  #embedding(turn: Turn): string {
    const seed = this.sequences[turn.index]?.request.seed ?? 0;
    const values: number[] = [];
    for (let at = 0; at < this.#identity.embeddingDimensions; at++) values.push(mix(seed, at) / 0x80000000 - 1);
    return JSON.stringify(values);
  }
}
