/**
 * How a tokenizer cuts text into words, read from the `pre_tokenizer` of tokenizer.json: a scanner where the expression is one of the usual
 * ones, else the expression itself when this runtime's regular expressions mean the same by it. Anything else is for the native tokenizer.
 */
import { createLineWordScanner, scanGpt2Word, type WordScanner } from "./word-scanner.ts";

/** Plain data: it travels between threads. */
export type WordCut =
  | { readonly kind: "gpt2" }
  | { readonly kind: "lines"; readonly maxDigits: number; readonly joinsMarks: boolean }
  /** `keepsGaps`: what lies between matches is words too. */
  | { readonly kind: "expression"; readonly source: string; readonly keepsGaps: boolean };

export interface WordCuts {
  readonly cuts: readonly WordCut[];
  readonly addsPrefixSpace: boolean;
}

export type CutFailure = { readonly failure: string };

const unlimited = 0x7fffffff;
const gpt2Expression = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

function lineExpression(digits: string, joinsMarks: boolean): string {
  const word = joinsMarks ? "[\\p{L}\\p{M}]+" : "\\p{L}+";
  const marks = joinsMarks ? "\\p{M}" : "";
  return `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?${word}|${digits}| ?[^\\s\\p{L}${marks}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
}

const digitForms: readonly (readonly [string, number])[] = [
  ["\\p{N}", 1],
  ["\\p{N}{1,2}", 2],
  ["\\p{N}{1,3}", 3],
  ["\\p{N}+", unlimited],
];

const knownCuts: ReadonlyMap<string, WordCut> = new Map<string, WordCut>([
  [gpt2Expression, { kind: "gpt2" }],
  ...digitForms.flatMap(([digits, maxDigits]): [string, WordCut][] =>
    [false, true].map((joinsMarks) => [lineExpression(digits, joinsMarks), { kind: "lines", maxDigits, joinsMarks }]),
  ),
]);

export function scannerOf(cut: WordCut): WordScanner | undefined {
  switch (cut.kind) {
    case "gpt2":
      return scanGpt2Word;
    case "lines":
      return createLineWordScanner(cut);
    case "expression":
      return undefined;
    default: {
      const never: never = cut;
      return never;
    }
  }
}

/** `steps` is the pre_tokenizer as a flat list of its steps. */
export function readWordCuts(steps: readonly Readonly<Record<string, unknown>>[]): WordCuts | CutFailure {
  const last = steps.at(-1);
  if (last === undefined || last["type"] !== "ByteLevel")
    return { failure: "the pre-tokenizer does not end in ByteLevel" };
  const cuts: WordCut[] = [];
  for (const step of steps.slice(0, -1)) {
    const cut = readStep(step);
    if ("failure" in cut) return cut;
    cuts.push(cut);
  }
  const addsPrefixSpace = last["add_prefix_space"] === true;
  if (addsPrefixSpace && cuts.length > 0) return { failure: "a space is added to every piece of a split" };
  if (last["use_regex"] !== false) cuts.push({ kind: "gpt2" });
  return { cuts, addsPrefixSpace };
}

function readStep(step: Readonly<Record<string, unknown>>): WordCut | CutFailure {
  switch (step["type"]) {
    case "Split":
      return readSplit(step);
    case "Digits":
      return { kind: "expression", source: step["individual_digits"] === true ? "\\p{N}" : "\\p{N}+", keepsGaps: true };
    default:
      return { failure: `pre-tokenizer ${String(step["type"])}` };
  }
}

function readSplit(step: Readonly<Record<string, unknown>>): WordCut | CutFailure {
  const pattern = step["pattern"];
  if (typeof pattern !== "object" || pattern === null) return { failure: "a split without a pattern" };
  const expression: unknown = "Regex" in pattern ? pattern.Regex : undefined;
  const literal: unknown = "String" in pattern ? pattern.String : undefined;
  const keepsGaps = step["behavior"] === "Isolated";
  const keepsMatches = step["behavior"] === "Removed" && step["invert"] === true;
  if (!keepsGaps && !keepsMatches) return { failure: `a split of behavior ${String(step["behavior"])}` };
  if (typeof literal === "string") {
    return { kind: "expression", source: literal.replaceAll(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), keepsGaps };
  }
  if (typeof expression !== "string") return { failure: "a split without a pattern" };
  const known = knownCuts.get(expression);
  if (known !== undefined) return known;
  const source = translateExpression(expression);
  if (source === undefined) return { failure: `the expression ${expression.slice(0, 80)}` };
  return { kind: "expression", source, keepsGaps };
}

/** What Oniguruma and this runtime read differently, or only one of them reads: anywhere, and outside character classes. */
const foreign = /\\[wWbBdDhHRXAzZGKkgQExuU]|\\p\{\^|&&|\[:/;
const foreignOutside = /\(\?[<>#mx-]|\(\?i\)|[*+?}]\+|[.^$]/;
const characterClass = /\[(?:\\.|[^\]\\])*\]/gs;
const ignoreCase = /\(\?i:([^()]*)\)/g;

/** The same expression for this runtime, or undefined when that cannot be said for certain. */
export function translateExpression(expression: string): string | undefined {
  if (foreign.test(expression)) return undefined;
  if (foreignOutside.test(expression.replaceAll(characterClass, "x").replaceAll(/\\./gs, "x"))) return undefined;
  for (const [, inner = ""] of expression.matchAll(ignoreCase)) if (!/^[a-z'|]*$/.test(inner)) return undefined;
  const source = expression.replaceAll(/\\s/g, "\\p{White_Space}").replaceAll(/\\S/g, "\\P{White_Space}");
  try {
    const compiled = new RegExp(source, "gu");
    return compiled.test("") ? undefined : source;
  } catch {
    return undefined;
  }
}
