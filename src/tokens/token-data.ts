/**
 * Whether and how a request carries its token ids to Dynamo's frontend (`nvext.token_data`), as edits of the body's bytes. Whatever a client sent
 * there never passes: the frontend would compute it instead of the prompt that was routed, and for a batch in place of every prompt. Nothing is
 * ever added but the ids, for the frontend refuses an unknown member of nvext, and what is for the picker alone is taken out. An empty list would be a prompt of nothing, so it is never written.
 */

export interface Range {
  readonly start: number;
  readonly end: number;
}

/** Bytes in place of [start, end) of the body; in order, none overlapping. */
export interface TokenDataEdit extends Range {
  readonly bytes: Buffer;
}

export type TokenDataPlan =
  | { readonly kind: "leave"; readonly reason: string }
  | { readonly kind: "edit"; readonly isInjected: boolean; readonly edits: readonly TokenDataEdit[] };

export interface TokenDataFacts {
  /** The body's object, braces included; undefined when it is none. */
  readonly object: Range | undefined;
  /** The value of its `nvext`. */
  readonly nvext: Range | undefined;
}

/** What a client may not say, and what it says to the picker alone: Dynamo 1.6's frontend refuses do_not_queue as unknown. */
const ours: ReadonlySet<unknown> = new Set(["token_data", "do_not_queue"]);
const opening = Buffer.from("{");
const separator = Buffer.from(",");
const closing = Buffer.from("}");

/** `ids` only where they may stand in for the prompt (isAuthoritative). `body` is valid JSON. */
export function planTokenData(body: Buffer, facts: TokenDataFacts, ids: Uint32Array | undefined): TokenDataPlan {
  const { object, nvext } = facts;
  if (object === undefined) return { kind: "leave", reason: "the body is not an object" };
  const injected = ids === undefined || ids.length === 0 ? undefined : ids;
  if (nvext === undefined) {
    if (injected === undefined) return { kind: "leave", reason: "no ids that may stand in for the prompt" };
    return inject([insertion(body, object, '"nvext":{"token_data":', injected, "}")]);
  }
  if (body.toString("latin1", nvext.start, Math.min(nvext.end, nvext.start + 4)) === "null") {
    if (injected === undefined) return { kind: "leave", reason: "no ids that may stand in for the prompt" };
    return inject([{ ...nvext, bytes: spelt('{"token_data":', injected, "}") }]);
  }
  if (body[nvext.start] !== openBrace) return { kind: "leave", reason: "nvext is not an object" };
  const members = membersOf(body, nvext);
  const kept = members.filter((member) => !ours.has(member.name));
  if (kept.length === members.length) {
    return injected === undefined
      ? { kind: "leave", reason: "no ids that may stand in for the prompt" }
      : inject([insertion(body, nvext, '"token_data":', injected, "")]);
  }
  const edit = { ...nvext, bytes: rebuilt(body, kept, injected) };
  return { kind: "edit", isInjected: injected !== undefined, edits: [edit] };
}

/** The object with the kept members as they were sent, and the ids. */
function rebuilt(body: Buffer, kept: readonly Member[], ids: Uint32Array | undefined): Buffer {
  const parts: Buffer[] = [];
  for (const { start, end } of kept) parts.push(body.subarray(start, end));
  if (ids !== undefined) parts.push(spelt('"token_data":', ids, ""));
  const separated = parts.flatMap((part, index) => (index === 0 ? [part] : [separator, part]));
  return Buffer.concat([opening, ...separated, closing]);
}

function inject(edits: readonly TokenDataEdit[]): TokenDataPlan {
  return { kind: "edit", isInjected: true, edits };
}

function insertion(body: Buffer, object: Range, before: string, ids: Uint32Array, after: string): TokenDataEdit {
  const at = object.start + 1;
  const isEmpty = body[afterSpace(body, at)] === closeBrace;
  return { start: at, end: at, bytes: spelt(before, ids, isEmpty ? after : `${after},`) };
}

const longestId = 10;

/** The ids as a JSON array between two texts of ASCII. */
function spelt(before: string, ids: Uint32Array, after: string): Buffer {
  const bytes = Buffer.allocUnsafe(before.length + after.length + 2 + ids.length * (longestId + 1));
  let at = bytes.write(before, 0, "latin1");
  bytes[at++] = 0x5b;
  for (let index = 0; index < ids.length; index++) {
    if (index > 0) bytes[at++] = 0x2c;
    at = writeDecimal(bytes, at, ids[index] ?? 0);
  }
  bytes[at++] = 0x5d;
  at += bytes.write(after, at, "latin1");
  return bytes.subarray(0, at);
}

function writeDecimal(bytes: Buffer, start: number, id: number): number {
  let width = 1;
  for (let power = 10; width < longestId && id >= power; power *= 10) width++;
  let left = id;
  for (let at = start + width - 1; at >= start; at--) {
    const tenth = Math.floor(left / 10);
    bytes[at] = 0x30 + (left - tenth * 10);
    left = tenth;
  }
  return start + width;
}

const openBrace = 0x7b;
const closeBrace = 0x7d;
const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;

/** From the quote of the name to the end of the value. */
interface Member extends Range {
  readonly name: unknown;
}

function membersOf(body: Buffer, object: Range): readonly Member[] {
  const found: Member[] = [];
  let at = afterSpace(body, object.start + 1);
  while (at < object.end && body[at] === quote) {
    const nameEnd = stringEnd(body, at);
    const end = valueEnd(body, afterSpace(body, afterSpace(body, nameEnd) + 1));
    found.push({ start: at, end, name: JSON.parse(body.toString("utf8", at, nameEnd)) });
    const next = afterSpace(body, end);
    if (body[next] !== comma) break;
    at = afterSpace(body, next + 1);
  }
  return found;
}

function afterSpace(body: Buffer, from: number): number {
  let at = from;
  while (body[at] === 0x20 || body[at] === 0x0a || body[at] === 0x0d || body[at] === 0x09) at++;
  return at;
}

function stringEnd(body: Buffer, from: number): number {
  let at = from + 1;
  while (at < body.length && body[at] !== quote) at += body[at] === backslash ? 2 : 1;
  return at + 1;
}

function valueEnd(body: Buffer, from: number): number {
  let depth = 0;
  let at = from;
  while (at < body.length) {
    const byte = body[at];
    if (byte === quote) {
      at = stringEnd(body, at);
      if (depth === 0) return at;
      continue;
    }
    if (byte === openBrace || byte === 0x5b) depth++;
    else if (byte === closeBrace || byte === 0x5d) {
      if (depth === 0) return trimmedEnd(body, from, at);
      depth--;
      if (depth === 0) return at + 1;
    } else if (byte === comma && depth === 0) return trimmedEnd(body, from, at);
    at++;
  }
  return at;
}

function trimmedEnd(body: Buffer, from: number, end: number): number {
  let at = end;
  while (at > from && (body[at - 1] ?? 0) <= 0x20) at--;
  return at;
}
