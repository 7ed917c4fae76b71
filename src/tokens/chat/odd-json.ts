/**
 * JSON whose spelling does not survive this runtime: 1.0 is read as 1, 1e-7 is not written as Python writes it, long integers lose digits, and
 * keys that are numbers change places. A template that prints such a value would print another prompt than Dynamo's, so its ids are only a guess.
 */
import { isRecord } from "../json-record.ts";

/** Too broad, and quicker than reading: what it does not find in a text is not there. */
const suspicious = /[0-9]\.[0-9]*0(?![0-9])|[0-9][eE][+-]?[0-9]|[0-9]{16}|0\.0000|-0|"[0-9]+"\s*:/;

const escapedSpace = /\\u(?:001[c-fC-F]|0085|[fF][eE][fF][fF])/;

/** White space in one language's `strip` and not in the other's, as a JSON text may have it. */
export function hasOddSpace(text: string): boolean {
  return text.includes("\u0085") || text.includes("\ufeff") || (text.includes("\\u") && escapedSpace.test(text));
}

const oddNumber = Symbol("a number that would be spelt otherwise");

/** Whether a value that a template may print is odd; `select` names those of the parsed document. */
export function hasOddValues(text: string, select: (document: unknown) => readonly unknown[]): boolean {
  if (!suspicious.test(text)) return false;
  return select(parseMarking(text)).some(isOdd);
}

function parseMarking(text: string): unknown {
  const mark = (_key: string, value: unknown, context: { readonly source?: string }): unknown => {
    if (typeof value !== "number" || context.source === undefined) return value;
    return isSpeltAlike(value, context.source) ? value : oddNumber;
  };
  try {
    return JSON.parse(text, mark as (key: string, value: unknown) => unknown) as unknown;
  } catch {
    return undefined;
  }
}

function isSpeltAlike(value: number, source: string): boolean {
  if (Number.isSafeInteger(value)) return /^(?:0|-?[1-9][0-9]*)$/.test(source);
  return String(value) === source && !source.includes("e") && Math.abs(value) >= 1e-4;
}

function isOdd(value: unknown): boolean {
  if (value === oddNumber) return true;
  if (typeof value === "string") return false;
  if (Array.isArray(value)) return value.some(isOdd);
  return isRecord(value) && Object.entries(value).some(([key, inner]) => /^[0-9]+$/.test(key) || isOdd(inner));
}
