/**
 * The `file-discovery` plugin: endpoints from a file, followed where `watchFile` is set. A reload with any fault changes nothing: the whole
 * last good state stays, and the fault is logged and shown by `state()` until a good reload.
 */
import { open } from "node:fs/promises";
import { type Logger, silentLogger } from "../../telemetry/log.ts";
import type { EndpointSpec, EndpointWriter } from "../endpoint-store.ts";
import type { PluginDefinition } from "../plugin.ts";
import { statKeys, watchFiles } from "../watch/file-watch.ts";
import type { SettledWatch, WatchTiming } from "../watch/settled-watch.ts";
import { type Discovery, DiscoveryError } from "./discovery.ts";
import { maxEndpointsFileBytes, parseEndpointsFile } from "./endpoints-file.ts";

export interface FileDiscoveryParameters {
  readonly path: string;
  readonly watchFile: boolean;
}

export interface FileDiscoveryState {
  readonly path: string;
  readonly endpoints: number;
  /** Good loads, the first included. */
  readonly loads: number;
  /** Why the last reload was refused; empty when it was good. */
  readonly faults: readonly string[];
}

export class FileDiscovery implements Discovery {
  readonly #path: string;
  readonly #watchFile: boolean;
  readonly #source: string;
  readonly #log: Logger;
  readonly #watchTiming: WatchTiming | undefined;
  #watch: SettledWatch<string> | undefined;
  #endpoints = 0;
  #loads = 0;
  #faults: readonly string[] = [];

  constructor(
    name: string,
    parameters: FileDiscoveryParameters,
    log: Logger = silentLogger,
    watchTiming?: WatchTiming,
  ) {
    this.#path = parameters.path;
    this.#watchFile = parameters.watchFile;
    this.#source = name;
    this.#log = log;
    this.#watchTiming = watchTiming;
  }

  state(): FileDiscoveryState {
    return { path: this.#path, endpoints: this.#endpoints, loads: this.#loads, faults: this.#faults };
  }

  async start(store: EndpointWriter): Promise<void> {
    const seen = await statKeys([this.#path]);
    const loaded = await this.#load();
    if ("faults" in loaded) {
      throw new DiscoveryError(`${this.#path}: ${loaded.faults.join("; ")}`, { cause: loaded.cause });
    }
    this.#apply(store, loaded.endpoints);
    store.markSynced();
    if (this.#watchFile) {
      this.#watch = watchFiles([this.#path], seen, () => this.#reload(store), this.#watchTiming);
    }
  }

  async close(): Promise<void> {
    await this.#watch?.close();
  }

  async #reload(store: EndpointWriter): Promise<void> {
    const loaded = await this.#load();
    if ("faults" in loaded) {
      this.#faults = loaded.faults;
      this.#log.error(
        { path: this.#path, faults: loaded.faults, keptEndpoints: this.#endpoints },
        "endpoints file refused: keeping the last good endpoints",
      );
      return;
    }
    this.#apply(store, loaded.endpoints);
    this.#log.info({ path: this.#path, endpoints: this.#endpoints }, "endpoints file loaded");
  }

  #apply(store: EndpointWriter, endpoints: readonly EndpointSpec[]): void {
    store.replaceAll(this.#source, endpoints);
    this.#endpoints = endpoints.length;
    this.#loads += 1;
    this.#faults = [];
  }

  async #load(): Promise<
    { readonly endpoints: readonly EndpointSpec[] } | { readonly faults: readonly string[]; readonly cause?: unknown }
  > {
    let bytes: Buffer;
    try {
      bytes = await readAtMost(this.#path, maxEndpointsFileBytes + 1);
    } catch (error) {
      return { faults: [`cannot be read: ${String((error as { code?: unknown }).code ?? error)}`], cause: error };
    }
    const parsed = parseEndpointsFile(bytes);
    return parsed.kind === "faults" ? { faults: parsed.faults } : { endpoints: parsed.endpoints };
  }
}

/** Reads no more than the bound, whatever the file's size says. */
async function readAtMost(path: string, maxBytes: number): Promise<Buffer> {
  await using file = await open(path, "r");
  const buffer = Buffer.allocUnsafe(maxBytes);
  let length = 0;
  while (length < maxBytes) {
    const { bytesRead } = await file.read(buffer, length, maxBytes - length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return buffer.subarray(0, length);
}

export const fileDiscoveryPlugin: PluginDefinition<FileDiscoveryParameters, FileDiscovery> = {
  type: "file-discovery",
  kinds: ["discovery"],
  summary: "Reads the endpoints from a YAML or JSON file, and follows its changes where watchFile is set.",
  parameters: {
    type: "object",
    additionalProperties: false,
    required: ["path"],
    properties: {
      path: { type: "string", minLength: 1, description: "Path of the endpoints file (at most 1 MiB)." },
      watchFile: { type: "boolean", default: false, description: "Load the file again whenever it changes." },
    },
  },
  create: (parameters, context) => new FileDiscovery(context.name, parameters, context.log),
};
