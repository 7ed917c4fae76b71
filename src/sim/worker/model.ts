/**
 * The served model: one engine in real time, its adapters, metrics and faults. Takes an inference body and the response to write to; every
 * sequence it submits is finished, or aborted as soon as its client has gone.
 */
import type { ServerResponse } from "node:http";
import { hashesOfTokens, mix, seedOfText } from "../engine/block-hash.ts";
import { Engine, type EngineSink } from "../engine/engine.ts";
import type { EngineRequest, FinishReason, Sequence } from "../engine/sequence.ts";
import { AdapterNames } from "./adapter-names.ts";
import { type ApiError, badRequest, modelNotFound } from "./api-error.ts";
import { EngineLoop } from "./engine-loop.ts";
import { Exchange, type Turn } from "./exchange.ts";
import type { InferenceBody } from "./inference-body.ts";
import type { WorkerFaults, WorkerOptions } from "./options.ts";
import { WorkerMetrics } from "./worker-metrics.ts";

/** Told of what becomes reusable and what is evicted, in order; `stepEnded` says that it is true by now. */
export interface CacheListener {
  stored(sequence: Sequence<Turn>, firstBlock: number, count: number): void;
  removed(hashLo: number, hashHi: number): void;
  cleared(): void;
  stepEnded(): void;
}

const idPrefixes = { chat: "chatcmpl", completion: "cmpl", embedding: "embd" } as const;

export class SimulatedModel implements EngineSink<Turn> {
  readonly engine: Engine<Turn>;
  readonly metrics: WorkerMetrics;
  readonly adapters: AdapterNames;
  readonly faults: WorkerFaults;
  readonly #options: WorkerOptions;
  readonly #loop: EngineLoop<Turn>;
  readonly #cache: CacheListener | undefined;
  readonly #msToSeconds: number;
  #requests = 0;

  /** `listenToCache` gets the model to read tokens and names from when it is told of blocks. */
  constructor(options: WorkerOptions, listenToCache: ((model: SimulatedModel) => CacheListener) | undefined) {
    this.#options = options;
    this.faults = { ...options.faults };
    this.adapters = new AdapterNames(options.loraModules);
    this.engine = new Engine(
      {
        blockSize: options.blockSize,
        numBlocks: options.numGpuBlocks,
        maxNumSeqs: options.maxNumSeqs,
        maxNumBatchedTokens: options.maxNumBatchedTokens,
        maxModelLen: options.maxModelLen,
        maxLoras: Math.max(1, options.maxLoras),
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
    this.#cache = listenToCache?.(this);
    this.#loop = new EngineLoop(this.engine, options.timeScale);
    this.#msToSeconds = 1 / (1000 * options.timeScale);
    this.metrics = new WorkerMetrics({
      modelName: options.servedModelNames[0] ?? "",
      blockSize: options.blockSize,
      numBlocks: options.numGpuBlocks,
      maxModelLen: this.engine.config.maxModelLen,
      maxLoras: options.maxLoras,
      prefixCaching: options.prefixCaching,
    });
  }

  close(): void {
    this.#loop.close();
  }

  metricsPage(): string {
    return this.metrics.render(this.engine, this.faults.metricsMalformed, this.adapters.served.length > 0);
  }

  /** Submits a request whose answer goes to `response`, or says why not. `requestId` becomes part of the answer's id. */
  infer(body: InferenceBody, requestId: string | undefined, response: ServerResponse): ApiError | undefined {
    const model = body.model ?? this.#options.servedModelNames[0] ?? "";
    const adapter = this.adapters.indexOf(model);
    if (adapter < 0 && !this.#options.servedModelNames.includes(model)) return modelNotFound(model);
    const tooLong = body.prompts.find((prompt) => !this.#fits(body, prompt.length));
    if (tooLong !== undefined) return this.#tooLong(body, tooLong.length);
    const serial = this.#requests++;
    if (this.faults.errorRate > 0 && mix(this.#options.seed, serial) / 0x1_0000_0000 < this.faults.errorRate) {
      return { status: 500, message: "EngineCore failed", type: "InternalServerError", param: null };
    }
    if (this.faults.hang) return undefined;
    const exchange = new Exchange(body, response, {
      id: `${idPrefixes[body.kind]}-${requestId ?? `${this.#options.name}-${serial}`}`,
      model,
      createdSeconds: Math.floor(Date.now() / 1000),
      embeddingDimensions: this.#options.embeddingDimensions,
    });
    // 'close' also follows a complete answer; then there is nothing left to abort.
    response.once("close", () => this.#abort(exchange));
    exchange.open();
    const root = seedOfText(`${adapter < 0 ? "" : model}\u0000${body.cacheSalt}`);
    for (const turn of exchange.turns) this.#submit(turn, adapter, root);
    if (adapter >= 0) this.#noteAdapters();
    return undefined;
  }

  // What the engine tells.

  admitted(sequence: Sequence<Turn>): void {
    sequence.request.owner.cachedTokens = sequence.cachedTokens;
    if (sequence.request.adapter >= 0) this.#noteAdapters();
  }

  token(sequence: Sequence<Turn>, token: number, atMs: number): void {
    const turn = sequence.request.owner;
    const { exchange } = turn;
    if (sequence.answered === 1) {
      this.metrics.timeToFirstToken.observe((atMs - sequence.submittedMs) * this.#msToSeconds);
    } else {
      this.metrics.interTokenLatency.observe((atMs - sequence.lastTokenMs) * this.#msToSeconds);
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
    this.metrics.countFinished(reason, times, request.promptTokens, answered, request.maxTokens);
    if (request.adapter >= 0) this.#noteAdapters();
    request.owner.exchange.finished(request.owner, reason);
  }

  preempted(sequence: Sequence<Turn>): void {
    if (sequence.request.adapter >= 0) this.#noteAdapters();
  }

  stored(sequence: Sequence<Turn>, firstBlock: number, count: number): void {
    this.#cache?.stored(sequence, firstBlock, count);
  }

  removed(hashLo: number, hashHi: number): void {
    this.#cache?.removed(hashLo, hashHi);
  }

  cleared(): void {
    this.#cache?.cleared();
    this.#cache?.stepEnded();
  }

  stepEnded(_atMs: number, promptTokens: number, answerTokens: number): void {
    this.metrics.iterationTokens.observe(promptTokens + answerTokens);
    this.#cache?.stepEnded();
  }

  #noteAdapters(): void {
    const running = new Set<string>();
    const waiting = new Set<string>();
    this.engine.forEachLive(({ phase, request }) => {
      const name = this.adapters.nameOf(request.adapter);
      if (name !== undefined && phase !== "ended") (phase === "running" ? running : waiting).add(name);
    });
    this.metrics.noteAdapters({ running: [...running].sort(), waiting: [...waiting].sort() });
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
    // Lengths were checked before the first prompt was submitted.
    if (sequence === undefined) throw new Error("worker: the engine refused a checked request");
    sequences.push(sequence);
  }

  #abort(exchange: Exchange): void {
    if (exchange.isEnded) return;
    exchange.isEnded = true;
    for (const sequence of exchange.sequences) {
      if (!this.#loop.abort(sequence)) continue;
      this.metrics.countAborted();
      if (sequence.request.adapter >= 0) this.#noteAdapters();
    }
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
}
