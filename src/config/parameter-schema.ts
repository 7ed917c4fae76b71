/**
 * What a plugin's parameter schema says beyond validation, found in the values as they are configured: deprecated members, and members
 * that name another plugin. Marks of a property:
 *
 *     deprecated: true             accepted with a warning
 *     x-producer: TYPE             names a data producer; unset, the only configured one of that type
 *     x-plugin: true               names any configured plugin
 *     x-published-by: TYPE         when set, a plugin of that type must be configured
 */
import type { JsonSchema } from "../scheduling/contracts.ts";

export interface MarkedParameter {
  /** Below `parameters`, e.g. "sources[0].producer". */
  readonly path: string;
  readonly schema: JsonSchema;
  /** The object that holds the parameter, or would hold it. */
  readonly holder: Record<string, unknown>;
  readonly key: string;
}

/** Every property of the schema that has the mark, wherever its holder exists. Tolerates values the schema refuses. */
export function markedParameters(schema: JsonSchema, parameters: Record<string, unknown>, mark: string) {
  const found: MarkedParameter[] = [];
  walk(schema, parameters, "", (path, property, holder, key) => {
    if (property[mark] !== undefined && property[mark] !== false) found.push({ path, schema: property, holder, key });
  });
  return found;
}

type Visit = (path: string, property: JsonSchema, holder: Record<string, unknown>, key: string) => void;

function walk(schema: JsonSchema, value: unknown, path: string, visit: Visit): void {
  if (Array.isArray(value)) {
    const items = schema["items"];
    if (!isObject(items)) return;
    for (const [index, item] of value.entries()) walk(items, item, `${path}[${index}]`, visit);
    return;
  }
  const properties = schema["properties"];
  if (!isObject(value) || !isObject(properties)) return;
  for (const [key, property] of Object.entries(properties)) {
    if (!isObject(property)) continue;
    const below = path === "" ? key : `${path}.${key}`;
    visit(below, property, value, key);
    if (Object.hasOwn(value, key)) walk(property, value[key], below, visit);
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
