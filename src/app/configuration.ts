/**
 * The running configuration: loaded at start, swapped as a whole by a good edit of its file or of a module it names, kept by a bad one.
 * Instances that a swap leaves behind are closed once no request uses a plan that holds them.
 */
import { dirname } from "node:path";
import { ConfigError, type PluginRegistry } from "../config/complete-config.ts";
import { activateInstances, closeInstances, instantiate, isSame, type Loaded } from "../config/instantiate.ts";
import { loadConfig } from "../config/load.ts";
import { statKeys, watchFiles } from "../data/watch/file-watch.ts";
import type { SettledWatch, WatchTiming } from "../data/watch/settled-watch.ts";
import type { PluginContext, SchedulingPlan } from "../scheduling/contracts.ts";
import type { Logger } from "../telemetry/log.ts";
import { readConfigurationFile } from "./configuration-text.ts";

export interface ConfigurationOptions {
  /** File to load and watch; undefined: `text`, or the default configuration. */
  readonly file: string | undefined;
  readonly text: string | undefined;
  /** What messages call the text; default: --config-text. */
  readonly source?: string | undefined;
  readonly registry: PluginRegistry;
  contextFor(name: string, lookup: (name: string) => unknown): PluginContext;
  readonly log: Logger;
  onReload(outcome: "applied" | "rejected"): void;
  readonly watch?: WatchTiming;
}

export interface ReloadState {
  readonly source: string;
  /** Good loads, the first included. */
  readonly loads: number;
  /** Why the last edit was refused; [] when it was good. */
  readonly faults: readonly string[];
}

/** Called after each swap, in the order they were added; what it awaits delays only the closing of what was replaced. */
export type SwapListener = (loaded: Loaded, previous: Loaded) => Promise<void> | void;

/** Longest wait at the end of the process for plans that are still in use. */
const retireTimeoutMs = 5_000;

export class Configuration {
  readonly #options: ConfigurationOptions;
  readonly #source: string;
  readonly #listeners: SwapListener[] = [];
  #current: Loaded | undefined;
  #loads = 0;
  #faults: readonly string[] = [];
  /** The text that was last looked at, good or bad. */
  #seenText: string | undefined;
  #fileWatch: SettledWatch<string> | undefined;
  readonly #moduleWatches = new Map<string, SettledWatch<string>>();
  #hasModuleEdit = false;
  #isReloadWanted = false;
  #reloading: Promise<void> | undefined;
  /** Replaced plans in the order they were replaced: an instance may live in several, so one is closed after all before it. */
  #retiring: Promise<void> = Promise.resolve();
  #isClosed = false;

  private constructor(options: ConfigurationOptions) {
    this.#options = options;
    const text = options.text === undefined ? "the default configuration" : (options.source ?? "--config-text");
    this.#source = options.file ?? text;
  }

  /** Throws ConfigError. */
  static async start(options: ConfigurationOptions): Promise<Configuration> {
    const configuration = new Configuration(options);
    const { file, watch } = options;
    // Before the first read: an edit during the start is seen after it.
    const seen = file === undefined ? "" : await statKeys([file]);
    configuration.#seenText = file === undefined ? options.text : await readConfigurationFile(file);
    try {
      configuration.#current = await configuration.#load(configuration.#seenText, undefined);
    } catch (error) {
      await configuration.close();
      throw error;
    }
    configuration.#activate(undefined);
    if (file !== undefined) {
      configuration.#fileWatch = watchFiles([file], seen, () => configuration.#requestReload(), watch);
    }
    return configuration;
  }

  get current(): Loaded {
    if (this.#current === undefined) throw new Error("the configuration is not loaded");
    return this.#current;
  }

  /** No plugin says that it is not ready. */
  get isReady(): boolean {
    for (const { plugin } of this.current.instances.values()) {
      if (typeof plugin === "object" && plugin !== null && "isReady" in plugin && plugin.isReady === false)
        return false;
    }
    return true;
  }

  get plan(): SchedulingPlan {
    return this.current.plan;
  }

  get state(): ReloadState {
    return { source: this.#source, loads: this.#loads, faults: this.#faults };
  }

  /** Another plugin of the running configuration. */
  readonly lookup = (name: string): unknown => this.#current?.instances.get(name)?.plugin;

  onSwap(listener: SwapListener): void {
    this.#listeners.push(listener);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#fileWatch?.close();
    await Promise.all([...this.#moduleWatches.values()].map((watch) => watch.close()));
    await this.#reloading;
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, retireTimeoutMs);
    });
    await Promise.race([this.#retiring, timeout]);
    clearTimeout(timer);
    if (this.#current !== undefined) await closeInstances(this.#current.instances, undefined, this.#closeFault);
  }

  #activate(previous: Loaded | undefined): void {
    activateInstances(this.current.instances, previous?.instances, (plugin, error) => {
      this.#options.log.error({ error, plugin }, "a plugin failed to begin its work");
    });
  }

  readonly #closeFault = (plugin: string, error: unknown): void => {
    this.#options.log.error({ error, plugin }, "a plugin failed to close");
  };

  async #load(text: string | undefined, previous: Loaded | undefined): Promise<Loaded> {
    const { registry, log, file } = this.#options;
    const modules = new Map<string, string>();
    try {
      const config = await loadConfig(text, {
        registry,
        folder: file === undefined ? process.cwd() : dirname(file),
        source: this.#source,
        onModule: async (path) => {
          modules.set(path, await statKeys([path]));
        },
      });
      if (previous !== undefined && !hasSameDiscovery(config, previous.config)) {
        throw new ConfigError(this.#source, [
          "dataLayer.discovery: where endpoints come from cannot change while the picker runs; restart it",
        ]);
      }
      for (const warning of config.warnings) log.warn({ source: this.#source }, warning);
      const loaded = await instantiate(config, {
        source: this.#source,
        contextFor: (name) => this.#options.contextFor(name, this.lookup),
        previous,
        onCloseFault: this.#closeFault,
      });
      this.#loads++;
      return loaded;
    } finally {
      if (file !== undefined) await this.#watchModules(modules);
    }
  }

  /** Follows exactly the modules that the newest text names, good or bad; each with its statKey from before it was read. */
  async #watchModules(paths: ReadonlyMap<string, string>): Promise<void> {
    for (const [path, watch] of this.#moduleWatches) {
      if (paths.has(path)) continue;
      this.#moduleWatches.delete(path);
      await watch.close();
    }
    for (const [path, seen] of paths) {
      if (this.#moduleWatches.has(path) || this.#isClosed) continue;
      const changed = (): Promise<void> => {
        this.#hasModuleEdit = true;
        // Not awaited: the reload may have to close this very watch, which waits for this call.
        void this.#requestReload();
        return Promise.resolve();
      };
      this.#moduleWatches.set(path, watchFiles([path], seen, changed, this.#options.watch));
    }
  }

  /** One reload at a time; whatever asks during one is answered by a single one after it. */
  #requestReload(): Promise<void> {
    this.#isReloadWanted = true;
    this.#reloading ??= this.#reloadWhileWanted().finally(() => {
      this.#reloading = undefined;
    });
    return this.#reloading;
  }

  async #reloadWhileWanted(): Promise<void> {
    while (this.#isReloadWanted && !this.#isClosed) {
      this.#isReloadWanted = false;
      await this.#reload();
    }
  }

  async #reload(): Promise<void> {
    const previous = this.current;
    let loaded: Loaded;
    try {
      const text = await readConfigurationFile(this.#source);
      if (text === this.#seenText && !this.#hasModuleEdit) return;
      this.#seenText = text;
      this.#hasModuleEdit = false;
      if (text.trim() === "") throw new ConfigError(this.#source, ["the file is empty"]);
      loaded = await this.#load(text, previous);
    } catch (error) {
      this.#refuse(error instanceof ConfigError ? error.faults : [String(error)]);
      return;
    }
    this.#faults = [];
    this.#current = loaded;
    this.#activate(previous);
    this.#options.log.info({ source: this.#source, loads: this.#loads }, "the configuration was replaced");
    this.#options.onReload("applied");
    this.#retire(previous, loaded);
  }

  #refuse(faults: readonly string[]): void {
    this.#faults = faults;
    this.#options.log.error(
      { source: this.#source, faults },
      "the edited configuration is refused; the last good one stays",
    );
    this.#options.onReload("rejected");
  }

  /** Tells the listeners at once; closes what `loaded` no longer holds when they and every plan before it are done. */
  #retire(previous: Loaded, loaded: Loaded): void {
    const before = this.#retiring;
    const told = this.#listeners.map(async (listener) => listener(loaded, previous));
    this.#retiring = (async () => {
      await before;
      for (const outcome of await Promise.allSettled(told)) {
        if (outcome.status === "rejected") {
          this.#options.log.error({ error: outcome.reason }, "a part of the picker failed to follow the configuration");
        }
      }
      await closeInstances(previous.instances, loaded.instances, this.#closeFault);
    })();
  }
}

function hasSameDiscovery(a: Loaded["config"], b: Loaded["config"]): boolean {
  if (a.discovery !== b.discovery) return false;
  const entryOf = (config: Loaded["config"]) => config.plugins.find(({ name }) => name === config.discovery);
  return isSame(entryOf(a), entryOf(b));
}
