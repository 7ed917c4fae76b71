/**
 * Configuration text → plain values: YAML 1.2, of which JSON is a part. Every syntax fault names its line and column. Size, aliases and
 * depth are bounded, so that no text can take the memory of the process.
 */
import { parseDocument, type YAMLError } from "yaml";

/** A configuration is a page or two; a ConfigMap holds at most 1 MiB. */
export const maxDocumentBytes = 1024 * 1024;
/** Expanded alias nodes, nested ones multiplied. */
const maxAliases = 100;

export interface ReadDocument {
  /** Undefined when there are faults, and for a document without content. A `null` in an object is dropped: it means the default. */
  readonly value: unknown;
  readonly faults: readonly string[];
  readonly warnings: readonly string[];
}

export function readDocument(text: string): ReadDocument {
  if (Buffer.byteLength(text) > maxDocumentBytes) {
    return refused([`the document is larger than ${maxDocumentBytes} bytes`]);
  }
  try {
    const document = parseDocument(text.replace(/^\uFEFF/, ""), { uniqueKeys: true, strict: true, merge: true });
    if (document.errors.length > 0) return refused(document.errors.map(describe));
    return {
      value: withoutNulls(document.toJS({ maxAliasCount: maxAliases })) ?? undefined,
      faults: [],
      warnings: document.warnings.map(describe),
    };
  } catch (error) {
    if (error instanceof ReferenceError || (error as { name?: unknown }).name === "ReferenceError") {
      return refused([`too many aliases: ${(error as Error).message}`]);
    }
    const isTooDeep = (error as { name?: unknown }).name === "RangeError";
    return refused([isTooDeep ? "the document is nested too deeply" : `cannot be read: ${String(error)}`]);
  }
}

function refused(faults: readonly string[]): ReadDocument {
  return { value: undefined, faults, warnings: [] };
}

function describe(error: YAMLError): string {
  const message =
    error.code === "MULTIPLE_DOCS"
      ? "a second document begins here; one is expected"
      : (error.message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:?$/, "");
  const position = error.linePos?.[0];
  return position === undefined ? message : `line ${position.line}, column ${position.col}: ${message}`;
}

/** Go's decoder, whose files these are, takes `key: null` (and `key:` with nothing after it) for an absent key. */
function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, member]) => (member === null ? [] : [[key, withoutNulls(member)] as const])),
  );
}
