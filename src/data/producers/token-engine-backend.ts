/**
 * Asks an engine for the tokens of a request: vLLM's render endpoints take the request as it will be sent on and answer what the engine would compute.
 * Where an engine has none, its tokenize endpoint is asked, which takes the same bodies. Bounded in time, in answers' size and in requests under way.
 */
import { Agent, type ClientRequest, type IncomingMessage, request as requestHttp } from "node:http";
import { request as requestHttps, Agent as TlsAgent } from "node:https";
import type { InferenceRequest } from "../../request/inference-request.ts";
import type { ApiName } from "../../request/parsed-body.ts";
import { outgoingBody, outgoingBodyLength } from "../../request/splice.ts";
import type { PromptTokens } from "../attributes.ts";
import { type TokenBackend, TokenizeError } from "./token-backend.ts";
import { tokensOfAnswer } from "./token-render-answer.ts";

export interface EngineBackendOptions {
  /** http:// or https://, with or without a path before the endpoints'. */
  readonly url: URL;
  readonly timeoutMs: number;
  /** For bodies with images and the like, which the engine may have to fetch. */
  readonly mediaTimeoutMs: number;
  readonly maxAnswerBytes: number;
  readonly tls: {
    readonly verifies: boolean;
    readonly ca: string | undefined;
    readonly cert: string | undefined;
    readonly key: string | undefined;
  };
  readonly now: () => number;
}

const maxUnderWay = 256;
const maxSockets = 64;
const maxFreeSockets = 16;
/** After this an engine that had no render endpoint is asked for one again: it may have been replaced. */
const rememberMs = 300_000;

const renderPaths: Readonly<Partial<Record<ApiName, string>>> = {
  "openai-chat": "/v1/chat/completions/render",
  "openai-completions": "/v1/completions/render",
  "anthropic-messages": "/v1/messages/render",
};
const tokenizePath = "/tokenize";
/** Dialects whose bodies the tokenize endpoint takes as they are. */
const tokenizable: ReadonlySet<ApiName> = new Set<ApiName>(["openai-chat", "openai-completions"]);

const mediaMarks = ['"image_url"', '"input_audio"', '"audio_url"', '"video_url"', '"image"'].map((mark) =>
  Buffer.from(mark),
);

export class EngineTokenBackend implements TokenBackend {
  readonly timeoutMs: number;
  readonly #options: EngineBackendOptions;
  readonly #agent: Agent;
  readonly #open = new Set<ClientRequest>();
  /** By path of a render endpoint that is not there: until when it is not asked. */
  readonly #absentUntilMs = new Map<string, number>();
  #isClosed = false;

  constructor(options: EngineBackendOptions) {
    this.#options = options;
    this.timeoutMs = Math.max(options.timeoutMs, options.mediaTimeoutMs);
    const pool = { keepAlive: true, maxSockets, maxFreeSockets, scheduling: "lifo" } as const;
    const { verifies, ca, cert, key } = options.tls;
    this.#agent =
      options.url.protocol === "https:"
        ? new TlsAgent({
            ...pool,
            rejectUnauthorized: verifies,
            ...(ca === undefined ? {} : { ca }),
            ...(cert === undefined ? {} : { cert }),
            ...(key === undefined ? {} : { key }),
          })
        : new Agent(pool);
  }

  tokens(request: InferenceRequest): Promise<PromptTokens | undefined> | undefined {
    const { api } = request.parsed;
    const path = renderPaths[api];
    if (path === undefined || request.body.length === 0) return undefined;
    const parts = outgoingBody(request);
    return this.#tokens(api, path, parts, hasMedia(request.body), request.headers.get("authorization"));
  }

  close(): Promise<void> {
    this.#isClosed = true;
    for (const request of this.#open) request.destroy(new TokenizeError("CLOSED", "the tokenizer was closed"));
    this.#agent.destroy();
    return Promise.resolve();
  }

  async #tokens(
    api: ApiName,
    path: string,
    parts: readonly Buffer[],
    isMedia: boolean,
    authorization: string | undefined,
  ): Promise<PromptTokens> {
    const { timeoutMs, mediaTimeoutMs, now } = this.#options;
    const deadlineMs = now() + (isMedia ? mediaTimeoutMs : timeoutMs);
    if (now() >= (this.#absentUntilMs.get(path) ?? Number.NEGATIVE_INFINITY)) {
      const answer = await this.#post(path, parts, authorization, deadlineMs);
      if (answer.status !== 404 && answer.status !== 405) return tokensOf(path, answer);
      this.#absentUntilMs.set(path, now() + rememberMs);
    }
    if (!tokenizable.has(api)) throw new TokenizeError("STATUS", `the engine has no ${path}`);
    return tokensOf(tokenizePath, await this.#post(tokenizePath, parts, authorization, deadlineMs));
  }

  #post(
    path: string,
    parts: readonly Buffer[],
    authorization: string | undefined,
    deadlineMs: number,
    isRetry = false,
  ): Promise<{ readonly status: number; readonly body: Buffer }> {
    if (this.#isClosed) return Promise.reject(new TokenizeError("CLOSED", "the tokenizer was closed"));
    if (this.#open.size >= maxUnderWay) {
      return Promise.reject(new TokenizeError("BUSY", `${maxUnderWay} requests wait for tokens already`));
    }
    const { url, now } = this.#options;
    const send = url.protocol === "https:" ? requestHttps : requestHttp;
    return new Promise((resolve, reject) => {
      const request = send(new URL(url.pathname.replace(/\/+$/, "") + path, url), {
        method: "POST",
        agent: isRetry ? false : this.#agent,
        headers: {
          "content-type": "application/json",
          "content-length": outgoingBodyLength(parts),
          ...(authorization === undefined ? {} : { authorization }),
        },
      });
      this.#open.add(request);
      const fail = (error: TokenizeError): void => {
        reject(error);
        request.destroy();
      };
      const timer = setTimeout(
        () => fail(new TokenizeError("TIMEOUT", `${path} did not answer in time`)),
        Math.max(1, deadlineMs - now()),
      );
      request.once("close", () => {
        clearTimeout(timer);
        this.#open.delete(request);
        // After an answer in full this changes nothing.
        reject(new TokenizeError("BROKEN", `${path}: the connection was closed`));
      });
      request.once("error", (error) => {
        // Engines close idle connections without a word: what was sent on one may not have arrived.
        if (request.reusedSocket && !isRetry && !this.#isClosed && !(error instanceof TokenizeError)) {
          resolve(this.#post(path, parts, authorization, deadlineMs, true));
          return;
        }
        fail(error instanceof TokenizeError ? error : new TokenizeError("BROKEN", `${path}: ${error.message}`, error));
      });
      request.once("response", (response) => this.#collect(path, response, resolve, fail));
      for (const part of parts) request.write(part);
      request.end();
    });
  }

  #collect(
    path: string,
    response: IncomingMessage,
    done: (answer: { readonly status: number; readonly body: Buffer }) => void,
    fail: (error: TokenizeError) => void,
  ): void {
    const { maxAnswerBytes } = this.#options;
    const chunks: Buffer[] = [];
    let size = 0;
    response.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= maxAnswerBytes) chunks.push(chunk);
      else fail(new TokenizeError("TOO_LARGE", `${path}: the answer is larger than ${maxAnswerBytes} bytes`));
    });
    response.once("error", (error) => fail(new TokenizeError("BROKEN", `${path}: ${error.message}`, error)));
    response.once("end", () => {
      if (response.complete) done({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) });
    });
  }
}

function tokensOf(path: string, { status, body }: { readonly status: number; readonly body: Buffer }): PromptTokens {
  if (status < 200 || status > 299) throw new TokenizeError("STATUS", `${path} answered ${status}`);
  const tokens = tokensOfAnswer(body);
  if (tokens === undefined) throw new TokenizeError("UNREADABLE", `${path} answered no tokens`);
  return tokens;
}

function hasMedia(body: Buffer): boolean {
  return mediaMarks.some((mark) => body.includes(mark));
}
