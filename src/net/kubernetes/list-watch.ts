/**
 * Follows one collection of objects of a Kubernetes API server: a whole list in pages, then a watch from its version on, for as long as it is
 * open. Failures are waited out (jittered, at most 5 s); while the server is away what it last said stands, and when it was away a new list
 * tells what was missed. No change is lost or told twice as new, and no object is kept here but what the reader makes of it.
 */
import { type KubernetesApi, KubernetesApiError } from "./api-client.ts";

export interface KubernetesObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly resourceVersion?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly deletionTimestamp?: string;
    readonly ownerReferences?: readonly { readonly kind: string; readonly name: string; readonly uid: string }[];
  };
}

export interface ListWatchListener<Item> {
  /** The complete collection, by object key: what is not in it is gone. */
  replaced(items: ReadonlyMap<string, Item>): void;
  put(key: string, item: Item): void;
  removed(key: string): void;
}

/** For the log. */
export type ListWatchEvent =
  | { readonly kind: "listed"; readonly items: number; readonly leftOut: number; readonly tookMs: number }
  /** Once for each time away, not for each attempt; again when it turns out that the server refuses. */
  | { readonly kind: "away"; readonly error: unknown }
  | { readonly kind: "back" }
  /** The server does not know the collection, which counts as empty until it does. Once for each time. */
  | { readonly kind: "absent" }
  /** The version asked for is gone; a new list follows. */
  | { readonly kind: "expired" }
  | { readonly kind: "unreadable"; readonly key: string; readonly error: unknown };

export interface ListWatchOptions<Item> {
  readonly api: Pick<KubernetesApi, "request" | "watch">;
  /** Of the collection, e.g. "/api/v1/namespaces/ns/pods". */
  readonly path: string;
  readonly labelSelector?: string;
  readonly fieldSelector?: string;
  /** What is kept of an object; undefined, or a throw: as if it were not there. */
  readonly read: (object: KubernetesObject) => Item | undefined;
  readonly listener: ListWatchListener<Item>;
  readonly report?: (event: ListWatchEvent) => void;
  /** JSON.parse, where integers need not be exact. */
  readonly parse?: (text: string) => unknown;
  readonly pageSize?: number;
  /** Beyond it objects are left out. */
  readonly maxItems?: number;
  /**
   * Where the collection may not exist, as that of a custom resource nobody defined: it then counts as empty, and is looked for again after
   * about so long. Without it an unknown collection is a failure like any other.
   */
  readonly absentRetryMs?: number;
  /** After about so long the server ends a watch and it is begun again; bounds how long a dead stream goes unnoticed. */
  readonly watchSeconds?: number;
}

/** A page and what is parsed of it stand in memory together: of 250 pods they make a process of 10,000 half as large again. */
const defaultPageSize = 100;
const defaultMaxItems = 100_000;
const defaultWatchSeconds = 30;
/** Beyond the end that was agreed on. */
const silenceGraceMs = 5000;
const firstRetryMs = 100;
const longestRetryMs = 5000;
/** Until the first list nothing is known: whoever waits for it waits for little more than the server. */
const longestFirstRetryMs = 1000;
/** A watch that ends sooner without a word did not work. */
const shortestWatchMs = 1000;

/** "namespace/name", or the name of an object that is in no namespace. */
export function objectKey({ metadata: { namespace, name } }: KubernetesObject): string {
  return namespace === undefined ? name : `${namespace}/${name}`;
}

export class ListWatch<Item> {
  readonly #options: ListWatchOptions<Item>;
  readonly #parse: (text: string) => unknown;
  readonly #closing = new AbortController();
  readonly #listed: Promise<void>;
  #tellListed: () => void = () => {};
  #run: Promise<void> | undefined;
  /** Undefined: a list is needed. */
  #version: string | undefined;
  #isStale = true;
  /** The status that the log was last told of a server that is away; undefined: it is not, or nobody was told. */
  #toldStatus: number | undefined;
  #isAbsent = false;
  /** Answers in a row by which the server does not know the collection. */
  #missed = 0;
  #isSynced = false;
  #failures = 0;
  #lastError: unknown;
  #lastHeardMs = Number.NEGATIVE_INFINITY;
  #size = 0;
  readonly #keys = new Set<string>();

  constructor(options: ListWatchOptions<Item>) {
    this.#options = options;
    this.#parse = options.parse ?? JSON.parse;
    this.#listed = new Promise((resolve) => {
      this.#tellListed = resolve;
    });
  }

  /** Nothing was heard of the server when it should have been. */
  get isStale(): boolean {
    return this.#isStale;
  }

  /** A complete list has been told. */
  get isSynced(): boolean {
    return this.#isSynced;
  }

  /** The server does not know the collection. */
  get isAbsent(): boolean {
    return this.#isAbsent;
  }

  get lastError(): unknown {
    return this.#lastError;
  }

  /** performance.now() of the last word of the server: a list, a watch that was taken, an event, a bookmark. */
  get lastHeardMs(): number {
    return this.#lastHeardMs;
  }

  get size(): number {
    return this.#size;
  }

  /** Begins; resolves when the first complete list has been told. Never rejects: whoever waits has a deadline. */
  start(): Promise<void> {
    this.#run ??= this.#follow();
    return this.#listed;
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#run;
  }

  async #follow(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      try {
        this.#version ??= await this.#list(signal);
        await this.#watch(this.#version, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (isUnknown(error) && this.#options.absentRetryMs !== undefined) {
          await this.#missing(this.#options.absentRetryMs, signal);
        } else await this.#recover(error, signal);
      }
    }
  }

  async #recover(error: unknown, signal: AbortSignal): Promise<void> {
    this.#lastError = error;
    this.#failures++;
    if (isExpired(error)) {
      this.#version = undefined;
      this.#report({ kind: "expired" });
      // The first is an ordinary end of a quiet watch; more of them are a server in trouble.
      if (this.#failures === 1) return;
    } else {
      this.#isStale = true;
      const status = lastingStatus(error);
      if (this.#toldStatus !== status) this.#report({ kind: "away", error });
      this.#toldStatus = status;
      // A server that could not be reached may come back with another past.
      if (this.#failures > 1) this.#version = undefined;
    }
    const longestMs = this.#isSynced ? longestRetryMs : longestFirstRetryMs;
    const backoffMs = Math.min(firstRetryMs * 2 ** (this.#failures - 1), longestMs);
    const askedMs = error instanceof KubernetesApiError ? (error.retryAfterMs ?? 0) : 0;
    await rest(jittered(Math.max(backoffMs, Math.min(askedMs, longestMs))), signal);
  }

  /** What is known of it is given up only when the server says so again: one that is starting may not know all its kinds yet. */
  async #missing(retryMs: number, signal: AbortSignal): Promise<void> {
    this.#version = undefined;
    this.#failures = 0;
    this.#missed++;
    if (this.#missed === 1 && this.#size > 0) return await rest(jittered(longestFirstRetryMs), signal);
    if (!this.#isAbsent) {
      this.#replace(new Map());
      this.#isAbsent = true;
      this.#report({ kind: "absent" });
    }
    this.#heard();
    await rest(jittered(retryMs), signal);
  }

  async #list(signal: AbortSignal): Promise<string> {
    const startedAt = performance.now();
    const { api, path, pageSize = defaultPageSize, maxItems = defaultMaxItems } = this.#options;
    const items = new Map<string, Item>();
    let version: string | undefined;
    let leftOut = 0;
    for (let next: string | undefined = ""; next !== undefined; ) {
      const query = this.#query({ limit: String(pageSize), ...(next === "" ? {} : { continue: next }) });
      const page = pageOf(this.#parse(await api.request({ path: `${path}?${query}` }, signal)));
      version ??= page.version;
      for (const object of page.items) {
        const item = this.#read(object);
        if (item === undefined) continue;
        if (items.size < maxItems) items.set(objectKey(object), item);
        else leftOut++;
      }
      next = page.next;
    }
    if (version === undefined) throw new KubernetesApiError(`${path}: a list without a version`, 0);
    this.#replace(items);
    this.#isAbsent = false;
    this.#missed = 0;
    this.#report({ kind: "listed", items: items.size, leftOut, tookMs: performance.now() - startedAt });
    return version;
  }

  #replace(items: ReadonlyMap<string, Item>): void {
    this.#keys.clear();
    for (const key of items.keys()) this.#keys.add(key);
    this.#size = items.size;
    this.#options.listener.replaced(items);
    this.#isSynced = true;
    this.#isStale = false;
    this.#lastHeardMs = performance.now();
    this.#tellListed();
  }

  async #watch(version: string, signal: AbortSignal): Promise<void> {
    const { api, path, watchSeconds = defaultWatchSeconds } = this.#options;
    // Spread, so that many pickers do not ask at once.
    const seconds = Math.ceil(watchSeconds * (0.75 + Math.random() / 2));
    const startedAt = performance.now();
    let openedAt = Number.POSITIVE_INFINITY;
    const query = this.#query({
      watch: "1",
      allowWatchBookmarks: "true",
      resourceVersion: version,
      timeoutSeconds: String(seconds),
    });
    let lines = 0;
    const following = api.watch(
      {
        path: `${path}?${query}`,
        silenceMs: seconds * 1000 + silenceGraceMs,
        opened: () => {
          this.#heard();
          openedAt = performance.now();
        },
        line: (text) => {
          this.#apply(this.#parse(text));
          lines++;
          this.#failures = 0;
          this.#lastHeardMs = performance.now();
        },
      },
      signal,
    );
    try {
      await following;
    } catch (error) {
      // What broke now has worked: the next attempt is the first again.
      if (performance.now() - openedAt > shortestWatchMs) this.#failures = 0;
      throw error;
    }
    if (lines === 0 && performance.now() - startedAt < shortestWatchMs) {
      throw new KubernetesApiError(`${path}: the watch ended at once`, 0);
    }
    this.#failures = 0;
  }

  #heard(): void {
    if (this.#toldStatus !== undefined) this.#report({ kind: "back" });
    this.#toldStatus = undefined;
    this.#isStale = false;
    this.#lastHeardMs = performance.now();
  }

  #apply(event: unknown): void {
    const { type, object } = (event ?? {}) as { readonly type?: unknown; readonly object?: unknown };
    if (type === "ERROR") {
      const { code, message } = (object ?? {}) as { readonly code?: unknown; readonly message?: unknown };
      throw new KubernetesApiError(`the watch failed: ${String(message)}`, typeof code === "number" ? code : 0);
    }
    if (!isKubernetesObject(object)) throw new KubernetesApiError("an event without an object", 0);
    const { listener, maxItems = defaultMaxItems } = this.#options;
    if (type === "ADDED" || type === "MODIFIED") {
      const key = objectKey(object);
      const item = this.#read(object);
      if (item === undefined) this.#remove(key);
      else if (this.#keys.has(key) || this.#keys.size < maxItems) {
        this.#keys.add(key);
        listener.put(key, item);
      }
    } else if (type === "DELETED") this.#remove(objectKey(object));
    this.#size = this.#keys.size;
    this.#version = object.metadata.resourceVersion ?? this.#version;
  }

  #remove(key: string): void {
    if (this.#keys.delete(key)) this.#options.listener.removed(key);
  }

  #read(object: KubernetesObject): Item | undefined {
    try {
      return this.#options.read(object);
    } catch (error) {
      this.#report({ kind: "unreadable", key: objectKey(object), error });
      return undefined;
    }
  }

  #query(parameters: Readonly<Record<string, string>>): string {
    const { labelSelector, fieldSelector } = this.#options;
    return new URLSearchParams({
      ...parameters,
      ...(labelSelector === undefined ? {} : { labelSelector }),
      ...(fieldSelector === undefined ? {} : { fieldSelector }),
    }).toString();
  }

  #report(event: ListWatchEvent): void {
    this.#options.report?.(event);
  }
}

/** A refusal lasts until somebody mends it; every other failure is one and the same to whoever waits. */
function lastingStatus(error: unknown): number {
  const status = error instanceof KubernetesApiError ? error.status : 0;
  return status === 401 || status === 403 || status === 404 ? status : 0;
}

function isExpired(error: unknown): boolean {
  return error instanceof KubernetesApiError && error.status === 410;
}

function isUnknown(error: unknown): boolean {
  return error instanceof KubernetesApiError && error.status === 404;
}

/** Less by up to a quarter, so that many pickers do not ask at once. */
function jittered(ms: number): number {
  return ms * (0.75 + Math.random() / 4);
}

interface Page {
  readonly items: readonly KubernetesObject[];
  readonly version: string | undefined;
  readonly next: string | undefined;
}

function pageOf(answer: unknown): Page {
  const { items, metadata } = (answer ?? {}) as {
    readonly items?: unknown;
    readonly metadata?: { readonly resourceVersion?: string; readonly continue?: string };
  };
  if (!Array.isArray(items)) throw new KubernetesApiError("a list without items", 0);
  const next = metadata?.continue;
  return {
    items: items.filter(isKubernetesObject),
    version: metadata?.resourceVersion,
    next: next === undefined || next === "" ? undefined : next,
  };
}

/** A bookmark has a version and no name. */
function isKubernetesObject(value: unknown): value is KubernetesObject {
  if (typeof value !== "object" || value === null || !("metadata" in value)) return false;
  return typeof value.metadata === "object" && value.metadata !== null;
}

/** Resolves after the time or as soon as the signal aborts. */
function rest(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
