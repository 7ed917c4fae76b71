/**
 * What a simulated engine says: token i of an answer is a pure function of the request's seed and i, so answers are
 * reproducible and need no storage. Each token is a three-letter word and a space, four bytes, so that an answer sent back in the
 * next turn has the very same tokens (see the tokenizer) and finds its blocks again.
 */
import { mix } from "./block-hash.ts";

const words =
  "the sun set low and red far out in bay one old man sat by his oar his net was dry his eye saw all sky sea fog gull " +
  "air ice way day ear arm leg hat cap cup pan pot tea rye oat fig nut egg jam pie hen cow pig dog cat rat owl bee ant elm oak " +
  "fir ivy bud log axe saw van car bus tram bell lamp line rail post sign key map";

const encoder = new TextEncoder();

function tokenOfWord(word: string): number {
  const bytes = encoder.encode(`${word} `);
  return ((bytes[0] ?? 0) | ((bytes[1] ?? 0) << 8) | ((bytes[2] ?? 0) << 16) | ((bytes[3] ?? 0) << 24)) >>> 0;
}

const vocabulary = words.split(" ").filter((word) => word.length === 3);
const tokens = Uint32Array.from(vocabulary, tokenOfWord);
const texts: ReadonlyMap<number, string> = new Map(vocabulary.map((word) => [tokenOfWord(word), `${word} `]));

/** Token id of the answer's `position`-th token under `seed`. */
export function answerToken(seed: number, position: number): number {
  return tokens[mix(seed, position) % tokens.length] ?? 0;
}

/** The text of a token that `answerToken` returned. */
export function answerText(token: number): string {
  return texts.get(token) ?? "";
}
