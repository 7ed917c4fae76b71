/**
 * The plugins of one configuration by name: those it lists, and the defaults that other parts of it need. Every entry's parameters are
 * validated and complete the moment it is in; a fault names the entry's place in the file.
 */
import { resolve } from "node:path";
import type { PluginDefinition, PluginKind } from "../scheduling/contracts.ts";
import type { PluginRegistry } from "./complete-config.ts";
import { didYouMean } from "./nearest-name.ts";
import { markedParameters } from "./parameter-schema.ts";
import type { Findings, RawPlugin } from "./raw-config.ts";
import { loadUserModule } from "./user-modules.ts";
import { validateAgainst } from "./validate.ts";

export interface SetEntry {
  readonly name: string;
  readonly type: string;
  readonly definition: PluginDefinition;
  /** Still open to the names of producers; frozen with the configuration. */
  readonly parameters: Record<string, unknown>;
  /** Where faults of this plugin are reported: "plugins[2]", or in words for one that was added. */
  readonly place: string;
}

export class PluginSet {
  readonly #registry: PluginRegistry;
  readonly #findings: Findings;
  readonly #entries = new Map<string, SetEntry>();
  /** Listed names that could not be set up: what refers to them is not reported a second time. */
  readonly #broken = new Set<string>();

  constructor(registry: PluginRegistry, findings: Findings) {
    this.#registry = registry;
    this.#findings = findings;
  }

  get(name: string): SetEntry | undefined {
    return this.#entries.get(name);
  }

  all(): readonly SetEntry[] {
    return [...this.#entries.values()];
  }

  ofType(type: string): readonly SetEntry[] {
    return this.all().filter((entry) => entry.type === type);
  }

  isKind(name: string, kind: PluginKind): boolean {
    return this.#entries.get(name)?.definition.kinds.includes(kind) ?? false;
  }

  /** Adds what `plugins` lists. `onModule` is told the path of every module named, the missing ones included. */
  async addListed(
    listed: readonly RawPlugin[],
    folder: string,
    onModule: (path: string) => Promise<void>,
  ): Promise<void> {
    const names = new Set<string>();
    for (const [index, raw] of listed.entries()) {
      const place = `plugins[${index}]`;
      const name = raw.name === undefined || raw.name === "" ? raw.type : raw.name;
      if (names.has(name)) {
        this.#findings.faults.push(
          `${place}: a plugin named ${JSON.stringify(name)} exists already; give one of them a \`name\` of its own`,
        );
        continue;
      }
      names.add(name);
      const definition = await this.#definition(raw, place, folder, onModule);
      if (definition === undefined) this.#broken.add(name);
      else this.#put(name, definition, structuredClone(raw.parameters ?? {}), place);
    }
  }

  /** The default instance of a built-in type, named after it, unless one of the type is there already. Returns the name to refer to. */
  addDefault(type: string, wantedBy: string): string {
    const present = this.ofType(type)[0];
    if (present !== undefined || this.#broken.has(type)) return present?.name ?? type;
    const definition = this.#registry.get(type);
    const taken = this.#entries.get(type);
    if (definition === undefined) {
      this.#findings.faults.push(`${wantedBy} needs a ${type}, which is not a built-in plugin: add one to plugins`);
      this.#broken.add(type);
    } else if (taken !== undefined) {
      this.#findings.faults.push(
        `${taken.place}.name: ${JSON.stringify(type)} names a ${taken.type}, but ${wantedBy} needs a ${type} by that name; rename it`,
      );
      this.#broken.add(type);
    } else this.#put(type, definition, {}, `plugin ${type} (added for ${wantedBy})`);
    return type;
  }

  /** The entry a `pluginRef` names, if it is of one of these kinds; otherwise the fault is noted. */
  resolve(name: string, path: string, kinds: readonly PluginKind[]): SetEntry | undefined {
    const entry = this.#entries.get(name);
    if (entry === undefined) {
      if (!this.#broken.has(name)) this.#findings.faults.push(`${path}: ${this.missing(name)}`);
      return undefined;
    }
    if (kinds.some((kind) => entry.definition.kinds.includes(kind))) return entry;
    this.#findings.faults.push(
      `${path}: ${name} is ${withArticle(entry.definition.kinds.join(" and "))}, not ${withArticle(orList(kinds))}`,
    );
    return undefined;
  }

  /** The type itself, if it is a built-in one of the kind. */
  builtInOfKind(type: string, kind: PluginKind): string | undefined {
    return this.#registry.get(type)?.kinds.includes(kind) === true ? type : undefined;
  }

  /** What to say of a name that no plugin has. */
  missing(name: string): string {
    const said = `no plugin named ${JSON.stringify(name)}`;
    if (this.#registry.get(name) !== undefined) return `${said}; add {type: ${name}} to plugins`;
    const waitsFor = this.#registry.unbuilt.get(name);
    if (waitsFor !== undefined) return `${said}, and the reference picker's ${name} is not built yet (${waitsFor})`;
    return `${said}${didYouMean(name, [...this.#entries.keys(), ...this.#registry.types])}`;
  }

  isBroken(name: string): boolean {
    return this.#broken.has(name);
  }

  async #definition(
    raw: RawPlugin,
    place: string,
    folder: string,
    onModule: (path: string) => Promise<void>,
  ): Promise<PluginDefinition | undefined> {
    const { faults, warnings } = this.#findings;
    const registry = this.#registry;
    if (raw.module !== undefined) {
      const path = resolve(folder, raw.module);
      await onModule(path);
      if (registry.get(raw.type) !== undefined || registry.unbuilt.has(raw.type)) {
        faults.push(`${place}.type: ${raw.type} is a built-in type; a plugin of your own needs a type of its own`);
        return undefined;
      }
      const loaded = await loadUserModule(path, raw.type);
      if ("definition" in loaded) return loaded.definition;
      faults.push(`${place}.module: ${loaded.fault}`);
      return undefined;
    }
    const renamed = registry.deprecated.get(raw.type);
    if (renamed !== undefined) warnings.push(`${place}.type: ${raw.type} is deprecated: ${renamed.note}`);
    const definition = registry.get(renamed?.use ?? raw.type);
    if (definition !== undefined) return definition;
    const waitsFor = registry.unbuilt.get(raw.type);
    faults.push(
      waitsFor === undefined
        ? `${place}.type: unknown plugin type ${JSON.stringify(raw.type)}${didYouMean(raw.type, registry.types)}; a plugin of your own needs \`module\``
        : `${place}.type: ${raw.type} is a plugin of the reference picker that is not built yet (${waitsFor})`,
    );
    return undefined;
  }

  #put(name: string, definition: PluginDefinition, parameters: Record<string, unknown>, place: string): void {
    const { faults, warnings } = this.#findings;
    const base = `${place}.parameters`;
    for (const { path, holder, key, schema } of markedParameters(definition.parameters, parameters, "deprecated")) {
      if (!Object.hasOwn(holder, key)) continue;
      const advice = typeof schema["description"] === "string" ? `: ${schema["description"]}` : "";
      warnings.push(`${base}.${path} is deprecated${advice}`);
    }
    const found = [...validateAgainst(definition.parameters, parameters, base)];
    if (found.length === 0) {
      for (const fault of ownFaults(definition, parameters)) found.push(`${base}: ${fault}`);
    }
    faults.push(...found);
    this.#entries.set(name, { name, type: definition.type, definition, parameters, place });
  }
}

/** A user's own `validate` may fail; that is a fault of the configuration, not of the process. */
function ownFaults(definition: PluginDefinition, parameters: Record<string, unknown>): readonly string[] {
  if (definition.validate === undefined) return [];
  try {
    const faults: unknown = definition.validate(parameters);
    return Array.isArray(faults) ? faults.map(String) : [];
  } catch (error) {
    return [`the plugin's own validate failed: ${error instanceof Error ? error.message : String(error)}`];
  }
}

function withArticle(words: string): string {
  return /^[aeiou]/.test(words) ? `an ${words}` : `a ${words}`;
}

function orList(kinds: readonly string[]): string {
  return kinds.length < 2 ? kinds.join("") : `${kinds.slice(0, -1).join(", ")} or ${kinds.at(-1)}`;
}
