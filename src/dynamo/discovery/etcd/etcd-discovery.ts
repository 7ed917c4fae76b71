/**
 * Dynamo's etcd backend, read: all records in one list at one revision, then a watch from the next. Whatever ends the watch (a restart, a
 * compaction, silence) makes what is known stale, and the next connection begins with a list again: nothing that lives is lost meanwhile,
 * and what has gone goes with the new list.
 */
import type { Etcd3, IWatchResponse } from "etcd3";
import type { Logger } from "../../../telemetry/log.ts";
import { bucketOf, keyPrefix } from "../../record-keys.ts";
import type { DynamoDiscovery, RecordListener } from "../../records.ts";
import { DiscoveryBackendError } from "../discovery-error.ts";
import { maxRecords, maxTotalCharacters, RecordTable } from "../record-table.ts";
import { connectEtcd, type EtcdOptions, firstRetryMs, longestRetryMs, rest } from "./etcd-options.ts";

export interface EtcdDiscoveryOptions extends EtcdOptions {
  readonly log: Logger;
  /** Of `start`; ETCD_STARTUP_CONNECT_TIMEOUT_SECONDS. Default 120 s, as Dynamo's. */
  readonly startTimeoutMs?: number;
}

const keysPerPage = 500;
/** etcd answers at once; a server that hangs behind an open connection is left. */
const watchCreateTimeoutMs = 5000;

export function createEtcdDiscovery(options: EtcdDiscoveryOptions): DynamoDiscovery {
  return new EtcdDiscovery(options);
}

class EtcdDiscovery implements DynamoDiscovery {
  readonly #options: EtcdDiscoveryOptions;
  readonly #log: Logger;
  readonly #closing = new AbortController();
  #table: RecordTable | undefined;
  #run: Promise<void> | undefined;
  #isStale = true;

  constructor(options: EtcdDiscoveryOptions) {
    this.#options = options;
    this.#log = options.log;
  }

  get isStale(): boolean {
    return this.#isStale;
  }

  get malformedRecords(): number {
    return this.#table?.malformed ?? 0;
  }

  async start(listener: RecordListener): Promise<void> {
    const table = new RecordTable(listener, this.#log);
    this.#table = table;
    let lastError: unknown;
    const listed = new Promise<void>((resolve) => {
      this.#run = this.#connectAgainAndAgain(table, resolve, (error) => {
        lastError = error;
      });
    });
    const timeoutMs = this.#options.startTimeoutMs ?? 120_000;
    const waiting = new AbortController();
    const ended = AbortSignal.any([waiting.signal, this.#closing.signal]);
    const isListed = await Promise.race([listed.then(() => true), rest(timeoutMs, ended).then(() => false)]);
    waiting.abort();
    if (isListed) return;
    if (this.#closing.signal.aborted)
      throw new DiscoveryBackendError("closed before etcd gave a list", { cause: lastError });
    await this.close();
    const where = this.#options.endpoints.join(", ");
    throw new DiscoveryBackendError(`etcd at ${where} gave no list of Dynamo's records within ${timeoutMs} ms`, {
      cause: lastError,
    });
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#run;
  }

  async #connectAgainAndAgain(table: RecordTable, listed: () => void, failed: (error: unknown) => void): Promise<void> {
    const { signal } = this.#closing;
    let retryMs = firstRetryMs;
    for (let attempt = 0; !signal.aborted; attempt++) {
      const client = connectEtcd(this.#options, attempt);
      try {
        await followRecords(client, table, signal, () => {
          if (this.#isStale && attempt > 0) this.#log.info({ records: table.size }, "etcd is back; records reconciled");
          this.#isStale = false;
          retryMs = firstRetryMs;
          listed();
        });
      } catch (error) {
        failed(error);
        if (!this.#isStale || attempt === 0) {
          this.#log.warn({ error, records: table.size }, "etcd is away; what it last said is kept");
        }
      } finally {
        client.close();
      }
      this.#isStale = true;
      await rest(retryMs * (0.75 + Math.random() / 2), signal);
      retryMs = Math.min(retryMs * 2, longestRetryMs);
    }
  }
}

/** Lists, tells `listed`, then applies changes until the signal aborts. Rejects when the watch ends for any other reason. */
async function followRecords(
  client: Etcd3,
  table: RecordTable,
  signal: AbortSignal,
  listed: () => void,
): Promise<void> {
  const list = await unlessAborted(listRecords(client), signal);
  if (list === undefined) return;
  const { records, revision } = list;
  table.reconcile(records);
  const stream = await unlessAborted(client.watchClient.watch(), signal);
  if (stream === undefined) return;
  const streaming = new AbortController();
  await new Promise<void>((resolve, reject) => {
    const leave = (): void => resolve();
    const silent = setTimeout(() => reject(new Error("etcd did not confirm the watch")), watchCreateTimeoutMs);
    signal.addEventListener("abort", leave, { signal: streaming.signal });
    streaming.signal.addEventListener("abort", () => clearTimeout(silent));
    stream.on("error", reject);
    stream.on("end", () => reject(new Error("etcd ended the watch")));
    stream.on("data", (response) => {
      if (signal.aborted) return;
      if (response.canceled) return reject(new Error(`etcd cancelled the watch: ${cancelReason(response)}`));
      if (response.created) {
        clearTimeout(silent);
        listed();
      }
      applyEvents(response, table);
    });
    if (signal.aborted) leave();
    else stream.write({ create_request: { ...keyRange, start_revision: (revision + 1n).toString() } });
  }).finally(() => {
    streaming.abort();
    stream.cancel();
  });
}

/** Undefined as soon as the signal aborts; what the promise then brings is not looked at. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T | undefined> {
  if (signal.aborted) {
    promise.catch(() => {});
    return undefined;
  }
  const waiting = new AbortController();
  const aborted = new Promise<undefined>((resolve) => {
    signal.addEventListener("abort", () => resolve(undefined), { signal: waiting.signal });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    waiting.abort();
    promise.catch(() => {});
  }
}

function cancelReason({ cancel_reason, compact_revision }: IWatchResponse): string {
  return compact_revision === "0" ? cancel_reason : `compacted at revision ${compact_revision}`;
}

function applyEvents({ events }: IWatchResponse, table: RecordTable): void {
  for (const { type, kv } of events) {
    const key = kv.key.toString("utf8");
    if (bucketOf(key) === undefined) continue;
    if (type === "Delete") table.remove(key);
    else table.put(key, kv.value.toString("utf8"));
  }
}

const keyRange = { key: Buffer.from(keyPrefix), range_end: prefixEnd(keyPrefix) };

/** The first key after all that begin with the prefix. */
function prefixEnd(prefix: string): Buffer {
  const end = Buffer.from(prefix);
  const last = end.length - 1;
  end[last] = (end[last] ?? 0) + 1;
  return end;
}

/** All records at one revision, a page at a time. */
async function listRecords(
  client: Etcd3,
): Promise<{ readonly records: ReadonlyMap<string, string>; readonly revision: bigint }> {
  const records = new Map<string, string>();
  let from = keyRange.key;
  let revision = 0n;
  let characters = 0;
  for (;;) {
    const page = await client.kv.range({
      key: from,
      range_end: keyRange.range_end,
      limit: keysPerPage,
      revision: revision.toString(),
    });
    if (revision === 0n) revision = BigInt(page.header.revision);
    for (const { key, value } of page.kvs) {
      const name = key.toString("utf8");
      if (bucketOf(name) === undefined) continue;
      const text = value.toString("utf8");
      records.set(name, text);
      characters += text.length;
    }
    const last = page.kvs.at(-1)?.key;
    const isTooMuch = records.size > maxRecords || characters > maxTotalCharacters;
    if (!page.more || last === undefined || isTooMuch) return { records, revision };
    from = Buffer.concat([last, Buffer.of(0)]);
  }
}
