/** Loads a user's own plugin from a TypeScript or JavaScript file named in the configuration: no registration, no rebuild. */
import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { PluginDefinition } from "../scheduling/contracts.ts";

export type LoadedModule = { readonly definition: PluginDefinition } | { readonly fault: string };

function isDefinition(value: unknown): value is PluginDefinition {
  if (typeof value !== "object" || value === null) return false;
  const candidate = value as Partial<PluginDefinition>;
  return typeof candidate.type === "string" && Array.isArray(candidate.kinds) && typeof candidate.create === "function";
}

/** Any export of the module that defines the wanted type; the default export first. Missing members get harmless values. */
export async function loadUserModule(file: string, folder: string, type: string): Promise<LoadedModule> {
  const path = resolve(folder, file);
  let version: number;
  try {
    version = (await stat(path)).mtimeMs;
  } catch {
    return { fault: `no such file: ${path}` };
  }
  let exports: Readonly<Record<string, unknown>>;
  try {
    // The query makes an edited file a new module on reload; an unchanged one comes from the module cache.
    exports = (await import(`${pathToFileURL(path).href}?version=${version}`)) as Readonly<Record<string, unknown>>;
  } catch (error) {
    return { fault: `cannot be loaded: ${String(error)}` };
  }
  const candidates = [exports["default"], ...Object.values(exports)].filter(isDefinition);
  const found = candidates.find((candidate) => candidate.type === type);
  if (found === undefined) {
    const types = [...new Set(candidates.map((candidate) => candidate.type))];
    return {
      fault:
        types.length === 0
          ? `${path} exports no plugin: expected an object with \`type\`, \`kinds\` and \`create(parameters, context)\``
          : `${path} exports plugin type ${types.join(", ")}, not ${type}`,
    };
  }
  return {
    definition: {
      type: found.type,
      kinds: found.kinds,
      summary: found.summary ?? "",
      parameters: found.parameters ?? { type: "object" },
      ...(found.needs === undefined ? {} : { needs: found.needs }),
      ...(found.validate === undefined ? {} : { validate: found.validate.bind(found) }),
      create: found.create.bind(found),
    },
  };
}
