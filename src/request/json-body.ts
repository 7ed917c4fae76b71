/**
 * A JSON request body as parsers read it: its members by name, its model, and the refusals they share. Messages name fields and
 * offsets, never what a client wrote.
 */

import { MemberNames, type Scan, type ScanFault, scanJson } from "./json-scanner.ts";
import { countAt, isArrayAt, isNullAt, isObjectAt, isTrueAt, stringAt } from "./json-value.ts";
import type { ApiName, ByteRange, ParsedBody, Prompt } from "./parsed-body.ts";
import { isRejection, type Rejection, reject } from "./rejection.ts";

/** Members that every dialect reads, first in every table. */
const sharedMembers = ["model", "stream", "user", "cache_salt", "nvext"] as const;

/** The members one dialect reads; made once per dialect. */
export class BodyMembers<Name extends string> {
  readonly table: MemberNames;
  readonly #index: ReadonlyMap<string, number>;

  constructor(...own: readonly Name[]) {
    const names = [...sharedMembers, ...own];
    this.table = new MemberNames(names);
    this.#index = new Map(names.map((name, index) => [name, index]));
  }

  indexOf(name: Name | (typeof sharedMembers)[number]): number {
    return this.#index.get(name) ?? -1;
  }
}

/** A scanned body. Values are read on demand. */
export class JsonBody<Name extends string> {
  readonly bytes: Buffer;
  readonly #members: BodyMembers<Name>;
  readonly #scan: Scan;

  constructor(bytes: Buffer, members: BodyMembers<Name>, scan: Scan) {
    this.bytes = bytes;
    this.#members = members;
    this.#scan = scan;
  }

  /** Range of a member's value; undefined where it is absent or null. */
  range(name: Name | (typeof sharedMembers)[number]): ByteRange | undefined {
    const at = 2 * this.#members.indexOf(name);
    const start = this.#scan.ranges[at] ?? -1;
    if (start < 0 || isNullAt(this.bytes, start)) return undefined;
    return { start, end: this.#scan.ranges[at + 1] ?? start };
  }

  arrayRange(name: Name): ByteRange | undefined {
    const range = this.range(name);
    return range !== undefined && isArrayAt(this.bytes, range.start) ? range : undefined;
  }

  string(name: Name | (typeof sharedMembers)[number]): string | undefined {
    const range = this.range(name);
    return range === undefined ? undefined : stringAt(this.bytes, range.start, range.end);
  }

  count(name: Name): number | undefined {
    const range = this.range(name);
    return range === undefined ? undefined : countAt(this.bytes, range.start, range.end);
  }

  /** The model with its range, "" where the body has none, or the refusal of one that is not a string or is empty. */
  model(): { readonly name: string; readonly range: ByteRange | undefined } | Rejection {
    const range = this.range("model");
    if (range === undefined) return noModel;
    const name = stringAt(this.bytes, range.start, range.end);
    if (name === undefined)
      return reject("BadRequest", "model must be a string", { errorCode: "invalid_type", param: "model" });
    if (name === "")
      return reject("BadRequest", "model must not be empty", { errorCode: "invalid_value", param: "model" });
    return { name, range };
  }

  /** Fills in what every dialect has. A body without a model is refused unless the dialect can do without one. */
  parsed(dialect: {
    readonly api: ApiName;
    readonly parser: string;
    readonly prompt: Prompt;
    readonly maxOutputTokens: number | undefined;
    readonly modelOptional?: boolean;
    readonly user?: string | undefined;
    readonly readsResponse?: boolean;
  }): ParsedBody | Rejection {
    const model = this.model();
    if (isRejection(model)) return model;
    if (model.range === undefined && dialect.modelOptional !== true) return modelMissing();
    const stream = this.range("stream");
    const nvext = this.range("nvext");
    const parsed = {
      api: dialect.api,
      parser: dialect.parser,
      model: model.name,
      modelRange: model.range,
      stream: stream !== undefined && isTrueAt(this.bytes, stream.start),
      maxOutputTokens: dialect.maxOutputTokens,
      user: dialect.user ?? this.string("user"),
      cacheSalt: this.string("cache_salt"),
      nvextRange: nvext !== undefined && isObjectAt(this.bytes, nvext.start) ? nvext : undefined,
      prompt: dialect.prompt,
      readsResponse: dialect.readsResponse ?? true,
    };
    const earlier =
      this.#scan.repeated === undefined ? [] : earlierRanges(this.#scan.repeated, this.#members.indexOf("model"));
    return earlier.length === 0 ? parsed : { ...parsed, earlierModelRanges: earlier };
  }
}

const noModel = { name: "", range: undefined } as const;

/** The body that has the members of a table. */
export type BodyOf<Table> = Table extends BodyMembers<infer Name> ? JsonBody<Name> : never;

/** Scans a body that must be a JSON object. */
export function readJsonBody<Name extends string>(
  bytes: Buffer,
  members: BodyMembers<Name>,
): JsonBody<Name> | Rejection {
  const scan = scanJson(bytes, members.table);
  if ("fault" in scan) return badJson(describe(scan));
  if (scan.root !== "object") return badJson("the body is not a JSON object");
  return new JsonBody(bytes, members, scan);
}

/** A required field that is absent, empty or of the wrong form. */
export function badField(message: string, param: string, present: boolean): Rejection {
  return reject("BadRequest", message, { errorCode: present ? "invalid_value" : "missing_required_parameter", param });
}

function modelMissing(): Rejection {
  return reject("BadRequest", "model not found in request body", {
    errorCode: "missing_required_parameter",
    param: "model",
  });
}

function badJson(what: string): Rejection {
  return reject("BadRequest", `error unmarshaling request bodyMap: ${what}`, { errorCode: "invalid_json" });
}

function describe(fault: ScanFault): string {
  switch (fault.fault) {
    case "syntax":
      return `invalid JSON at byte ${fault.offset}`;
    case "trailing":
      return `bytes after the JSON value at byte ${fault.offset}`;
    case "truncated":
      return "unexpected end of JSON input";
    case "depth":
      return "exceeded max depth";
    default: {
      const never: never = fault.fault;
      return never;
    }
  }
}

function earlierRanges(repeated: readonly number[], member: number): readonly ByteRange[] {
  const ranges: ByteRange[] = [];
  for (let i = 0; i < repeated.length; i += 3) {
    if (repeated[i] === member) ranges.push({ start: repeated[i + 1] ?? 0, end: repeated[i + 2] ?? 0 });
  }
  return ranges;
}
