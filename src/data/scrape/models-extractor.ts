/** The plugin `models-data-extractor`: keeps the models an endpoint serves (OpenAI's `/v1/models`) as an endpoint attribute. */
import type { Endpoint } from "../endpoint.ts";
import type { PluginDefinition } from "../plugin.ts";
import { type Extractor, type PageReader, readWhole } from "./source.ts";

/** Attribute of the served models: `readonly ServedModel[]`. */
export const servedModelsAttribute = "/v1/models";

export interface ServedModel {
  readonly id: string;
  /** Base model of an adapter; undefined for a base model. */
  readonly parent: string | undefined;
}

export function servedModels(endpoint: Endpoint): readonly ServedModel[] | undefined {
  return endpoint.attributes.get(servedModelsAttribute) as readonly ServedModel[] | undefined;
}

/** More models than this on one endpoint are a lying page. */
const maxModels = 10_000;

/** Undefined when the bytes are no model list; entries without an id are passed over. */
export function parseModels(bytes: Buffer): readonly ServedModel[] | undefined {
  let document: unknown;
  try {
    document = JSON.parse(bytes.toString("utf8"));
  } catch {
    return undefined;
  }
  const list = typeof document === "object" && document !== null ? (document as { data?: unknown }).data : undefined;
  if (!Array.isArray(list)) return undefined;
  const models: ServedModel[] = [];
  for (const entry of list.slice(0, maxModels) as readonly unknown[]) {
    if (typeof entry !== "object" || entry === null) continue;
    const { id, parent } = entry as { readonly id?: unknown; readonly parent?: unknown };
    if (typeof id !== "string" || id === "") continue;
    models.push({ id, parent: typeof parent === "string" ? parent : undefined });
  }
  return models;
}

export function createModelsExtractor(): Extractor {
  return {
    extractorType: "models-data-extractor",
    open: createReader,
  };
}

function createReader(): PageReader {
  let last: Buffer | undefined;
  return {
    read(endpoint, page, _nowMs, sink) {
      // The list hardly ever changes: the same bytes keep the same attribute, and so the same snapshot.
      if (last?.equals(page)) return readWhole;
      const models = parseModels(page);
      if (models === undefined) return { kind: "failed", reason: "the page is no model list" };
      last = Buffer.from(page);
      sink.setAttribute(endpoint.name, servedModelsAttribute, models);
      return readWhole;
    },
  };
}

export const modelsDataExtractorPlugin: PluginDefinition<Readonly<Record<string, never>>, Extractor> = {
  type: "models-data-extractor",
  kinds: ["extractor"],
  summary: "Keeps the models an endpoint serves as an attribute of it.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => createModelsExtractor(),
};
