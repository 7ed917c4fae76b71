/**
 * The simulated inference engine: continuous batching with chunked prefill over a paged, prefix-sharing KV cache. A pure state
 * machine over a clock that the caller owns: no timers, no I/O, no randomness but the seed, so the same code serves HTTP in real
 * time and runs by the thousand on a virtual clock. Rules follow vLLM's v1 scheduler: running requests first, then waiting ones
 * in order; preemption of the youngest, by recomputation, when blocks run out.
 */
import { AdapterSlots } from "./adapter-slots.ts";
import { answerToken } from "./answer-tokens.ts";
import { hashBlock, mix } from "./block-hash.ts";
import { BlockPool } from "./block-pool.ts";
import { type EngineRequest, type FinishReason, Sequence, SequenceQueue } from "./sequence.ts";
import { type EngineSpeeds, prefillWork, stepMs } from "./timing.ts";

export interface EngineConfig {
  /** Tokens a block. */
  readonly blockSize: number;
  /** Blocks of KV cache. */
  readonly numBlocks: number;
  readonly maxNumSeqs: number;
  /** Token budget of a step; at least maxNumSeqs is used. */
  readonly maxNumBatchedTokens: number;
  /** Prompt and answer together; never more than the cache holds. */
  readonly maxModelLen: number;
  /** LoRA slots. */
  readonly maxLoras: number;
  readonly prefixCaching: boolean;
  readonly speeds: EngineSpeeds;
  readonly seed: number;
}

/**
 * What the engine tells its owner, during `advance` (and `submit`, which may advance). All times are on the caller's clock.
 * `stored` and `removed` are told when a step is scheduled; a publisher sends them at `stepEnded`, when they are true.
 */
export interface EngineSink<Owner> {
  /** Left the waiting queue; also after a preemption. */
  admitted(sequence: Sequence<Owner>, atMs: number): void;
  token(sequence: Sequence<Owner>, token: number, atMs: number): void;
  finished(sequence: Sequence<Owner>, reason: FinishReason, atMs: number): void;
  preempted(sequence: Sequence<Owner>, atMs: number): void;
  /** Blocks [firstBlock, firstBlock + count) of the sequence are now reusable; hashes in `sequence.hashes`. */
  stored(sequence: Sequence<Owner>, firstBlock: number, count: number): void;
  removed(hashLo: number, hashHi: number): void;
  /** Nothing is reusable any more. */
  cleared(): void;
  stepEnded(atMs: number, promptTokens: number, answerTokens: number): void;
}

/** Running totals since the start. */
export interface EngineCounters {
  promptTokens: number;
  answerTokens: number;
  /** Prompt tokens looked up in, and found in, the prefix cache. */
  prefixQueries: number;
  prefixHits: number;
  preemptions: number;
  finished: number;
  aborted: number;
}

export class Engine<Owner> {
  readonly config: EngineConfig;
  readonly counters: EngineCounters;
  readonly #sink: EngineSink<Owner>;
  readonly #pool: BlockPool;
  readonly #slots: AdapterSlots;
  readonly #waiting = new SequenceQueue<Owner>();
  readonly #running: Sequence<Owner>[] = [];
  readonly #blockTokens: Uint32Array;
  readonly #capacityTokens: number;
  readonly #tokenBudget: number;
  #nextEventMs = Number.POSITIVE_INFINITY;
  #isInStep = false;
  #isEndingStep = false;
  #steps = 0;
  #blockedAtRelease = -1;
  #stepPromptTokens = 0;
  #stepWork = 0;
  #stepDecodes = 0;
  #stepContext = 0;
  #stepLoads = 0;

  constructor(config: EngineConfig, sink: EngineSink<Owner>) {
    const capacity = config.numBlocks * config.blockSize;
    // A request that outgrows the whole cache could never finish, so the model's length ends where the cache does.
    this.config = { ...config, maxModelLen: Math.min(config.maxModelLen, capacity) };
    this.#sink = sink;
    this.#capacityTokens = capacity;
    this.#tokenBudget = Math.max(config.maxNumBatchedTokens, config.maxNumSeqs);
    this.#pool = new BlockPool(config.numBlocks, (lo, hi) => sink.removed(lo, hi));
    this.#slots = new AdapterSlots(config.maxLoras);
    this.#blockTokens = new Uint32Array(config.blockSize);
    this.counters = {
      promptTokens: 0,
      answerTokens: 0,
      prefixQueries: 0,
      prefixHits: 0,
      preemptions: 0,
      finished: 0,
      aborted: 0,
    };
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get running(): number {
    return this.#running.length;
  }

  /** Blocks referenced by running requests. */
  get usedBlocks(): number {
    return this.#pool.size - this.#pool.free;
  }

  get cachedBlocks(): number {
    return this.#pool.cachedBlocks();
  }

  /** Every live sequence, running ones first. For metrics pages and tests, not for hot paths. */
  forEachLive(visit: (sequence: Sequence<Owner>) => void): void {
    for (const sequence of this.#running) visit(sequence);
    for (let sequence = this.#waiting.first; sequence; sequence = sequence.next) visit(sequence);
  }

  /** When something happens next, on the caller's clock; Infinity when idle. */
  nextEventMs(): number {
    return this.#nextEventMs;
  }

  /**
   * Queues a request at `nowMs`, which is not before the last `advance`. Undefined when prompt and one token of answer exceed
   * the model's length, or when it needs an adapter and there are no slots.
   */
  submit(request: EngineRequest<Owner>, nowMs: number): Sequence<Owner> | undefined {
    const room = this.config.maxModelLen - request.promptTokens;
    const least = request.answerTokens > 0 ? 1 : 0;
    if (room < least || request.promptTokens < 1) return undefined;
    if (request.adapter >= 0 && this.config.maxLoras === 0) return undefined;
    const limit = Math.max(least, Math.min(request.answerTokens, request.maxTokens, room));
    const sequence = new Sequence(request, limit, this.config.blockSize, nowMs);
    this.#waiting.pushBack(sequence);
    if (!this.#isInStep && this.#nextEventMs > nowMs) this.#nextEventMs = nowMs;
    return sequence;
  }

  /** Ends a sequence and frees its blocks at once. False when it had ended already. */
  abort(sequence: Sequence<Owner>): boolean {
    if (sequence.phase === "ended") return false;
    const wasRunning = sequence.phase === "running";
    if (wasRunning) this.#freeResources(sequence);
    else this.#waiting.remove(sequence);
    sequence.phase = "ended";
    this.counters.aborted++;
    // While a step ends, the loop over the running set drops ended ones itself.
    if (wasRunning && !this.#isEndingStep) this.#running.splice(this.#running.indexOf(sequence), 1);
    return true;
  }

  /** Empties the prefix cache. False, and nothing done, while requests run. */
  resetPrefixCache(): boolean {
    if (!this.#pool.forgetAll()) return false;
    this.#sink.cleared();
    return true;
  }

  /** Runs everything that happens up to and including `nowMs`. */
  advance(nowMs: number): void {
    while (this.#nextEventMs <= nowMs) {
      const atMs = this.#nextEventMs;
      if (this.#isInStep) this.#endStep(atMs);
      if (this.#running.length === 0 && this.#waiting.length === 0) {
        this.#nextEventMs = Number.POSITIVE_INFINITY;
        return;
      }
      this.#beginStep(atMs);
    }
  }

  #beginStep(atMs: number): void {
    this.#stepPromptTokens = 0;
    this.#stepWork = 0;
    this.#stepDecodes = 0;
    this.#stepContext = 0;
    this.#stepLoads = 0;
    const preemptions = this.counters.preemptions;
    const budget = this.#scheduleRunning(atMs);
    if (this.counters.preemptions === preemptions) this.#admitWaiting(budget, atMs);
    const { speeds, seed } = this.config;
    let lengthMs = stepMs(speeds, this.#stepDecodes, this.#stepContext, this.#capacityTokens, this.#stepWork);
    lengthMs += this.#stepLoads * speeds.adapterLoadMs;
    if (speeds.jitter > 0) lengthMs *= 1 + speeds.jitter * (mix(seed, this.#steps) / 0x80000000 - 1);
    this.#steps++;
    this.#isInStep = true;
    this.#nextEventMs = atMs + lengthMs;
  }

  /** Returns the budget left for waiting requests. */
  #scheduleRunning(atMs: number): number {
    let budget = this.#tokenBudget;
    for (let index = 0; index < this.#running.length && budget > 0; index++) {
      const sequence = this.#running[index];
      if (sequence === undefined) break;
      const tokens = Math.min(sequence.knownTokens - sequence.computed, budget);
      // The youngest is last: it gives way first, to the point of giving way to itself.
      while (!this.#reserve(sequence, sequence.computed + tokens)) {
        const youngest = this.#running.pop();
        if (youngest === undefined) throw new Error("engine: a request outgrew the cache");
        this.#preempt(youngest, atMs);
        if (youngest === sequence) return budget;
      }
      this.#schedule(sequence, tokens);
      budget -= tokens;
    }
    return budget;
  }

  #admitWaiting(tokenBudget: number, atMs: number): void {
    if (this.#blockedAtRelease === this.#pool.releases) return;
    this.#blockedAtRelease = -1;
    let budget = tokenBudget;
    let sequence = this.#waiting.first;
    while (sequence !== undefined && budget > 0 && this.#running.length < this.config.maxNumSeqs) {
      const following: Sequence<Owner> | undefined = sequence.next;
      // A request whose adapter finds no slot lets others pass, as in vLLM.
      if (this.#slots.canRun(sequence.request.adapter)) {
        const hits = this.config.prefixCaching ? this.#matchPrefix(sequence) : 0;
        const hitTokens = hits * this.config.blockSize;
        const tokens = Math.min(sequence.knownTokens - hitTokens, budget);
        if (!this.#fits(sequence, hits, hitTokens + tokens)) {
          this.#blockedAtRelease = this.#pool.releases;
          return;
        }
        this.#admit(sequence, hits, tokens, atMs);
        budget -= tokens;
      }
      sequence = following;
    }
  }

  /** Fills `sequence.blocks` with the cached leading blocks and returns their number; one token is always left to compute. */
  #matchPrefix(sequence: Sequence<Owner>): number {
    const { blockSize } = this.config;
    const most = Math.min(Math.floor((sequence.knownTokens - 1) / blockSize), sequence.hashedBlocks);
    let hits = 0;
    while (hits < most) {
      const block = this.#pool.find(sequence.hashes[hits * 2] ?? 0, sequence.hashes[hits * 2 + 1] ?? 0);
      if (block < 0) break;
      sequence.blocks[hits++] = block;
    }
    return hits;
  }

  #fits(sequence: Sequence<Owner>, hits: number, tokens: number): boolean {
    let needed = Math.ceil(tokens / this.config.blockSize) - hits;
    for (let index = 0; index < hits; index++) {
      if (!this.#pool.isReferenced(sequence.blocks[index] ?? 0)) needed++;
    }
    return needed <= this.#pool.free;
  }

  #admit(sequence: Sequence<Owner>, hits: number, tokens: number, atMs: number): void {
    this.#waiting.remove(sequence);
    for (let index = 0; index < hits; index++) this.#pool.retain(sequence.blocks[index] ?? 0);
    sequence.blockCount = hits;
    sequence.cachedBlocks = hits;
    sequence.computed = hits * this.config.blockSize;
    if (sequence.admittedMs < 0) {
      sequence.admittedMs = atMs;
      sequence.cachedTokens = sequence.computed;
      this.counters.prefixQueries += sequence.request.promptTokens;
      this.counters.prefixHits += sequence.computed;
    }
    if (this.#slots.acquire(sequence.request.adapter)) this.#stepLoads++;
    sequence.phase = "running";
    this.#running.push(sequence);
    if (!this.#reserve(sequence, sequence.computed + tokens)) throw new Error("engine: admitted what does not fit");
    this.#schedule(sequence, tokens);
    this.#sink.admitted(sequence, atMs);
  }

  #reserve(sequence: Sequence<Owner>, tokens: number): boolean {
    const blocks = Math.ceil(tokens / this.config.blockSize);
    if (blocks - sequence.blockCount > this.#pool.free) return false;
    while (sequence.blockCount < blocks) sequence.blocks[sequence.blockCount++] = this.#pool.take();
    return true;
  }

  #schedule(sequence: Sequence<Owner>, tokens: number): void {
    sequence.scheduled = tokens;
    const isDecode = tokens === 1 && sequence.answered > 0;
    if (isDecode) {
      this.#stepDecodes++;
      this.#stepContext += sequence.computed;
    } else {
      this.#stepPromptTokens += tokens;
      this.#stepWork += prefillWork(tokens, sequence.computed, this.config.speeds);
    }
    if (this.config.prefixCaching) this.#cacheBlocks(sequence, sequence.computed + tokens);
  }

  /** As vLLM does, a block is reusable from the step that computes it: a burst of one prefix is computed once. */
  #cacheBlocks(sequence: Sequence<Owner>, tokens: number): void {
    const full = Math.floor(tokens / this.config.blockSize);
    let runStart = sequence.cachedBlocks;
    for (let index = sequence.cachedBlocks; index < full; index++) {
      if (index >= sequence.hashedBlocks) this.#hashAnswerBlock(sequence, index);
      const lo = sequence.hashes[index * 2] ?? 0;
      const hi = sequence.hashes[index * 2 + 1] ?? 0;
      if (this.#pool.cache(sequence.blocks[index] ?? 0, lo, hi)) continue;
      if (index > runStart) this.#sink.stored(sequence, runStart, index - runStart);
      runStart = index + 1;
    }
    if (full > runStart) this.#sink.stored(sequence, runStart, full - runStart);
    if (full > sequence.cachedBlocks) sequence.cachedBlocks = full;
  }

  #hashAnswerBlock(sequence: Sequence<Owner>, index: number): void {
    const { request, hashes } = sequence;
    this.tokensOfBlock(sequence, index, this.#blockTokens, 0);
    const lo = index > 0 ? (hashes[index * 2 - 2] ?? 0) : request.root;
    const hi = index > 0 ? (hashes[index * 2 - 1] ?? 0) : request.root;
    hashBlock(hashes, index * 2, lo, hi, this.#blockTokens, 0, this.config.blockSize);
    sequence.hashedBlocks = index + 1;
  }

  /** Writes the token ids of a full block of the sequence to `out[at…]`. */
  tokensOfBlock(sequence: Sequence<Owner>, block: number, out: Uint32Array, at: number): void {
    const { promptTokens, tokenIds, seed } = sequence.request;
    const start = block * this.config.blockSize;
    for (let offset = 0; offset < this.config.blockSize; offset++) {
      const position = start + offset;
      if (position >= promptTokens) out[at + offset] = answerToken(seed, position - promptTokens);
      else out[at + offset] = tokenIds?.[position] ?? mix(seed, position);
    }
  }

  #preempt(sequence: Sequence<Owner>, atMs: number): void {
    this.#freeResources(sequence);
    sequence.computed = 0;
    sequence.scheduled = 0;
    sequence.cachedBlocks = 0;
    sequence.phase = "waiting";
    this.#waiting.pushFront(sequence);
    this.counters.preemptions++;
    this.#sink.preempted(sequence, atMs);
  }

  #freeResources(sequence: Sequence<Owner>): void {
    // Last block first: the tail of a prefix is the least likely to be asked for again, so it is evicted first.
    for (let index = sequence.blockCount - 1; index >= 0; index--) this.#pool.release(sequence.blocks[index] ?? 0);
    sequence.blockCount = 0;
    this.#slots.release(sequence.request.adapter);
    // A freed slot may admit a request that waits behind one that does not fit.
    this.#blockedAtRelease = -1;
  }

  #endStep(atMs: number): void {
    this.#isInStep = false;
    this.#isEndingStep = true;
    const answered = this.counters.answerTokens;
    let kept = 0;
    for (let index = 0; index < this.#running.length; index++) {
      const sequence = this.#running[index];
      if (sequence === undefined) break;
      if (sequence.phase === "running" && sequence.scheduled > 0) this.#endTurn(sequence, atMs);
      if (sequence.phase === "running") this.#running[kept++] = sequence;
    }
    this.#running.length = kept;
    this.#isEndingStep = false;
    this.#sink.stepEnded(atMs, this.#stepPromptTokens, this.counters.answerTokens - answered);
  }

  /** One sequence's share of a step: a chunk of its prompt done, or a token of answer. */
  #endTurn(sequence: Sequence<Owner>, atMs: number): void {
    sequence.computed += sequence.scheduled;
    sequence.scheduled = 0;
    if (sequence.computed < sequence.knownTokens) return;
    if (sequence.answered === 0) this.counters.promptTokens += sequence.request.promptTokens;
    if (sequence.answerLimit > 0) {
      const token = answerToken(sequence.request.seed, sequence.answered);
      sequence.answered++;
      this.counters.answerTokens++;
      if (sequence.firstTokenMs < 0) sequence.firstTokenMs = atMs;
      this.#sink.token(sequence, token, atMs);
      sequence.lastTokenMs = atMs;
      // The sink may have aborted it, for instance because its client is gone.
      if (sequence.answered < sequence.answerLimit || !isRunning(sequence)) return;
    }
    this.#freeResources(sequence);
    sequence.phase = "ended";
    this.counters.finished++;
    const reason = sequence.answered < sequence.request.answerTokens ? "length" : "stop";
    this.#sink.finished(sequence, reason, atMs);
  }
}

/** Asked after a callback, when control flow analysis still believes the phase of before. */
function isRunning<Owner>(sequence: Sequence<Owner>): boolean {
  return sequence.phase === "running";
}
