/**
 * The worker's HTTP surface, as vLLM's OpenAI server: routes, refusals, and the way from a request to the engine and back. A client
 * that goes away is aborted in the engine at once.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { hashesOfTokens, mix, seedOfText } from "../engine/block-hash.ts";
import { Engine, type EngineSink } from "../engine/engine.ts";
import type { EngineRequest, FinishReason, Sequence } from "../engine/sequence.ts";
import { type ApiError, badRequest, encodeApiError, modelNotFound } from "./api-error.ts";
import { EngineLoop } from "./engine-loop.ts";
import { Exchange, type Turn } from "./exchange.ts";
import {
  chatTokensOf,
  type InferenceBody,
  type InferenceKind,
  isObject,
  type JsonObject,
  parseInferenceBody,
  parseJsonObject,
} from "./inference-body.ts";
import type { WorkerFaults, WorkerOptions } from "./options.ts";
import { textOfTokens, tokensOfPieces } from "./tokenizer.ts";
import { WorkerMetrics } from "./worker-metrics.ts";

/** Told of what becomes reusable and what is evicted; undefined where nobody listens. */
export interface CacheListener {
  stored(sequence: Sequence<Turn>, firstBlock: number, count: number): void;
  removed(hashLo: number, hashHi: number): void;
  stepEnded(): void;
}

const inferencePaths: Readonly<Record<string, InferenceKind>> = {
  "/v1/chat/completions": "chat",
  "/v1/completions": "completion",
  "/v1/embeddings": "embedding",
};

/** Paths that may become a label: a client must not be able to grow the metrics page. */
const knownPaths = new Set([
  ...Object.keys(inferencePaths),
  "/v1/models",
  "/health",
  "/ping",
  "/version",
  "/metrics",
  "/tokenize",
  "/detokenize",
]);

export class WorkerServer implements EngineSink<Turn> {
  readonly engine: Engine<Turn>;
  readonly http: Server;
  readonly faults: WorkerFaults;
  readonly #options: WorkerOptions;
  readonly #metrics: WorkerMetrics;
  readonly #loop: EngineLoop<Turn>;
  readonly #cache: CacheListener | undefined;
  readonly #msToSeconds: number;
  #requests = 0;

  /** `cacheListener` gets the engine to read tokens from when it is told of blocks. */
  constructor(options: WorkerOptions, cacheListener: ((engine: Engine<Turn>) => CacheListener) | undefined) {
    this.#options = options;
    this.faults = { ...options.faults };
    this.engine = new Engine(
      {
        blockSize: options.blockSize,
        numBlocks: options.numGpuBlocks,
        maxNumSeqs: options.maxNumSeqs,
        maxNumBatchedTokens: options.maxNumBatchedTokens,
        maxModelLen: options.maxModelLen,
        maxLoras: options.loraModules.length > 0 ? Math.max(1, options.maxLoras) : 0,
        prefixCaching: options.prefixCaching,
        speeds: {
          prefillTokensPerSecond: options.prefillTokensPerSecond,
          decodeStepMs: options.decodeStepMs,
          attentionTokens: options.attentionTokens,
          adapterLoadMs: options.loraLoadMs,
          jitter: options.jitter,
        },
        seed: options.seed,
      },
      this,
    );
    this.#cache = cacheListener?.(this.engine);
    this.#loop = new EngineLoop(this.engine, options.timeScale);
    this.#msToSeconds = 1 / (1000 * options.timeScale);
    this.#metrics = new WorkerMetrics({
      modelName: options.servedModelNames[0] ?? "",
      blockSize: options.blockSize,
      numBlocks: options.numGpuBlocks,
      maxModelLen: this.engine.config.maxModelLen,
      maxLoras: options.maxLoras,
      hasAdapters: options.loraModules.length > 0,
      prefixCaching: options.prefixCaching,
    });
    this.http = createServer({ keepAliveTimeout: 75_000, noDelay: true }, (request, response) =>
      this.#onRequest(request, response),
    );
  }

  close(): void {
    this.#loop.close();
  }

  // The engine's events.

  admitted(sequence: Sequence<Turn>): void {
    sequence.request.owner.cachedTokens = sequence.cachedTokens;
    this.#noteAdapters(sequence);
  }

  token(sequence: Sequence<Turn>, token: number, atMs: number): void {
    const turn = sequence.request.owner;
    const { exchange } = turn;
    if (sequence.answered === 1) {
      this.#metrics.timeToFirstToken.observe((atMs - sequence.submittedMs) * this.#msToSeconds);
    } else {
      this.#metrics.interTokenLatency.observe((atMs - sequence.lastTokenMs) * this.#msToSeconds);
    }
    exchange.token(turn, token);
    if (this.faults.failAfterTokens > 0 && exchange.tokens >= this.faults.failAfterTokens) {
      this.#abort(exchange);
      exchange.destroy();
    }
  }

  finished(sequence: Sequence<Turn>, reason: FinishReason, atMs: number): void {
    const { request, submittedMs, admittedMs, answered } = sequence;
    const firstMs = sequence.firstTokenMs < 0 ? atMs : sequence.firstTokenMs;
    const times = {
      endToEnd: (atMs - submittedMs) * this.#msToSeconds,
      queued: (admittedMs - submittedMs) * this.#msToSeconds,
      inference: (atMs - admittedMs) * this.#msToSeconds,
      prefill: (firstMs - admittedMs) * this.#msToSeconds,
      decode: (atMs - firstMs) * this.#msToSeconds,
    };
    this.#metrics.countFinished(reason, times, request.promptTokens, answered, request.maxTokens);
    this.#noteAdapters(sequence);
    request.owner.exchange.finished(request.owner, reason);
  }

  preempted(sequence: Sequence<Turn>): void {
    this.#noteAdapters(sequence);
  }

  stored(sequence: Sequence<Turn>, firstBlock: number, count: number): void {
    this.#cache?.stored(sequence, firstBlock, count);
  }

  removed(hashLo: number, hashHi: number): void {
    this.#cache?.removed(hashLo, hashHi);
  }

  stepEnded(_atMs: number, promptTokens: number, answerTokens: number): void {
    this.#metrics.iterationTokens.observe(promptTokens + answerTokens);
    this.#cache?.stepEnded();
  }

  #noteAdapters(sequence: Sequence<Turn>): void {
    if (this.#options.loraModules.length === 0) return;
    if (sequence.request.adapter < 0) return;
    this.#noteAdaptersNow();
  }

  #noteAdaptersNow(): void {
    const running = new Set<string>();
    const waiting = new Set<string>();
    this.engine.forEachLive(({ phase, request }) => {
      const name = this.#options.loraModules[request.adapter];
      if (name !== undefined && phase !== "ended") (phase === "running" ? running : waiting).add(name);
    });
    this.#metrics.noteAdapters({ running: [...running].sort(), waiting: [...waiting].sort() });
  }

  // HTTP.

  #onRequest(request: IncomingMessage, response: ServerResponse): void {
    const startedMs = performance.now();
    const path = (request.url ?? "/").split("?", 1)[0] ?? "/";
    const method = request.method ?? "GET";
    response.setHeader("x-signalbox-worker", this.#options.name);
    response.once("finish", () => {
      this.#metrics.countResponse(
        method,
        knownPaths.has(path) ? path : "none",
        response.statusCode,
        (performance.now() - startedMs) / 1000,
      );
    });
    if (method === "GET" || method === "HEAD") {
      this.#answerGet(path, response);
      return;
    }
    if (method !== "POST") {
      this.#refuse(response, { status: 405, message: "Method Not Allowed", type: "MethodNotAllowed", param: null });
      return;
    }
    this.#readBody(request, response, (bytes) => this.#answerPost(path, request, response, bytes));
  }

  #answerGet(path: string, response: ServerResponse): void {
    switch (path) {
      case "/health":
      case "/ping":
        response.writeHead(200, { "content-length": "0" }).end();
        return;
      case "/version":
        this.#sendJson(response, { version: "0.11.0+signalbox.sim" });
        return;
      case "/v1/models":
        this.#sendJson(response, this.#models());
        return;
      case "/metrics":
        this.#sendMetrics(response);
        return;
      default:
        this.#refuse(response, { status: 404, message: "Not Found", type: "NotFoundError", param: null });
    }
  }

  #sendMetrics(response: ServerResponse): void {
    const page = this.#metrics.render(this.engine, this.faults.metricsMalformed);
    response.writeHead(200, {
      "content-type": "text/plain; version=0.0.4; charset=utf-8",
      "content-length": String(Buffer.byteLength(page)),
    });
    response.end(page);
  }

  #models(): unknown {
    const base = this.#options.servedModelNames[0];
    const card = (id: string, parent: string | null): unknown => ({
      id,
      object: "model",
      created: Math.floor(Date.now() / 1000),
      owned_by: "vllm",
      root: id,
      parent,
      max_model_len: parent === null ? this.engine.config.maxModelLen : null,
      permission: [],
    });
    return {
      object: "list",
      data: [
        ...this.#options.servedModelNames.map((name) => card(name, null)),
        ...this.#options.loraModules.map((name) => card(name, base ?? null)),
      ],
    };
  }

  /** Collects the body up to the limit; the callback runs once, and not at all when the client leaves. */
  #readBody(request: IncomingMessage, response: ServerResponse, onBody: (bytes: Buffer) => void): void {
    const chunks: Buffer[] = [];
    let size = 0;
    request.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= this.#options.maxBodyBytes) {
        chunks.push(chunk);
        return;
      }
      request.removeAllListeners("data").removeAllListeners("end");
      response.setHeader("connection", "close");
      this.#refuse(response, { status: 413, message: "Request body too large", type: "BadRequestError", param: null });
    });
    request.on("end", () => onBody(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks)));
    request.on("error", () => response.destroy());
  }

  #answerPost(path: string, request: IncomingMessage, response: ServerResponse, bytes: Buffer): void {
    const parsed = parseJsonObject(bytes);
    const kind = inferencePaths[path];
    if (kind === undefined && path !== "/tokenize" && path !== "/detokenize") {
      this.#refuse(response, { status: 404, message: "Not Found", type: "NotFoundError", param: null });
      return;
    }
    if ("error" in parsed) {
      this.#refuse(response, parsed.error);
      return;
    }
    if (kind === undefined) {
      if (path === "/tokenize") this.#tokenize(parsed.value, response);
      else this.#detokenize(parsed.value, response);
      return;
    }
    const reading = parseInferenceBody(kind, parsed.value);
    if ("error" in reading) this.#refuse(response, reading.error);
    else this.#infer(reading.body, request, response);
  }

  #infer(body: InferenceBody, request: IncomingMessage, response: ServerResponse): void {
    const model = body.model ?? this.#options.servedModelNames[0] ?? "";
    const adapter = this.#options.loraModules.indexOf(model);
    if (adapter < 0 && !this.#options.servedModelNames.includes(model)) {
      this.#refuse(response, modelNotFound(model));
      return;
    }
    const tooLong = body.prompts.find((prompt) => !this.#fits(body, prompt.length));
    if (tooLong !== undefined) {
      this.#refuse(response, this.#tooLong(body, tooLong.length));
      return;
    }
    const serial = this.#requests++;
    if (this.faults.errorRate > 0 && mix(this.#options.seed, serial) / 0x1_0000_0000 < this.faults.errorRate) {
      this.#refuse(response, { status: 500, message: "EngineCore failed", type: "InternalServerError", param: null });
      return;
    }
    if (this.faults.hang) return;
    const prefix = body.kind === "chat" ? "chatcmpl" : body.kind === "completion" ? "cmpl" : "embd";
    const given = request.headers["x-request-id"];
    const exchange = new Exchange(body, response, {
      id: `${prefix}-${typeof given === "string" ? given : `${this.#options.name}-${serial}`}`,
      model,
      createdSeconds: Math.floor(Date.now() / 1000),
      embeddingDimensions: this.#options.embeddingDimensions,
    });
    // 'close' also follows a complete answer; then there is nothing left to abort.
    response.once("close", () => this.#abort(exchange));
    const root = seedOfText(`${adapter < 0 ? "" : model}\u0000${body.cacheSalt}`);
    for (const turn of exchange.turns) this.#submit(turn, adapter, root);
    if (adapter >= 0) this.#noteAdaptersNow();
  }

  #submit(turn: Turn, adapter: number, root: number): void {
    const { body, sequences } = turn.exchange;
    const tokenIds = body.prompts[turn.index] ?? new Uint32Array();
    const blockHashes = hashesOfTokens(tokenIds, this.#options.blockSize, root);
    let seed = mix(this.#options.seed ^ body.seed, blockHashes.at(-1) ?? root);
    for (let at = (blockHashes.length >>> 1) * this.#options.blockSize; at < tokenIds.length; at++) {
      seed = mix(seed, tokenIds[at] ?? 0);
    }
    const request: EngineRequest<Turn> = {
      promptTokens: tokenIds.length,
      root,
      blockHashes,
      tokenIds,
      maxTokens: body.maxTokens,
      answerTokens: this.#naturalLength(body),
      seed,
      adapter,
      owner: turn,
    };
    const sequence = this.#loop.submit(request);
    // Lengths and adapters were checked before the first prompt was submitted.
    if (sequence === undefined) throw new Error("worker: the engine refused a checked request");
    sequences.push(sequence);
  }

  /** A model without a will of its own: it speaks up to the limit it was given. */
  #naturalLength(body: InferenceBody): number {
    if (body.kind === "embedding") return 0;
    if (body.maxTokens !== Number.POSITIVE_INFINITY) return Number.POSITIVE_INFINITY;
    return body.ignoreEos ? Number.POSITIVE_INFINITY : this.#options.answerTokens;
  }

  #fits(body: InferenceBody, promptTokens: number): boolean {
    const asked = body.maxTokens === Number.POSITIVE_INFINITY ? 1 : body.maxTokens;
    return promptTokens + asked <= this.engine.config.maxModelLen;
  }

  #tooLong(body: InferenceBody, promptTokens: number): ApiError {
    const { maxModelLen } = this.engine.config;
    const asked = Number.isFinite(body.maxTokens) ? body.maxTokens : 1;
    return badRequest(
      `This model's maximum context length is ${maxModelLen} tokens. However, you requested ${promptTokens + asked} tokens ` +
        `(${promptTokens} in the messages, ${asked} in the completion). Please reduce the length of the messages or completion.`,
    );
  }

  #abort(exchange: Exchange): void {
    if (exchange.isEnded) return;
    exchange.isEnded = true;
    for (const sequence of exchange.sequences) {
      if (!this.#loop.abort(sequence)) continue;
      this.#metrics.countAborted();
      this.#noteAdapters(sequence);
    }
  }

  #tokenize(value: JsonObject, response: ServerResponse): void {
    const prompt = value["prompt"];
    const tokens = typeof prompt === "string" ? tokensOfPieces([prompt]) : chatTokensOf(value);
    if (!(tokens instanceof Uint32Array)) {
      this.#refuse(response, tokens);
      return;
    }
    const { maxModelLen } = this.engine.config;
    this.#sendJson(response, {
      count: tokens.length,
      max_model_len: maxModelLen,
      tokens: [...tokens],
      token_strs: null,
    });
  }

  #detokenize(value: JsonObject, response: ServerResponse): void {
    const tokens = isObject(value) ? value["tokens"] : undefined;
    if (!Array.isArray(tokens) || !tokens.every((token) => typeof token === "number")) {
      this.#refuse(response, badRequest("tokens must be a list of token ids", "tokens"));
      return;
    }
    this.#sendJson(response, { prompt: textOfTokens(tokens) });
  }

  #refuse(response: ServerResponse, error: ApiError): void {
    this.#send(response, error.status, encodeApiError(error));
  }

  #sendJson(response: ServerResponse, value: unknown): void {
    this.#send(response, 200, JSON.stringify(value));
  }

  #send(response: ServerResponse, status: number, json: string): void {
    response.writeHead(status, {
      "content-type": "application/json",
      "content-length": String(Buffer.byteLength(json)),
    });
    response.end(json);
  }
}
