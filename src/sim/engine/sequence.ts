/** A request inside the engine, and the first-come-first-served queue of those that wait (an intrusive list: no allocation). */

export interface EngineRequest<Owner> {
  readonly promptTokens: number;
  /** What the first block's hash starts from: model, adapter and cache salt. */
  readonly root: number;
  /** Hashes of the prompt's full blocks, (low, high) pairs; see `hashesOfTokens`. */
  readonly blockHashes: Uint32Array;
  /** The prompt itself. Without it blocks that mix prompt and answer are never found again, and KV events lack their tokens. */
  readonly tokenIds: Uint32Array | undefined;
  /** The client's limit; Infinity when it set none. */
  readonly maxTokens: number;
  /** Where the model would stop by itself, in tokens; 0 for a request that is only computed, as an embedding. */
  readonly answerTokens: number;
  /** What the answer's tokens are drawn from. */
  readonly seed: number;
  /** Index of the LoRA adapter, -1 for the base model. */
  readonly adapter: number;
  /** The caller's own, handed back with every event. */
  readonly owner: Owner;
}

export type FinishReason = "stop" | "length";

export class Sequence<Owner> {
  readonly request: EngineRequest<Owner>;
  readonly submittedMs: number;
  /** Tokens of answer at which it ends. */
  readonly answerLimit: number;
  phase: "waiting" | "running" | "ended" = "waiting";
  /** Tokens whose KV is computed or found in the cache. */
  computed = 0;
  /** Tokens being computed in the step under way. */
  scheduled = 0;
  /** Tokens of answer so far. */
  answered = 0;
  /** Prompt tokens found in the cache at first admission. */
  cachedTokens = 0;
  admittedMs = -1;
  firstTokenMs = -1;
  lastTokenMs = -1;
  readonly blocks: Int32Array;
  blockCount = 0;
  /** Leading blocks that were offered to the cache. */
  cachedBlocks = 0;
  /** (low, high) pairs of the leading `hashedBlocks` blocks, answer included. */
  readonly hashes: Uint32Array;
  hashedBlocks: number;
  previous: Sequence<Owner> | undefined = undefined;
  next: Sequence<Owner> | undefined = undefined;

  constructor(request: EngineRequest<Owner>, answerLimit: number, blockSize: number, nowMs: number) {
    this.request = request;
    this.submittedMs = nowMs;
    this.answerLimit = answerLimit;
    const blocks = Math.ceil((request.promptTokens + answerLimit) / blockSize);
    this.blocks = new Int32Array(blocks);
    this.hashes = new Uint32Array(blocks * 2);
    this.hashes.set(request.blockHashes);
    this.hashedBlocks = request.blockHashes.length >>> 1;
  }

  /** Tokens that exist: prompt and answer so far. */
  get knownTokens(): number {
    return this.request.promptTokens + this.answered;
  }
}

export class SequenceQueue<Owner> {
  first: Sequence<Owner> | undefined = undefined;
  #last: Sequence<Owner> | undefined = undefined;
  length = 0;

  pushBack(sequence: Sequence<Owner>): void {
    sequence.previous = this.#last;
    sequence.next = undefined;
    if (this.#last) this.#last.next = sequence;
    else this.first = sequence;
    this.#last = sequence;
    this.length++;
  }

  pushFront(sequence: Sequence<Owner>): void {
    sequence.previous = undefined;
    sequence.next = this.first;
    if (this.first) this.first.previous = sequence;
    else this.#last = sequence;
    this.first = sequence;
    this.length++;
  }

  remove(sequence: Sequence<Owner>): void {
    if (sequence.previous) sequence.previous.next = sequence.next;
    else this.first = sequence.next;
    if (sequence.next) sequence.next.previous = sequence.previous;
    else this.#last = sequence.previous;
    sequence.previous = undefined;
    sequence.next = undefined;
    this.length--;
  }
}
