/**
 * The one tokenizer thread of a process, as its models see it: jobs wait in a bounded queue and run one at a time. It is started by the first job
 * and again by the first job after it died; what was waiting when it died fails. A job that overruns its time ends the thread.
 */
import { Worker } from "node:worker_threads";
import type { Logger } from "../../telemetry/log.ts";
import type { PromptDialect, TokenizeOutcome } from "../prompt-tokenizer.ts";
import type { ModelDescription } from "../tokenizer-files.ts";
import type { ModelSource, ThreadAnswer, ThreadRequest } from "./protocol.ts";
import { copyInSlices } from "./sliced-copy.ts";

export interface ThreadLimits {
  readonly maxQueuedJobs: number;
  readonly maxQueuedBytes: number;
  /** A vocabulary of 200,000 tokens takes about a second. */
  readonly loadTimeoutMs: number;
}

export const threadLimits: ThreadLimits = {
  maxQueuedJobs: 1024,
  maxQueuedBytes: 256 * 1024 * 1024,
  loadTimeoutMs: 60_000,
};

export interface LoadedModel {
  readonly description: ModelDescription;
  readonly idLimit: number;
}

type JobEnd =
  | { readonly kind: "answer"; readonly answer: ThreadAnswer }
  | { readonly kind: "timeout" }
  | { readonly kind: "failed"; readonly message: string };

interface Job {
  readonly number: number;
  readonly model: number;
  readonly request: ThreadRequest;
  readonly sizeBytes: number;
  readonly timeoutMs: number;
  timer: NodeJS.Timeout | undefined;
  /** Undefined once it has ended or was cancelled. */
  end: ((end: JobEnd) => void) | undefined;
}

interface Registered {
  readonly source: ModelSource;
  description: ModelDescription | undefined;
}

/** The heap of a body of 64 MiB, its text and its prompt. */
const maxHeapMb = 4096;

export class TokenizerThread {
  readonly #limits: ThreadLimits;
  readonly #models = new Map<number, Registered>();
  readonly #waiting: Job[] = [];
  #waitingBytes = 0;
  /** Of bodies that are being copied. */
  #copyingBytes = 0;
  #running: Job | undefined;
  #watchdog: NodeJS.Timeout | undefined;
  #worker: Worker | undefined;
  /** Models that the living thread has. */
  readonly #known = new Set<number>();
  #nextNumber = 1;
  #logger: Logger | undefined;

  readonly #entry: URL;

  constructor(limits: ThreadLimits = threadLimits, entry: URL = threadEntry()) {
    this.#limits = limits;
    this.#entry = entry;
  }

  get modelCount(): number {
    return this.#models.size;
  }

  /** Resolves with the model's number and what its files say; rejects when they cannot be read. */
  async load(source: ModelSource, logger: Logger): Promise<LoadedModel & { readonly model: number }> {
    this.#logger = logger;
    const model = this.#nextNumber++;
    const registered: Registered = { source, description: undefined };
    this.#models.set(model, registered);
    const end = await new Promise<JobEnd>((resolve) => {
      const number = this.#nextNumber++;
      this.#enqueue(
        model,
        { kind: "load", job: number, model, source },
        number,
        0,
        this.#limits.loadTimeoutMs,
        resolve,
      );
    });
    if (end.kind === "answer" && end.answer.kind === "loaded") {
      registered.description = end.answer.description;
      return { model, description: end.answer.description, idLimit: end.answer.idLimit };
    }
    await this.release(model);
    throw new Error(end.kind === "timeout" ? "the model's files could not be read in time" : messageOf(end));
  }

  /** `body` is read until `done` is called, once and later, unless cancelled: a long one is copied in slices. */
  tokenize(
    model: number,
    dialect: PromptDialect,
    body: Buffer,
    timeoutMs: number,
    done: (outcome: TokenizeOutcome) => void,
  ): { cancel(): void } {
    const number = this.#nextNumber++;
    if (
      this.#waiting.length >= this.#limits.maxQueuedJobs ||
      this.#waitingBytes + this.#copyingBytes + body.length > this.#limits.maxQueuedBytes
    ) {
      const full = setImmediate(done, { kind: "failed", message: "too many long prompts are waiting to be tokenized" });
      return { cancel: () => clearImmediate(full) };
    }
    let job: Job | undefined;
    let isCopying = true;
    this.#copyingBytes += body.length;
    const copying = copyInSlices(body, (copy) => {
      isCopying = false;
      this.#copyingBytes -= body.length;
      // Its model has been released meanwhile.
      if (!this.#models.has(model)) {
        done(outcomeOf(closedEnd));
        return;
      }
      const request: ThreadRequest = { kind: "tokenize", job: number, model, dialect, body: copy };
      job = this.#enqueue(model, request, number, body.length, timeoutMs, (end) => done(outcomeOf(end)));
    });
    return {
      cancel: () => {
        if (job !== undefined) this.#abandon(job);
        if (!isCopying) return;
        isCopying = false;
        this.#copyingBytes -= body.length;
        copying.cancel();
      },
    };
  }

  /** The model's waiting jobs fail; the thread ends with its last model. */
  async release(model: number): Promise<void> {
    if (!this.#models.delete(model)) return;
    for (const job of this.#waiting.filter((waiting) => waiting.model === model)) this.#end(job, closedEnd);
    if (this.#running?.model === model) this.#end(this.#running, closedEnd);
    if (this.#models.size === 0) {
      await this.#stop();
    } else if (this.#worker !== undefined && this.#known.delete(model)) {
      this.#worker.postMessage({ kind: "forget", model } satisfies ThreadRequest);
    }
  }

  #enqueue(
    model: number,
    request: ThreadRequest,
    number: number,
    sizeBytes: number,
    timeoutMs: number,
    end: (end: JobEnd) => void,
  ): Job {
    const job: Job = { number, model, request, sizeBytes, timeoutMs, timer: undefined, end };
    job.timer = setTimeout(() => this.#end(job, { kind: "timeout" }), timeoutMs);
    this.#waiting.push(job);
    this.#waitingBytes += sizeBytes;
    this.#runNext();
    return job;
  }

  /** Tells the owner; a job that still waits leaves the queue, one that runs is let run. */
  #end(job: Job, end: JobEnd): void {
    const tell = job.end;
    this.#abandon(job);
    tell?.(end);
  }

  #abandon(job: Job): void {
    clearTimeout(job.timer);
    job.end = undefined;
    const index = this.#waiting.indexOf(job);
    if (index < 0) return;
    this.#waiting.splice(index, 1);
    this.#waitingBytes -= job.sizeBytes;
  }

  #runNext(): void {
    if (this.#running !== undefined) return;
    const job = this.#waiting.shift();
    if (job === undefined) return;
    this.#waitingBytes -= job.sizeBytes;
    this.#running = job;
    const worker = this.#start();
    this.#adopt(worker, job);
    worker.postMessage(job.request, job.request.kind === "tokenize" ? [job.request.body.buffer as ArrayBuffer] : []);
    this.#watchdog = setTimeout(
      () => this.#terminate(`a job ran longer than ${job.timeoutMs} ms`),
      job.timeoutMs + 100,
    );
  }

  #adopt(worker: Worker, job: Job): void {
    const registered = this.#models.get(job.model);
    if (registered?.description !== undefined && !this.#known.has(job.model)) {
      const { source, description } = registered;
      worker.postMessage({ kind: "adopt", model: job.model, source, description } satisfies ThreadRequest);
    }
    this.#known.add(job.model);
  }

  #start(): Worker {
    if (this.#worker !== undefined) return this.#worker;
    const worker = new Worker(this.#entry, {
      name: "tokenizer",
      resourceLimits: { maxOldGenerationSizeMb: maxHeapMb },
    });
    worker.unref();
    worker.on("message", (answer: ThreadAnswer) => this.#answered(worker, answer));
    worker.once("error", (error) => this.#died(worker, error instanceof Error ? error.message : String(error)));
    worker.once("exit", (code) => this.#died(worker, `exit code ${code}`));
    this.#worker = worker;
    this.#known.clear();
    return worker;
  }

  #answered(worker: Worker, answer: ThreadAnswer): void {
    const job = this.#running;
    if (worker !== this.#worker || job === undefined || job.number !== answer.job) return;
    clearTimeout(this.#watchdog);
    this.#running = undefined;
    this.#runNext();
    this.#end(job, { kind: "answer", answer });
  }

  #died(worker: Worker, reason: string): void {
    if (worker !== this.#worker) return;
    this.#logger?.error({ reason }, "the tokenizer thread died; it starts again with the next long prompt");
    this.#dropWorker();
    const lost = [this.#running, ...this.#waiting].filter((job) => job !== undefined);
    this.#running = undefined;
    for (const job of lost) this.#end(job, { kind: "failed", message: "the tokenizer thread died" });
  }

  /** Those that wait run on the next thread. */
  #terminate(reason: string): void {
    const { job, worker } = { job: this.#running, worker: this.#worker };
    this.#logger?.warn({ reason }, "the tokenizer thread was ended");
    this.#dropWorker();
    this.#running = undefined;
    worker
      ?.terminate()
      .catch((error: unknown) => this.#logger?.error({ error }, "the tokenizer thread could not be ended"));
    if (job !== undefined) this.#end(job, { kind: "timeout" });
    this.#runNext();
  }

  #dropWorker(): void {
    clearTimeout(this.#watchdog);
    this.#worker = undefined;
    this.#known.clear();
  }

  async #stop(): Promise<void> {
    const worker = this.#worker;
    this.#dropWorker();
    this.#running = undefined;
    await worker?.terminate();
  }
}

/** Beside this file, as source or compiled. */
function threadEntry(): URL {
  return new URL(import.meta.url.endsWith(".ts") ? "./entry.ts" : "./entry.js", import.meta.url);
}

const closedEnd: JobEnd = { kind: "failed", message: "the tokenizer is closed" };

function messageOf(end: JobEnd): string {
  if (end.kind === "failed") return end.message;
  return end.kind === "answer" && end.answer.kind === "failed"
    ? end.answer.message
    : "the tokenizer thread gave another answer";
}

function outcomeOf(end: JobEnd): TokenizeOutcome {
  if (end.kind === "timeout") return { kind: "timeout", message: "the prompt was not tokenized in time" };
  if (end.kind === "answer" && end.answer.kind === "outcome") return end.answer.outcome;
  return { kind: "failed", message: messageOf(end) };
}
