/** The prompt as the byte chains that blocks are cut from: exact token ids where they are known, else the body's own text. Nothing is copied. */

import type { InferenceRequest } from "../../request/inference-request.ts";
import type { ByteRange } from "../../request/parsed-body.ts";
import { promptTokensKey } from "../attributes.ts";
import type { BlockHasher } from "../prefix-index/block-hasher.ts";

/** A token id, or the text that stands for one token while ids are unknown. */
export const bytesPerToken = 4;

interface PromptChain {
  readonly source: Buffer;
  readonly ranges: readonly ByteRange[];
  readonly sizeBytes: number;
}

/** One entry a prompt of the request; empty where the body holds no prompt that could be read. */
function promptChains(request: InferenceRequest): readonly PromptChain[] {
  const tokens = request.attribute(promptTokensKey);
  if (tokens?.exact === true) return tokens.ids.map(chainOfTokens);
  const { prompt } = request.parsed;
  switch (prompt.kind) {
    case "opaque":
      return noChains;
    case "tokens":
      return prompt.chains.map(chainOfTokens);
    case "bytes":
      return prompt.chains.map((ranges) => ({ source: request.body, ranges, sizeBytes: sizeOf(ranges) }));
    default:
      return prompt satisfies never;
  }
}

export interface HashedPrompt {
  /** Low and high words interleaved. */
  readonly hashes: Uint32Array;
  /** Chain i is the blocks from chainEnds[i − 1] (0 for the first) up to chainEnds[i]. */
  readonly chainEnds: readonly number[];
}

/** Hashes at most maxBlocks blocks in all, earlier prompts first; undefined when there is not one. */
export function hashPrompt(
  hasher: BlockHasher,
  request: InferenceRequest,
  blockSizeTokens: number,
  maxBlocks: number,
): HashedPrompt | undefined {
  const chains = promptChains(request);
  const blockBytes = blockSizeTokens * bytesPerToken;
  let blocks = 0;
  for (let i = 0; i < chains.length; i++) blocks += Math.ceil((chains[i] as PromptChain).sizeBytes / blockBytes);
  blocks = Math.min(blocks, maxBlocks);
  if (blocks === 0) return undefined;
  const hashes = new Uint32Array(2 * blocks);
  const chainEnds: number[] = [];
  hasher.root(request.targetModel, request.parsed.cacheSalt);
  let end = 0;
  for (let i = 0; i < chains.length && end < blocks; i++) {
    const { source, ranges } = chains[i] as PromptChain;
    end += hasher.hashRanges(source, ranges, blockBytes, hashes, end, blocks - end);
    chainEnds.push(end);
  }
  return { hashes, chainEnds };
}

/** Bytes of the prompt itself, four a token id; undefined where the body holds none that could be read. */
export function promptSizeBytes(request: InferenceRequest): number | undefined {
  const { prompt } = request.parsed;
  if (prompt.kind === "opaque") return undefined;
  let sum = 0;
  for (const chain of prompt.chains) sum += chain instanceof Uint32Array ? chain.byteLength : sizeOf(chain);
  return sum;
}

const noChains: readonly PromptChain[] = [];

/** The ids' own memory; little-endian like every machine Node runs these tables on. */
function chainOfTokens(ids: Uint32Array): PromptChain {
  return {
    source: Buffer.from(ids.buffer, ids.byteOffset, ids.byteLength),
    ranges: [{ start: 0, end: ids.byteLength }],
    sizeBytes: ids.byteLength,
  };
}

function sizeOf(ranges: readonly ByteRange[]): number {
  let sum = 0;
  for (let i = 0; i < ranges.length; i++) {
    const range = ranges[i] as ByteRange;
    sum += range.end - range.start;
  }
  return sum;
}
