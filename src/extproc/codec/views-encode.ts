/**
 * Encodes replies (envoy.service.ext_proc.v3.ProcessingResponse) as one small buffer and the body parts behind it, uncopied: every body is
 * the last field of every message that contains it, so the bytes before it are written once with all lengths known.
 */
import type {
  BodyReply,
  DynamicMetadata,
  HeaderPair,
  HeadersReply,
  ImmediateReply,
  MetadataValue,
} from "../messages.ts";
import { WireWriter } from "./wire-writer.ts";

/** OVERWRITE_IF_EXISTS_OR_ADD, said explicitly: the enumeration's zero appends, and proxies differ in what they make of an unset field. */
const overwrite = 2;

/** Owned by the encode in progress; each one finishes before it returns. Fields are written last to first. */
const writer = new WireWriter();

type HeaderChanges = Omit<HeadersReply, "phase">;

export function encodeHeaders(reply: HeadersReply): readonly Uint8Array[] {
  writer.begin(0);
  commonHeaderChanges(reply);
  writer.delimited(0x0a, 0);
  writer.delimited(reply.phase === "request" ? 0x0a : 0x12, 0);
  dynamicMetadata(reply.dynamicMetadata);
  return [writer.finish()];
}

export function encodeBody(reply: BodyReply): readonly Uint8Array[] {
  const { mutation, headers } = reply;
  const parts = mutation.kind === "unchanged" ? noParts : mutation.parts;
  writer.begin(sizeBytesOf(parts));
  if (mutation.kind === "streamed") {
    if (writer.written > 0) writer.delimited(0x0a, 0);
    if (mutation.endOfStream) writer.varintField(0x10, 1);
    writer.delimited(0x1a, 0);
    writer.delimited(0x1a, 0);
  } else if (mutation.kind === "replace") {
    writer.delimited(0x0a, 0);
    writer.delimited(0x1a, 0);
  }
  if (headers !== undefined) commonHeaderChanges(headers);
  writer.delimited(0x0a, 0);
  writer.delimited(reply.phase === "request" ? 0x1a : 0x22, 0);
  if (headers !== undefined) dynamicMetadata(headers.dynamicMetadata);
  return withTail(writer.finish(), parts);
}

export function encodeTrailers(phase: "request" | "response"): readonly Uint8Array[] {
  return [phase === "request" ? requestTrailersReply : responseTrailersReply];
}

export function encodeImmediate(reply: ImmediateReply): readonly Uint8Array[] {
  writer.begin(reply.body.length);
  if (reply.body.length > 0) writer.delimited(0x1a, 0);
  if (reply.details !== "") writer.stringField(0x2a, reply.details);
  headerMutation(0x12, writer.written, reply.setHeaders, noNames);
  const statusMark = writer.written;
  writer.varintField(0x08, reply.status);
  writer.delimited(0x0a, statusMark);
  writer.delimited(0x3a, 0);
  const head = writer.finish();
  return reply.body.length > 0 ? [head, reply.body] : [head];
}

const noParts: readonly Uint8Array[] = [];
const noNames: readonly string[] = [];
const requestTrailersReply = Buffer.from([0x2a, 0]);
const responseTrailersReply = Buffer.from([0x32, 0]);

/** CommonResponse's header_mutation and clear_route_cache. */
function commonHeaderChanges(headers: HeaderChanges): void {
  const mark = writer.written;
  headerMutation(0x12, mark, headers.setHeaders, headers.removeHeaders);
  if (headers.clearRouteCache) writer.varintField(0x28, 1);
}

/** HeaderMutation (set_headers 1, remove_headers 2), left out when empty. */
function headerMutation(
  tag: number,
  mark: number,
  setHeaders: readonly HeaderPair[],
  removeHeaders: readonly string[],
): void {
  if (setHeaders.length === 0 && removeHeaders.length === 0) return;
  for (let index = removeHeaders.length - 1; index >= 0; index--) {
    const name = removeHeaders[index];
    if (name !== undefined) writer.stringField(0x12, name);
  }
  for (let index = setHeaders.length - 1; index >= 0; index--) {
    const pair = setHeaders[index];
    if (pair !== undefined) headerValueOption(pair);
  }
  writer.delimited(tag, mark);
}

/** HeaderValueOption (header 1 { key 1, raw_value 3 }, append_action 3). */
function headerValueOption(pair: HeaderPair): void {
  const mark = writer.written;
  writer.varintField(0x18, overwrite);
  const headerMark = writer.written;
  writer.stringField(0x1a, pair[1]);
  writer.stringField(0x0a, pair[0]);
  writer.delimited(0x0a, headerMark);
  writer.delimited(0x0a, mark);
}

function dynamicMetadata(metadata: DynamicMetadata | undefined): void {
  if (metadata === undefined) return;
  const mark = writer.written;
  structFields(metadata);
  writer.delimited(0x42, mark);
}

/** google.protobuf.Struct: fields 1, a map of key 1 to Value 2. */
function structFields(fields: { readonly [key: string]: MetadataValue }): void {
  for (const key in fields) {
    const value = fields[key];
    if (value === undefined) continue;
    const entryMark = writer.written;
    if (typeof value === "string") writer.stringField(0x1a, value);
    else if (typeof value === "number") writer.doubleField(0x11, value);
    else {
      const structMark = writer.written;
      structFields(value);
      writer.delimited(0x2a, structMark);
    }
    writer.delimited(0x12, entryMark);
    writer.stringField(0x0a, key);
    writer.delimited(0x0a, entryMark);
  }
}

function sizeBytesOf(parts: readonly Uint8Array[]): number {
  let sizeBytes = 0;
  for (let index = 0; index < parts.length; index++) sizeBytes += parts[index]?.length ?? 0;
  return sizeBytes;
}

function withTail(head: Buffer, parts: readonly Uint8Array[]): readonly Uint8Array[] {
  const first = parts[0];
  if (first === undefined) return [head];
  if (parts.length === 1) return [head, first];
  return [head, ...parts];
}
