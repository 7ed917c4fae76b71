/**
 * Reads request bodies as Dynamo's services do: what is no JSON is a 400, what has a member of the wrong type a 422 that names it, what nobody
 * knows is ignored. Integers are exact: one beyond 2^53 is a bigint.
 */
import { parseExactJson } from "../../dynamo/record-json.ts";

/** A request that cannot be served as it stands; thrown by the readers, answered where the request came in. */
export class BadRequest extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.name = "BadRequest";
    this.status = status;
  }
}

/** Digits that a double may not hold; a body without them needs no exact reading, which takes thrice as long. */
const longNumber = /\d{16}/;

export function parseBody(text: string): unknown {
  try {
    return longNumber.test(text) ? parseExactJson(text) : JSON.parse(text);
  } catch (error) {
    throw new BadRequest(400, `Failed to parse the request body as JSON: ${(error as Error).message}`);
  }
}

export type Members = Readonly<Record<string, unknown>>;

/** `path` is empty for the body itself. */
export function membersOf(value: unknown, path: string, expected: string): Members {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw wrongType(value, path, expected);
  return value as Members;
}

export function required<Value>(value: Value | undefined, path: string, name: string): Value {
  if (value === undefined) throw unfit(path, `missing field \`${name}\``);
  return value;
}

const maxU32 = 0xffff_ffff;
const maxU64 = 0xffff_ffff_ffff_ffffn;
const maxI64 = 0x7fff_ffff_ffff_ffffn;

export function readString(value: unknown, path: string): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "string") throw wrongType(value, path, "a string");
  return value;
}

export function readBoolean(value: unknown, path: string): boolean | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== "boolean") throw wrongType(value, path, "a boolean");
  return value;
}

export function readNumber(value: unknown, path: string): number | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === "bigint") return Number(value);
  if (typeof value !== "number") throw wrongType(value, path, "f64");
  return value;
}

export function readU32(value: unknown, path: string): number | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= maxU32) return value;
  throw wrongNumber(value, path, "u32");
}

/** Counts: what exceeds 2^53 is taken for 2^53. */
export function readCount(value: unknown, path: string, expected: "u64" | "usize" = "u64"): number | undefined {
  const exact = readU64(value, path, expected);
  return exact === undefined ? undefined : Number(exact);
}

export function readU64(value: unknown, path: string, expected: "u64" | "usize" = "u64"): bigint | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
  if (typeof value === "bigint" && value >= 0n && value <= maxU64) return value;
  throw wrongNumber(value, path, expected);
}

/** Token ids. */
export function readU32List(value: unknown, path: string): Uint32Array | undefined {
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value)) throw wrongType(value, path, "a sequence");
  const items: readonly unknown[] = value;
  const words = new Uint32Array(items.length);
  for (let index = 0; index < items.length; index++) {
    const item = items[index];
    // An integer beyond 2^53 is a bigint, which cannot be assigned at all.
    if (typeof item !== "number") throw wrongNumber(item, path, "u32");
    // The assignment wraps what is no u32, so that one comparison checks the range.
    words[index] = item;
    if (words[index] !== item) throw wrongNumber(item, path, "u32");
  }
  return words;
}

/** Hashes, sent as signed integers; two words each, low word first. */
export function readHashList(value: unknown, path: string): Uint32Array | undefined {
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value)) throw wrongType(value, path, "a sequence");
  const items: readonly unknown[] = value;
  const words = new Uint32Array(2 * items.length);
  for (let index = 0; index < items.length; index++) {
    const item = items[index];
    const exact = typeof item === "number" && Number.isSafeInteger(item) ? BigInt(item) : item;
    if (typeof exact !== "bigint" || exact > maxI64 || exact < -maxI64 - 1n) throw wrongNumber(item, path, "i64");
    words[2 * index] = Number(exact & 0xffff_ffffn);
    words[2 * index + 1] = Number((exact >> 32n) & 0xffff_ffffn);
  }
  return words;
}

export function readStrings(value: unknown, path: string): readonly string[] | undefined {
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value)) throw wrongType(value, path, "a sequence");
  return [...new Set(value.map((item, index) => required(readString(item, `${path}[${index}]`), path, "item")))];
}

export function readStringMap(value: unknown, path: string): ReadonlyMap<string, string> | undefined {
  if (value === undefined || value === null) return undefined;
  const members = Object.entries(membersOf(value, path, "a map"));
  return new Map(members.map(([key, text]) => [key, required(readString(text, `${path}.${key}`), path, key)]));
}

/** A map whose keys are ranks. */
export function readRankMap(value: unknown, path: string): ReadonlyMap<number, string> | undefined {
  const map = readStringMap(value, path);
  if (map === undefined) return undefined;
  const ranks = new Map<number, string>();
  for (const [key, text] of map) {
    if (!/^\d{1,10}$/.test(key) || Number(key) > maxU32) {
      throw new BadRequest(
        400,
        `Failed to parse the request body as JSON: ${path}.?: invalid value: expected key to be a number in quotes`,
      );
    }
    ranks.set(Number(key), text);
  }
  return ranks;
}

export function readChoice<Choice extends string>(
  value: unknown,
  path: string,
  choices: readonly Choice[],
): Choice | undefined {
  const text = readString(value, path);
  if (text === undefined) return undefined;
  const choice = choices.find((known) => known === text);
  if (choice !== undefined) return choice;
  const quoted = choices.map((known) => `\`${known}\``);
  const expected = quoted.length === 2 ? quoted.join(" or ") : `one of ${quoted.join(", ")}`;
  throw unfit(path, `unknown variant \`${text}\`, expected ${expected}`);
}

export function unfit(path: string, message: string): BadRequest {
  const where = path === "" ? "" : `${path}: `;
  return new BadRequest(422, `Failed to deserialize the JSON body into the target type: ${where}${message}`);
}

function wrongNumber(value: unknown, path: string, expected: string): BadRequest {
  const isInteger = typeof value === "bigint" ? value <= maxU64 && value >= -maxI64 - 1n : Number.isSafeInteger(value);
  if (!isInteger) return wrongType(value, path, expected);
  return unfit(path, `invalid value: integer \`${String(value)}\`, expected ${expected}`);
}

function wrongType(value: unknown, path: string, expected: string): BadRequest {
  return unfit(path, `invalid type: ${nameOf(value)}, expected ${expected}`);
}

function nameOf(value: unknown): string {
  switch (typeof value) {
    case "string":
      return `string ${JSON.stringify(value)}`;
    case "boolean":
      return `boolean \`${value}\``;
    case "bigint":
      return value > maxU64 || value < -maxI64 - 1n
        ? `floating point \`${Number(value).toExponential()}\``
        : `integer \`${value.toString()}\``;
    case "number":
      return Number.isInteger(value) ? `integer \`${value}\`` : `floating point \`${value}\``;
    default:
      if (value === null || value === undefined) return "null";
      return Array.isArray(value) ? "sequence" : "map";
  }
}
