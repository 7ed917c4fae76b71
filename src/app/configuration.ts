/**
 * The running configuration: loaded at start, swapped as a whole by a good edit of its file, kept by a bad one. Instances that a swap leaves
 * behind are closed once no request uses their plan.
 */
import { readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { ConfigError, type PluginRegistry } from "../config/complete-config.ts";
import { closeInstances, instantiate, isSame, type Loaded } from "../config/instantiate.ts";
import { loadConfig } from "../config/load.ts";
import { type FileWatch, watchFile } from "../config/watch.ts";
import type { PluginContext, SchedulingPlan } from "../scheduling/contracts.ts";
import type { Logger } from "../telemetry/log.ts";

export interface ConfigurationOptions {
  /** File to load and watch; undefined: `text`, or the default configuration. */
  readonly file: string | undefined;
  readonly text: string | undefined;
  readonly registry: PluginRegistry;
  contextFor(name: string, lookup: (name: string) => unknown): PluginContext;
  readonly log: Logger;
  onReload(outcome: "applied" | "rejected"): void;
}

export interface ReloadState {
  readonly source: string;
  /** Good loads, the first included. */
  readonly loads: number;
  /** Why the last edit was refused; [] when it was good. */
  readonly faults: readonly string[];
}

export class Configuration {
  readonly #options: ConfigurationOptions;
  readonly #source: string;
  readonly #listeners: ((loaded: Loaded, previous: Loaded) => Promise<void> | void)[] = [];
  #current: Loaded | undefined;
  #watch: FileWatch | undefined;
  #loads = 0;
  #faults: readonly string[] = [];

  private constructor(options: ConfigurationOptions) {
    this.#options = options;
    this.#source = options.file ?? (options.text === undefined ? "the default configuration" : "--config-text");
  }

  /** Throws ConfigError, or the system's error when the file cannot be read. */
  static async start(options: ConfigurationOptions): Promise<Configuration> {
    const configuration = new Configuration(options);
    const text = options.file === undefined ? options.text : await readFile(options.file, "utf8");
    configuration.#current = await configuration.#load(text, undefined);
    if (options.file !== undefined) {
      configuration.#watch = watchFile(
        options.file,
        text ?? "",
        (next) => configuration.#reload(next),
        (error) => options.log.error({ error, file: options.file }, "cannot read the configuration file"),
      );
    }
    return configuration;
  }

  get current(): Loaded {
    if (this.#current === undefined) throw new Error("the configuration is not loaded");
    return this.#current;
  }

  get plan(): SchedulingPlan {
    return this.current.plan;
  }

  get state(): ReloadState {
    return { source: this.#source, loads: this.#loads, faults: this.#faults };
  }

  /** Another plugin of the running configuration. */
  readonly lookup = (name: string): unknown => this.#current?.instances.get(name)?.plugin;

  /** Called after each swap, in order; what a listener awaits delays the closing of what was replaced. */
  onSwap(listener: (loaded: Loaded, previous: Loaded) => Promise<void> | void): void {
    this.#listeners.push(listener);
  }

  async close(): Promise<void> {
    await this.#watch?.close();
    if (this.#current !== undefined) await closeInstances(this.#current.instances);
  }

  async #load(text: string | undefined, previous: Loaded | undefined): Promise<Loaded> {
    const { registry, log, file } = this.#options;
    const folder = file === undefined ? process.cwd() : dirname(file);
    const config = await loadConfig(text, { registry, folder, source: this.#source });
    const discovery = config.plugins.find(({ name }) => name === config.discovery);
    const runningDiscovery = previous?.instances.get(previous.config.discovery ?? "")?.entry;
    if (previous !== undefined && !isSame(discovery, runningDiscovery)) {
      throw new ConfigError(this.#source, ["dataLayer.discovery: cannot change while the picker runs; restart it"]);
    }
    for (const warning of config.warnings) log.warn({ source: this.#source }, warning);
    const loaded = await instantiate(config, {
      source: this.#source,
      contextFor: (name) => this.#options.contextFor(name, this.lookup),
      previous,
    });
    this.#loads++;
    return loaded;
  }

  async #reload(text: string): Promise<void> {
    const previous = this.current;
    let loaded: Loaded;
    try {
      loaded = await this.#load(text, previous);
    } catch (error) {
      this.#faults = error instanceof ConfigError ? error.faults : [String(error)];
      this.#options.log.error(
        { source: this.#source, faults: this.#faults },
        "the edited configuration is refused; the last good one stays",
      );
      this.#options.onReload("rejected");
      return;
    }
    this.#faults = [];
    this.#current = loaded;
    this.#options.log.info({ source: this.#source, loads: this.#loads }, "the configuration was replaced");
    this.#options.onReload("applied");
    for (const listener of this.#listeners) await listener(loaded, previous);
    await closeInstances(previous.instances, loaded.instances);
  }
}
