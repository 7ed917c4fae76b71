/** Reads one member of an object inside a body that the scanner has accepted, such as metadata.user_id. */

import { MemberNames, scanJson } from "./json-scanner.ts";
import { countAt, isObjectAt, stringAt } from "./json-value.ts";
import type { ByteRange } from "./parsed-body.ts";

const tables = new Map<string, MemberNames>();

export function memberString(body: Buffer, object: ByteRange | undefined, name: string): string | undefined {
  const range = memberRange(body, object, name);
  return range === undefined ? undefined : stringAt(body, range.start, range.end);
}

export function memberCount(body: Buffer, object: ByteRange | undefined, name: string): number | undefined {
  const range = memberRange(body, object, name);
  return range === undefined ? undefined : countAt(body, range.start, range.end);
}

/** Range of the member's value in `body`; undefined where the value at `object` is no object or has no such member. */
function memberRange(body: Buffer, object: ByteRange | undefined, name: string): ByteRange | undefined {
  if (object === undefined || !isObjectAt(body, object.start)) return undefined;
  const scan = scanJson(body.subarray(object.start, object.end), tableOf(name));
  if ("fault" in scan) return undefined;
  const start = scan.ranges[0] ?? -1;
  return start < 0 ? undefined : { start: object.start + start, end: object.start + (scan.ranges[1] ?? start) };
}

/** Names come from the parsers' sources, so that the map stays as small as they are. */
function tableOf(name: string): MemberNames {
  let table = tables.get(name);
  if (table === undefined) {
    table = new MemberNames([name]);
    tables.set(name, table);
  }
  return table;
}
