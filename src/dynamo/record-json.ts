/**
 * JSON of discovery records with their u64 ids exact: an integer beyond 2^53 is read as bigint and a bigint is written as a plain integer.
 * Fields are read by kind; the first one that is wrong ends the reading with its path.
 */

export type JsonObject = Readonly<Record<string, unknown>>;

/** What is wrong with a record; thrown by the readers of fields and caught by the parser that began. */
export class FieldFault extends Error {
  constructor(path: string, expected: string) {
    super(`${path}: expected ${expected}`);
    this.name = "FieldFault";
  }
}

/** Digits of a u64, or of a negative i64 with its sign: longer numbers are nobody's id. */
const maxIntegerLength = 20;

/** A DOM of the text. Integers that a double cannot hold become bigint. Throws SyntaxError. */
export function parseExactJson(text: string): unknown {
  // A reviver costs ten times the parsing.
  if (!mayHoldLargeInteger.test(text)) return JSON.parse(text);
  return exactJson.parse(text, (_key, value, context) => {
    if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
    const { source } = context;
    return source !== undefined && source.length <= maxIntegerLength && isIntegerText(source) ? BigInt(source) : value;
  });
}

/** Digits of an integer from 9,000,000,000,000,000 on, which is a little less than the first that a double may not hold. */
const mayHoldLargeInteger = /9[0-9]{15}|[1-9][0-9]{16}/;

/** The text of a DOM in which integers may be bigint. */
export function encodeExactJson(value: unknown): string {
  try {
    // A replacer costs several times the writing, and most texts hold no bigint.
    return JSON.stringify(value);
  } catch {
    // It holds a bigint, or is none of ours: then this fails as well.
  }
  return JSON.stringify(value, (_key, member: unknown) =>
    typeof member === "bigint" ? exactJson.rawJSON(member.toString()) : member,
  );
}

/** JSON with the source text of what it parses (ECMA-262 proposal "JSON.parse source text access"; in Node since 21). */
interface ExactJson {
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { readonly source?: string }) => unknown,
  ): unknown;
  rawJSON(text: string): unknown;
}

const exactJson = JSON as unknown as ExactJson;

function isIntegerText(text: string): boolean {
  for (let index = text.startsWith("-") ? 1 : 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code < 0x30 || code > 0x39) return false;
  }
  return true;
}

const maxU64 = 0xffff_ffff_ffff_ffffn;

/** Reads the members of one object; `path` names it in faults. */
export class Fields {
  readonly object: JsonObject;
  readonly path: string;

  constructor(value: unknown, path: string) {
    if (!isObject(value)) throw new FieldFault(path === "" ? "record" : path, "an object");
    this.object = value;
    this.path = path;
  }

  at(key: string): string {
    return this.path === "" ? key : `${this.path}.${key}`;
  }

  /** Absent and null alike. */
  isAbsent(key: string): boolean {
    return this.object[key] === undefined || this.object[key] === null;
  }

  string(key: string): string {
    const value = this.object[key];
    if (typeof value !== "string") throw new FieldFault(this.at(key), "a string");
    return value;
  }

  /** Not empty and within a length that is a name. */
  name(key: string): string {
    const value = this.string(key);
    if (value === "" || value.length > maxNameLength) {
      throw new FieldFault(this.at(key), `a string of 1 to ${maxNameLength} characters`);
    }
    return value;
  }

  /** A name that stands between slashes in keys. */
  segment(key: string): string {
    const name = this.name(key);
    if (/[/\p{Cc}]/u.test(name)) throw new FieldFault(this.at(key), "a name without slashes and control characters");
    return name;
  }

  optionalString(key: string): string | undefined {
    return this.isAbsent(key) ? undefined : this.string(key);
  }

  boolean(key: string, absent: boolean): boolean {
    if (this.isAbsent(key)) return absent;
    const value = this.object[key];
    if (typeof value !== "boolean") throw new FieldFault(this.at(key), "true or false");
    return value;
  }

  u64(key: string): bigint {
    const value = this.object[key];
    if (typeof value === "bigint" && value >= 0n && value <= maxU64) return value;
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
    throw new FieldFault(this.at(key), "an unsigned 64-bit integer");
  }

  /** An integer in [0, max]. */
  integer(key: string, max: number): number {
    const value = this.object[key];
    if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= max) return value;
    throw new FieldFault(this.at(key), `an integer from 0 to ${max}`);
  }

  optionalInteger(key: string, max: number): number | undefined {
    return this.isAbsent(key) ? undefined : this.integer(key, max);
  }

  optionalNumber(key: string): number | undefined {
    if (this.isAbsent(key)) return undefined;
    const value = this.object[key];
    if (typeof value !== "number" || !Number.isFinite(value)) throw new FieldFault(this.at(key), "a number");
    return value;
  }

  list(key: string): readonly unknown[] {
    if (this.isAbsent(key)) return [];
    const value = this.object[key];
    if (!Array.isArray(value)) throw new FieldFault(this.at(key), "a list");
    return value;
  }

  strings(key: string): readonly string[] {
    return this.list(key).map((value, index) => {
      if (typeof value !== "string") throw new FieldFault(`${this.at(key)}[${index}]`, "a string");
      return value;
    });
  }

  stringMap(key: string): ReadonlyMap<string, string> {
    const members = this.optionalFields(key);
    if (members === undefined) return new Map();
    return new Map(Object.keys(members.object).map((name) => [name, members.string(name)]));
  }

  fields(key: string): Fields {
    return new Fields(this.object[key], this.at(key));
  }

  optionalFields(key: string): Fields | undefined {
    return this.isAbsent(key) ? undefined : this.fields(key);
  }
}

/** Longer than any name that fits a file name of the file backend. */
const maxNameLength = 512;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
