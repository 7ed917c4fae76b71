/**
 * EndpointPickerConfig text → complete configuration, in stages: YAML or JSON → schema → plugins and references → defaults. Strict: every
 * fault of every stage that can be reached is reported at once, with its path.
 */
import { parseDocument } from "yaml";
import type { PluginDefinition } from "../scheduling/contracts.ts";
import {
  type CompleteConfig,
  ConfigError,
  type PluginEntry,
  type PluginRegistry,
  type ProfileEntry,
  type SourceEntry,
} from "./complete-config.ts";
import {
  defaultDetector,
  defaultExtractor,
  defaultHandler,
  defaultParsers,
  defaultPicker,
  defaultPlugins,
  defaultProfile,
  defaultSource,
  featureGates,
  loadProducer,
} from "./defaults.ts";
import { apiVersions, configSchema } from "./schema.ts";
import { loadUserModule } from "./user-modules.ts";
import { validateAgainst } from "./validate.ts";

interface RawPlugin {
  name?: string;
  type: string;
  parameters?: Record<string, unknown>;
  module?: string;
}

interface RawConfig {
  apiVersion: string;
  featureGates?: string[];
  plugins?: RawPlugin[];
  schedulingProfiles?: { name: string; plugins?: { pluginRef: string; weight?: number }[] }[];
  dataLayer?: {
    injectDefaults?: boolean;
    sources?: { pluginRef: string; extractors?: { pluginRef: string }[] }[];
    discovery?: { pluginRef: string };
    peerDiscovery?: { pluginRef: string };
    crossReplicaSyncerPluginRef?: string;
  };
  flowControl?: { saturationDetector?: { pluginRef: string } };
  requestHandler?: { parsers?: { pluginRef: string }[] };
  saturationDetector?: { pluginRef: string };
  parser?: { pluginRef: string };
}

export interface LoadOptions {
  readonly registry: PluginRegistry;
  /** Folder that a plugin's `module` is relative to. */
  readonly folder: string;
  /** Shown in messages: the file's path, or "--config-text". */
  readonly source: string;
}

/** Loads the text; undefined or blank text is the default configuration. Throws ConfigError with every fault. */
export async function loadConfig(text: string | undefined, options: LoadOptions): Promise<CompleteConfig> {
  const raw = text === undefined || text.trim() === "" ? defaultConfig() : parseText(text, options.source);
  const faults = [...validateAgainst(configSchema, raw, "")];
  if (faults.length > 0) throw new ConfigError(options.source, faults);
  return await new Completion(raw as RawConfig, options).complete();
}

function defaultConfig(): unknown {
  return {
    apiVersion: apiVersions[0],
    kind: "EndpointPickerConfig",
    plugins: defaultPlugins.map((plugin) => ({ ...plugin })),
    schedulingProfiles: [structuredClone(defaultProfile)],
  };
}

function parseText(text: string, source: string): unknown {
  const document = parseDocument(text, { uniqueKeys: true, strict: true });
  if (document.errors.length > 0) {
    throw new ConfigError(
      source,
      document.errors.map((error) => error.message.split("\n")[0] ?? error.message),
    );
  }
  return document.toJS({ maxAliasCount: 100 }) as unknown;
}

/** One run of completion; collects faults and warnings as it goes. */
class Completion {
  readonly #raw: RawConfig;
  readonly #options: LoadOptions;
  readonly #faults: string[] = [];
  readonly #warnings: string[] = [];
  readonly #entries = new Map<string, PluginEntry>();

  constructor(raw: RawConfig, options: LoadOptions) {
    this.#raw = raw;
    this.#options = options;
  }

  async complete(): Promise<CompleteConfig> {
    if (this.#raw.apiVersion !== apiVersions[0]) {
      this.#warnings.push(`apiVersion ${this.#raw.apiVersion} is deprecated; use ${apiVersions[0]}`);
    }
    const gates = this.#gates();
    await this.#plugins();
    const sources = this.#sources();
    const parsers = this.#parsers();
    const saturationDetector = this.#detector();
    const profiles = this.#profiles();
    const profileHandler = this.#handler(profiles.length);
    this.#add(loadProducer);
    this.#needed();
    for (const [index, raw] of (this.#raw.plugins ?? []).entries()) this.#validateParameters(raw, `plugins[${index}]`);
    const discovery = this.#reference(
      this.#raw.dataLayer?.discovery?.pluginRef,
      "dataLayer.discovery.pluginRef",
      "discovery",
    );
    for (const key of ["peerDiscovery", "crossReplicaSyncerPluginRef"] as const) {
      if (this.#raw.dataLayer?.[key] !== undefined) this.#faults.push(`dataLayer.${key}: not built yet`);
    }
    const plugins = this.#ordered();
    if (this.#faults.length > 0) throw new ConfigError(this.#options.source, this.#faults);
    return Object.freeze({
      featureGates: gates,
      plugins,
      profiles,
      profileHandler,
      parsers,
      sources,
      discovery,
      saturationDetector,
      warnings: this.#warnings,
    });
  }

  #gates(): ReadonlyMap<string, boolean> {
    const gates = new Map([...featureGates].map(([name, gate]) => [name, gate.byDefault]));
    for (const [index, text] of (this.#raw.featureGates ?? []).entries()) {
      const [name = "", value = "true"] = text.split("=");
      const gate = featureGates.get(name);
      const path = `featureGates[${index}]`;
      if (gate === undefined)
        this.#faults.push(
          `${path}: unknown gate ${JSON.stringify(name)}; expected one of ${[...featureGates.keys()].join(", ")}`,
        );
      else if (value !== "true" && value !== "false")
        this.#faults.push(`${path}: ${JSON.stringify(text)} should be "${name}", "${name}=true" or "${name}=false"`);
      else if (value === "true" && gate.unbuilt !== undefined)
        this.#faults.push(`${path}: ${name} cannot be switched on: ${gate.unbuilt}`);
      else gates.set(name, value === "true");
    }
    return gates;
  }

  async #plugins(): Promise<void> {
    for (const [index, raw] of (this.#raw.plugins ?? []).entries()) {
      const path = `plugins[${index}]`;
      const name = raw.name ?? raw.type;
      if (this.#entries.has(name)) {
        this.#faults.push(
          `${path}: a plugin named ${JSON.stringify(name)} exists already; give one of them a \`name\``,
        );
        continue;
      }
      const definition = await this.#definition(raw, path);
      if (definition !== undefined) {
        this.#entries.set(name, { name, type: definition.type, definition, parameters: raw.parameters ?? {} });
      }
    }
  }

  async #definition(raw: RawPlugin, path: string): Promise<PluginDefinition | undefined> {
    const { registry, folder } = this.#options;
    if (raw.module !== undefined) {
      if (registry.get(raw.type) !== undefined) {
        this.#faults.push(`${path}.type: ${raw.type} is a built-in type; a plugin of your own needs a type of its own`);
        return undefined;
      }
      const loaded = await loadUserModule(raw.module, folder, raw.type);
      if ("definition" in loaded) return loaded.definition;
      this.#faults.push(`${path}.module: ${loaded.fault}`);
      return undefined;
    }
    const renamed = registry.deprecated.get(raw.type);
    if (renamed !== undefined) this.#warnings.push(`${path}.type: ${raw.type} is deprecated: ${renamed.note}`);
    const definition = registry.get(renamed?.use ?? raw.type);
    if (definition !== undefined) return definition;
    const waitsFor = registry.unbuilt.get(raw.type);
    this.#faults.push(
      waitsFor === undefined
        ? `${path}.type: unknown plugin type ${JSON.stringify(raw.type)}; a plugin of your own needs \`module\``
        : `${path}.type: ${raw.type} is a plugin of the reference picker that is not built yet (${waitsFor})`,
    );
    return undefined;
  }

  /** Adds the default instance of a type, named after it, unless one of the type is configured. Returns the name to refer to. */
  #add(type: string): string {
    for (const entry of this.#entries.values()) if (entry.type === type) return entry.name;
    const definition = this.#options.registry.get(type);
    if (definition === undefined) throw new Error(`the registry has no ${type}`);
    const parameters = {};
    validateAgainst(definition.parameters, parameters, type);
    this.#entries.set(type, { name: type, type, definition, parameters });
    return type;
  }

  #reference(name: string | undefined, path: string, kind: string): string | undefined {
    if (name === undefined) return undefined;
    const entry = this.#entries.get(name);
    if (entry === undefined) this.#faults.push(`${path}: no plugin named ${JSON.stringify(name)}${this.#hint(name)}`);
    else if (entry.definition.kinds.length > 0 && !(entry.definition.kinds as readonly string[]).includes(kind)) {
      this.#faults.push(`${path}: ${name} is a ${entry.definition.kinds.join(" and ")}, not a ${kind}`);
    }
    return name;
  }

  #hint(name: string): string {
    return this.#options.registry.get(name) === undefined ? "" : `; add {type: ${name}} to plugins`;
  }

  #sources(): readonly SourceEntry[] {
    const layer = this.#raw.dataLayer;
    const sources = (layer?.sources ?? []).map((source, index) => {
      const path = `dataLayer.sources[${index}]`;
      this.#reference(source.pluginRef, `${path}.pluginRef`, "data-source");
      const extractors = (source.extractors ?? []).map((extractor, position) => {
        this.#reference(extractor.pluginRef, `${path}.extractors[${position}].pluginRef`, "extractor");
        return extractor.pluginRef;
      });
      return { pluginRef: source.pluginRef, extractors };
    });
    const hasMetrics = sources.some((source) => this.#entries.get(source.pluginRef)?.type === defaultSource);
    if (layer?.injectDefaults === false || hasMetrics) return sources;
    return [{ pluginRef: this.#add(defaultSource), extractors: [this.#add(defaultExtractor)] }, ...sources];
  }

  #parsers(): readonly string[] {
    const listed = this.#raw.requestHandler?.parsers;
    const old = this.#raw.parser;
    if (old !== undefined) {
      this.#warnings.push("parser is deprecated; use requestHandler.parsers");
      if (listed !== undefined) this.#faults.push("parser: cannot stand beside requestHandler.parsers");
    }
    const refs = listed ?? (old === undefined ? undefined : [old]);
    if (refs === undefined) return defaultParsers;
    return refs.map(({ pluginRef }, index) => {
      const path = listed === undefined ? "parser.pluginRef" : `requestHandler.parsers[${index}].pluginRef`;
      // A parser has no parameters, so naming its type is as good as listing it in plugins.
      const definition = this.#options.registry.get(pluginRef);
      if (!this.#entries.has(pluginRef) && definition?.kinds.includes("parser")) return definition.type;
      this.#reference(pluginRef, path, "parser");
      return this.#entries.get(pluginRef)?.type ?? pluginRef;
    });
  }

  #detector(): string {
    const old = this.#raw.saturationDetector;
    const current = this.#raw.flowControl?.saturationDetector;
    if (old !== undefined) {
      this.#warnings.push("saturationDetector is deprecated; use flowControl.saturationDetector");
      if (current !== undefined)
        this.#faults.push("saturationDetector: cannot stand beside flowControl.saturationDetector");
    }
    const path = current === undefined ? "saturationDetector.pluginRef" : "flowControl.saturationDetector.pluginRef";
    const name = this.#reference((current ?? old)?.pluginRef, path, "saturation-detector");
    return name ?? this.#add(defaultDetector);
  }

  #profiles(): readonly ProfileEntry[] {
    const raw = this.#raw.schedulingProfiles;
    if (raw === undefined) {
      const roles = new Set(["filter", "scorer", "picker"]);
      const refs = [...this.#entries.values()]
        .filter(({ definition, type }) => type !== defaultDetector && definition.kinds.some((kind) => roles.has(kind)))
        .map(({ name }) => ({ pluginRef: name, weight: 1 }));
      return [this.#withPicker({ name: "default", plugins: refs })];
    }
    const names = new Set<string>();
    return raw.map((profile, index) => {
      const path = `schedulingProfiles[${index}]`;
      if (names.has(profile.name))
        this.#faults.push(`${path}.name: a profile named ${JSON.stringify(profile.name)} exists already`);
      names.add(profile.name);
      const refs = (profile.plugins ?? []).map(({ pluginRef, weight }, position) => {
        const refPath = `${path}.plugins[${position}].pluginRef`;
        const entry = this.#entries.get(pluginRef);
        if (entry === undefined)
          this.#faults.push(`${refPath}: no plugin named ${JSON.stringify(pluginRef)}${this.#hint(pluginRef)}`);
        return { pluginRef, weight: weight ?? 1 };
      });
      const pickers = refs.filter(({ pluginRef }) => this.#isKind(pluginRef, "picker"));
      if (pickers.length > 1)
        this.#faults.push(`${path}.plugins: more than one picker: ${pickers.map((ref) => ref.pluginRef).join(", ")}`);
      return this.#withPicker({ name: profile.name, plugins: refs });
    });
  }

  #isKind(name: string, kind: string): boolean {
    return (this.#entries.get(name)?.definition.kinds as readonly string[] | undefined)?.includes(kind) ?? false;
  }

  #withPicker(profile: ProfileEntry): ProfileEntry {
    if (profile.plugins.some(({ pluginRef }) => this.#isKind(pluginRef, "picker"))) return profile;
    const configured = [...this.#entries.keys()].find((name) => this.#isKind(name, "picker"));
    return {
      ...profile,
      plugins: [...profile.plugins, { pluginRef: configured ?? this.#add(defaultPicker), weight: 1 }],
    };
  }

  #handler(profileCount: number): string {
    const handlers = [...this.#entries.values()].filter(({ definition }) =>
      definition.kinds.includes("profile-handler"),
    );
    if (handlers.length > 1) {
      this.#faults.push(
        `plugins: exactly one profile handler may exist; found ${handlers.map(({ name }) => name).join(", ")}`,
      );
    }
    const handler = handlers[0];
    if (profileCount > 1 && (handler === undefined || handler.type === defaultHandler)) {
      this.#faults.push(
        `schedulingProfiles: ${profileCount} profiles need a profile handler that chooses between them; single-profile-handler runs one`,
      );
    }
    return handler?.name ?? this.#add(defaultHandler);
  }

  /** Creates the producers that plugins read from. A parameter marked `x-producer` in a schema names the one it reads; unset, it follows the only one configured. */
  #needed(): void {
    const visited = new Set<string>();
    for (let entry = this.#unvisited(visited); entry !== undefined; entry = this.#unvisited(visited)) {
      visited.add(entry.name);
      const named = new Map<string, string>();
      for (const [parameter, type] of producerParameters(entry.definition)) {
        const given = entry.parameters[parameter];
        if (typeof given === "string" && given !== "" && given !== type) {
          named.set(type, given);
          if (!this.#entries.has(given))
            this.#faults.push(
              `plugin ${entry.name}, parameters.${parameter}: no plugin named ${JSON.stringify(given)}`,
            );
          continue;
        }
        const configured = [...this.#entries.values()].filter((candidate) => candidate.type === type);
        if (configured.length > 1 && given === undefined) {
          this.#faults.push(
            `plugin ${entry.name}, parameters.${parameter}: name one of the ${type} instances: ${configured.map(({ name }) => name).join(", ")}`,
          );
        }
        (entry.parameters as Record<string, unknown>)[parameter] = given ?? configured[0]?.name ?? this.#add(type);
        if (given === type && !this.#entries.has(type)) this.#add(type);
      }
      for (const type of entry.definition.needs ?? []) if (!named.has(type)) this.#add(type);
    }
  }

  #unvisited(visited: ReadonlySet<string>): PluginEntry | undefined {
    for (const entry of this.#entries.values()) if (!visited.has(entry.name)) return entry;
    return undefined;
  }

  #validateParameters(raw: RawPlugin, path: string): void {
    const entry = this.#entries.get(raw.name ?? raw.type);
    if (entry === undefined) return;
    const faults = validateAgainst(entry.definition.parameters, entry.parameters, `${path}.parameters`);
    this.#faults.push(...faults);
    if (faults.length === 0 && entry.definition.validate !== undefined) {
      this.#faults.push(...entry.definition.validate(entry.parameters).map((fault) => `${path}.parameters: ${fault}`));
    }
  }

  /** Producers first, in the order of what they need; then the rest as configured. */
  #ordered(): readonly PluginEntry[] {
    const ordered = new Set<PluginEntry>();
    const open = new Set<PluginEntry>();
    const visit = (entry: PluginEntry): void => {
      if (ordered.has(entry)) return;
      if (open.has(entry)) {
        this.#faults.push(`plugins: ${[...open, entry].map(({ name }) => name).join(" needs ")}: a cycle`);
        return;
      }
      open.add(entry);
      for (const type of entry.definition.needs ?? []) {
        for (const other of this.#entries.values()) if (other.type === type) visit(other);
      }
      open.delete(entry);
      ordered.add(entry);
    };
    for (const entry of this.#entries.values()) visit(entry);
    return [...ordered];
  }
}

function producerParameters(definition: PluginDefinition): [parameter: string, type: string][] {
  const properties = definition.parameters["properties"];
  if (typeof properties !== "object" || properties === null) return [];
  return Object.entries(properties as Readonly<Record<string, unknown>>).flatMap(([name, schema]) => {
    const type =
      typeof schema === "object" && schema !== null ? (schema as Record<string, unknown>)["x-producer"] : undefined;
    return typeof type === "string" ? [[name, type] as [string, string]] : [];
  });
}
