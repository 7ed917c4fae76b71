/**
 * Configuration text → plain values: YAML 1.2, of which JSON is a part, with YAML 1.1's booleans, since Go's decoder reads `on` as true. Every syntax fault names its line and column. Size, aliases and
 * depth are bounded, so that no text can take the memory of the process.
 */
import { isScalar, LineCounter, parseDocument, type ScalarTag, visit, type YAMLError, type YAMLMap } from "yaml";

/** A configuration is a page or two; a ConfigMap holds at most 1 MiB. */
export const maxDocumentBytes = 1024 * 1024;
/** Brackets and braces: more of them are a bomb, on which the parser would spend seconds. */
const maxFlowCollections = 20_000;
/** Expanded alias nodes, nested ones multiplied. */
const maxAliases = 100;
/** Syntax faults shown: after the first few the rest follow from them. */
const maxFaults = 10;

/** Words that YAML 1.1 calls booleans and 1.2 strings (yaml.org/type/bool.html). The single letters stay strings: they are likelier names. */
const oldBoolean: ScalarTag = {
  tag: "tag:yaml.org,2002:bool",
  default: true,
  identify: (value) => typeof value === "boolean",
  test: /^(?:yes|Yes|YES|on|On|ON|no|No|NO|off|Off|OFF)$/,
  resolve: (text) => /^(?:yes|on)$/i.test(text),
};

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
  if ((text.match(/[[{]/g)?.length ?? 0) > maxFlowCollections) {
    return refused([`the document has more than ${maxFlowCollections} brackets and braces`]);
  }
  try {
    const lines = new LineCounter();
    const options = { uniqueKeys: false, strict: true, merge: true, lineCounter: lines, customTags: [oldBoolean] };
    const document = parseDocument(text.replace(/^\uFEFF/, ""), options);
    if (document.errors.length > 0) return refused(document.errors.slice(0, maxFaults).map(describe));
    const repeated = repeatedKeys(document, lines);
    if (repeated.length > 0) return refused(repeated);
    return {
      value: withoutNulls(document.toJS({ maxAliasCount: maxAliases })) ?? undefined,
      faults: [],
      warnings: document.warnings.map(describe),
    };
  } catch (error) {
    const { name, message } = error as Error;
    return refused([name === "RangeError" ? "the document is nested too deeply" : message]);
  }
}

/** The library's own check compares every key with every other. */
function repeatedKeys(document: ReturnType<typeof parseDocument>, lines: LineCounter): readonly string[] {
  const faults: string[] = [];
  const check = (_key: unknown, { items }: YAMLMap): void => {
    const seen = new Set<string>();
    for (const { key } of items) {
      if (!isScalar(key)) continue;
      const name = String(key.value);
      if (seen.has(name) && faults.length < maxFaults) {
        const { line, col } = lines.linePos(key.range?.[0] ?? 0);
        faults.push(`line ${line}, column ${col}: the key ${JSON.stringify(name)} stands here a second time`);
      }
      seen.add(name);
    }
  };
  visit(document, { Map: check });
  return faults;
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
