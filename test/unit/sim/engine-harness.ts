/** A small engine and a recorder of what it tells, for tests: no clock but the numbers handed in. */
import { hashesOfTokens } from "../../../src/sim/engine/block-hash.ts";
import { Engine, type EngineConfig } from "../../../src/sim/engine/engine.ts";
import type { EngineRequest, Sequence } from "../../../src/sim/engine/sequence.ts";

export const smallConfig: EngineConfig = {
  blockSize: 4,
  numBlocks: 64,
  maxNumSeqs: 8,
  maxNumBatchedTokens: 64,
  maxModelLen: 1024,
  maxLoras: 2,
  prefixCaching: true,
  speeds: { prefillTokensPerSecond: 1000, decodeStepMs: 10, attentionTokens: 50_000, adapterLoadMs: 5, jitter: 0 },
  seed: 7,
};

export interface Recording {
  readonly engine: Engine<string>;
  /** One line an event, in order. */
  readonly lines: string[];
  /** Hashes that events say are reusable now. */
  readonly reusable: Set<string>;
  onToken: (sequence: Sequence<string>) => void;
}

const hashText = (lo: number, hi: number): string => `${hi}:${lo}`;

export function recordEngine(config: Partial<EngineConfig> = {}): Recording {
  const lines: string[] = [];
  const reusable = new Set<string>();
  const engine: Engine<string> = new Engine<string>(
    { ...smallConfig, ...config },
    {
      admitted: (sequence, at) => lines.push(`${at} admitted ${sequence.request.owner}`),
      token: (sequence, token, at) => {
        lines.push(`${at} token ${sequence.request.owner} ${token}`);
        recording.onToken(sequence);
      },
      finished: (sequence, reason, at) => lines.push(`${at} finished ${sequence.request.owner} ${reason}`),
      preempted: (sequence, at) => lines.push(`${at} preempted ${sequence.request.owner}`),
      stored: (sequence, first, count) => {
        for (let block = first; block < first + count; block++) {
          const hash = hashText(sequence.hashes[block * 2] ?? 0, sequence.hashes[block * 2 + 1] ?? 0);
          if (reusable.has(hash)) throw new Error(`${hash} stored twice`);
          reusable.add(hash);
        }
      },
      removed: (lo, hi) => {
        if (!reusable.delete(hashText(lo, hi))) throw new Error("removed what was not stored");
      },
      cleared: () => reusable.clear(),
      stepEnded: () => {},
    },
  );
  const recording: Recording = { engine, lines, reusable, onToken: () => {} };
  return recording;
}

export interface PromptOptions {
  readonly maxTokens?: number;
  readonly answerTokens?: number;
  readonly adapter?: number;
  readonly owner?: string;
  readonly blockSize?: number;
  readonly root?: number;
}

export function requestOf(tokens: readonly number[], options: PromptOptions = {}): EngineRequest<string> {
  const tokenIds = Uint32Array.from(tokens);
  const root = options.root ?? 1;
  return {
    promptTokens: tokenIds.length,
    root,
    blockHashes: hashesOfTokens(tokenIds, options.blockSize ?? smallConfig.blockSize, root),
    tokenIds,
    maxTokens: options.maxTokens ?? Number.POSITIVE_INFINITY,
    answerTokens: options.answerTokens ?? 4,
    seed: 3,
    adapter: options.adapter ?? -1,
    owner: options.owner ?? "a",
  };
}

/** `count` tokens from `from` on. */
export function run(from: number, count: number): number[] {
  return Array.from({ length: count }, (_, index) => from + index);
}

/** Advances from event to event until nothing is left; returns the time of the last one. */
export function runToIdle(engine: Engine<string>, mostEvents = 100_000): number {
  let last = 0;
  for (let events = 0; engine.nextEventMs() !== Number.POSITIVE_INFINITY; events++) {
    if (events > mostEvents) throw new Error("the engine does not come to rest");
    last = engine.nextEventMs();
    engine.advance(last);
  }
  return last;
}
