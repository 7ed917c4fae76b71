/**
 * Generates multi-turn workloads in the shape of the Mooncake trace: tenants with shared system prompts (a few are popular), dialogues
 * that arrive at random and grow by each answer and each new question, readers who think between turns.
 */
import { Random } from "./random.ts";
import { type Trace, type TraceRequest, traceBlockTokens } from "./trace.ts";

export interface WorkloadShape {
  readonly seed: number;
  /** Dialogues. */
  readonly sessions: number;
  /** Mean turns a dialogue, at least 1. */
  readonly turns: number;
  /** Mean time between the beginnings of two dialogues, in ms. */
  readonly sessionEveryMs: number;
  /** Mean time a reader takes between an answer and the next question, in ms. */
  readonly thinkMs: number;
  /** Assumed time a token of answer takes, in ms: the next question cannot come before the answer. */
  readonly answerTokenMs: number;
  /** Distinct system prompts; the k-th is asked for in proportion to 1/k. */
  readonly tenants: number;
  /** Mean tokens of a system prompt. */
  readonly systemTokens: number;
  /** Mean tokens of what a dialogue begins with, e.g. a document. */
  readonly openingTokens: number;
  /** Mean tokens of a later question. */
  readonly questionTokens: number;
  /** Mean tokens of an answer. */
  readonly outputTokens: number;
  /** A dialogue ends before its prompt outgrows this. */
  readonly maxInputTokens: number;
}

/** Long prompts, short answers, and about three prompt tokens in four seen before (in the public trace, two in three). */
export const defaultWorkloadShape: WorkloadShape = {
  seed: 1,
  sessions: 100,
  turns: 4,
  sessionEveryMs: 400,
  thinkMs: 8000,
  answerTokenMs: 30,
  tenants: 8,
  systemTokens: 3000,
  openingTokens: 4000,
  questionTokens: 300,
  outputTokens: 150,
  maxInputTokens: 100_000,
};

/** A system prompt: the ids of its full blocks, which every dialogue of the tenant shares. */
interface SystemPrompt {
  readonly tokens: number;
  readonly blocks: readonly number[];
}

export function generateWorkload(given: Partial<WorkloadShape> = {}): Trace {
  const shape = { ...defaultWorkloadShape, ...given };
  const random = new Random(shape.seed);
  let nextId = 0;
  const newBlocks = (count: number): number[] => Array.from({ length: count }, () => nextId++);
  const systems = Array.from({ length: Math.max(1, shape.tenants) }, (): SystemPrompt => {
    const tokens = random.tokens(shape.systemTokens);
    return { tokens, blocks: newBlocks(Math.floor(tokens / traceBlockTokens)) };
  });
  const requests: TraceRequest[] = [];
  let startMs = 0;
  for (let session = 0; session < shape.sessions; session++) {
    startMs += random.exponential(shape.sessionEveryMs);
    const system = systems[popularOf(systems.length, random)];
    if (system !== undefined) addSession(requests, shape, system, startMs, random, newBlocks);
  }
  requests.sort((left, right) => left.timestampMs - right.timestampMs);
  return { requests: renumbered(requests) };
}

/** An index below `count`, the k-th in proportion to 1/(k + 1). */
function popularOf(count: number, random: Random): number {
  let total = 0;
  for (let rank = 1; rank <= count; rank++) total += 1 / rank;
  let left = random.uniform() * total;
  for (let rank = 1; rank < count; rank++) {
    left -= 1 / rank;
    if (left < 0) return rank - 1;
  }
  return count - 1;
}

function addSession(
  requests: TraceRequest[],
  shape: WorkloadShape,
  system: SystemPrompt,
  startMs: number,
  random: Random,
  newBlocks: (count: number) => number[],
): void {
  const fullBlocks = [...system.blocks];
  let inputTokens = system.tokens + random.tokens(shape.openingTokens);
  let timestampMs = startMs;
  for (;;) {
    const outputTokens = random.tokens(shape.outputTokens);
    if (inputTokens > shape.maxInputTokens) return;
    fullBlocks.push(...newBlocks(Math.floor(inputTokens / traceBlockTokens) - fullBlocks.length));
    // A block that is not full yet has an id of its own, which no later turn repeats.
    const hashIds = inputTokens % traceBlockTokens === 0 ? [...fullBlocks] : [...fullBlocks, ...newBlocks(1)];
    requests.push({ timestampMs: Math.round(timestampMs), inputTokens, outputTokens, hashIds });
    if (random.uniform() < 1 / Math.max(1, shape.turns)) return;
    timestampMs += outputTokens * shape.answerTokenMs + random.exponential(shape.thinkMs);
    inputTokens += outputTokens + random.tokens(shape.questionTokens);
  }
}

/** Ids in the order in which they first appear, as in the public trace. */
function renumbered(requests: readonly TraceRequest[]): TraceRequest[] {
  const numbers = new Map<number, number>();
  return requests.map((request) => ({
    ...request,
    hashIds: request.hashIds.map((id) => {
      const known = numbers.get(id);
      if (known !== undefined) return known;
      numbers.set(id, numbers.size);
      return numbers.size - 1;
    }),
  }));
}
