/** One manifest file: YAML of any number of documents, or one JSON document. It is good as a whole or not at all. */
import { parseAllDocuments } from "yaml";
import { type ManifestObject, parseManifest } from "./manifest.ts";

export interface ManifestFile {
  /** In document order; empty when there is any fault. */
  readonly objects: readonly ManifestObject[];
  /** Each names the document and the path in it. */
  readonly faults: readonly string[];
  /** Objects of other kinds, as "apiVersion kind". */
  readonly ignored: readonly string[];
}

export function isManifestName(name: string): boolean {
  return !name.startsWith(".") && /\.(?:ya?ml|json)$/i.test(name);
}

export function parseManifestFile(name: string, text: string): ManifestFile {
  const objects: ManifestObject[] = [];
  const faults: string[] = [];
  const ignored: string[] = [];
  const read = (value: unknown, where: string, isItem: boolean): void => {
    const document = parseManifest(value);
    switch (document.kind) {
      case "object":
        objects.push(document.object);
        break;
      case "foreign":
        ignored.push(`${document.apiVersion} ${document.objectKind}`);
        break;
      case "faulty":
        for (const fault of document.faults) faults.push(`${where}: ${fault}`);
        break;
      case "list":
        if (isItem) faults.push(`${where}: a list within a list is not read`);
        else for (const [i, item] of document.items.entries()) read(item, `${where}, items[${i}]`, true);
        break;
      default:
        document satisfies never;
    }
  };
  for (const { value, where, fault } of documentsOf(name, text)) {
    if (fault !== undefined) faults.push(`${where}: ${fault}`);
    else if (value !== null && value !== undefined) read(value, where, false);
  }
  return { objects: faults.length > 0 ? [] : objects, faults, ignored };
}

interface Document {
  readonly where: string;
  readonly value: unknown;
  readonly fault: string | undefined;
}

function documentsOf(name: string, withMark: string): readonly Document[] {
  const text = withMark.startsWith("\uFEFF") ? withMark.slice(1) : withMark;
  if (name.toLowerCase().endsWith(".json")) {
    return [documentOf("document 1", () => JSON.parse(text) as unknown)];
  }
  return parseAllDocuments(text, { prettyErrors: true, logLevel: "silent" }).map((document, i) => {
    const where = `document ${i + 1}`;
    const [error] = document.errors;
    if (error !== undefined) return { where, value: undefined, fault: firstLine(error.message) };
    // Expanding aliases is bounded by the parser: a small file cannot grow without limit.
    return documentOf(where, () => document.toJS({ maxAliasCount: 100 }) as unknown);
  });
}

function documentOf(where: string, read: () => unknown): Document {
  try {
    return { where, value: read(), fault: undefined };
  } catch (error) {
    const message =
      typeof error === "object" && error !== null && "message" in error ? String(error.message) : "unreadable";
    return { where, value: undefined, fault: firstLine(message) };
  }
}

function firstLine(message: string): string {
  const end = message.indexOf("\n");
  return end < 0 ? message : message.slice(0, end);
}
