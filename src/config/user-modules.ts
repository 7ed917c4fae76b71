/**
 * Loads a user's own plugin from a TypeScript or JavaScript file named in the configuration: no registration, no rebuild. A file is loaded
 * once for each content it has had; Node never unloads a module, so an edit costs the memory of one more.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import type { PluginDefinition } from "../scheduling/contracts.ts";
import { schemaFault } from "./validate.ts";

export type LoadedModule = { readonly definition: PluginDefinition } | { readonly fault: string };

/** Kinds that something calls today; one of another kind would stand in a configuration and never run. */
const usableKinds: ReadonlySet<string> = new Set([
  "screener",
  "filter",
  "scorer",
  "picker",
  "profile-handler",
  "data-producer",
  "admitter",
  "request-header-processor",
  "pre-request",
  "response",
  "saturation-detector",
  "data-source",
  "extractor",
  "discovery",
]);

/** Exported object → its completed definition: one identity for as long as the file does not change, so that a reload keeps the instance. */
const completed = new WeakMap<object, PluginDefinition>();

/** Any export of the module that defines the wanted type; the default export first. Missing members get harmless values. */
export async function loadUserModule(path: string, type: string): Promise<LoadedModule> {
  let version: string;
  try {
    version = createHash("sha256")
      .update(await readFile(path))
      .digest("hex")
      .slice(0, 16);
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    return { fault: code === "ENOENT" ? `no such file: ${path}` : `${path} cannot be read: ${String(code ?? error)}` };
  }
  let exports: Readonly<Record<string, unknown>>;
  try {
    exports = (await import(`${pathToFileURL(path).href}?content=${version}`)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    return { fault: `${path} cannot be loaded: ${oneLine(error)}` };
  }
  const candidates = [exports["default"], ...Object.values(exports)].filter(isDefinition);
  const found = candidates.find((candidate) => candidate.type === type);
  if (found !== undefined) return complete(found, path);
  const types = [...new Set(candidates.map((candidate) => candidate.type))];
  return {
    fault:
      types.length === 0
        ? `${path} exports no plugin: expected an object with \`type\`, \`kinds\` and \`create(parameters, context)\``
        : `${path} exports plugin type ${types.join(", ")}, not ${type}`,
  };
}

function isDefinition(value: unknown): value is PluginDefinition {
  if (typeof value !== "object" || value === null) return false;
  const candidate = value as Partial<PluginDefinition>;
  return typeof candidate.type === "string" && Array.isArray(candidate.kinds) && typeof candidate.create === "function";
}

function complete(found: PluginDefinition, path: string): LoadedModule {
  const known = completed.get(found);
  if (known !== undefined) return { definition: known };
  const unusable = (found.kinds as readonly unknown[]).filter((kind) => !usableKinds.has(String(kind)));
  if (found.kinds.length === 0 || unusable.length > 0) {
    const said = unusable.length === 0 ? "it is empty" : `${unusable.map(String).join(", ")} is not among them`;
    return { fault: `${path}: \`kinds\` lists what the plugin is, of ${[...usableKinds].join(", ")}; ${said}` };
  }
  const parameters: unknown = found.parameters ?? { type: "object" };
  if (typeof parameters !== "object" || parameters === null) {
    return { fault: `${path}: \`parameters\` should be a JSON Schema` };
  }
  const invalid = schemaFault(parameters as PluginDefinition["parameters"]);
  if (invalid !== undefined) return { fault: `${path}: \`parameters\` is no valid JSON Schema: ${invalid}` };
  const definition: PluginDefinition = {
    type: found.type,
    kinds: found.kinds,
    summary: typeof found.summary === "string" ? found.summary : "",
    parameters: parameters as PluginDefinition["parameters"],
    ...(Array.isArray(found.needs) ? { needs: found.needs } : {}),
    ...(typeof found.validate === "function" ? { validate: found.validate.bind(found) } : {}),
    create: found.create.bind(found),
  };
  completed.set(found, definition);
  return { definition };
}

function oneLine(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return text.replaceAll(/\s*\n\s*/g, " ");
}
