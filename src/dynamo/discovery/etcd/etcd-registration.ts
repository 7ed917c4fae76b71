/**
 * Writes records into etcd under one lease and keeps it alive. A lease that is lost (etcd was away for longer than the TTL, or lost its data) is
 * taken again under the same id, so that the instance id stays, and everything is put again.
 */
import type { Etcd3 } from "etcd3";
import type { Logger } from "../../../telemetry/log.ts";
import type { EncodedRecord } from "../../encode-record.ts";
import { DiscoveryBackendError } from "../discovery-error.ts";
import type { DynamoRegistration } from "../registration.ts";
import { callTimeoutMs, connectEtcd, type EtcdOptions, firstRetryMs, longestRetryMs, rest } from "./etcd-options.ts";

export interface EtcdRegistrationOptions extends EtcdOptions {
  readonly log: Logger;
  /** ETCD_LEASE_TTL. Default 30 s, as Dynamo's. */
  readonly ttlSeconds?: number;
}

/** Rejects with DiscoveryBackendError when no lease is to be had: the instance id is the lease's. */
export async function createEtcdRegistration(options: EtcdRegistrationOptions): Promise<DynamoRegistration> {
  const ttlSeconds = options.ttlSeconds ?? 30;
  let cause: unknown;
  for (let attempt = 0; attempt < options.endpoints.length; attempt++) {
    const client = connectEtcd(options, attempt);
    try {
      const { ID } = await client.leaseClient.leaseGrant({ TTL: ttlSeconds });
      return new EtcdRegistration(options, ttlSeconds, client, attempt, BigInt(ID));
    } catch (error) {
      cause = error;
      client.close();
    }
  }
  throw new DiscoveryBackendError(`etcd at ${options.endpoints.join(", ")} grants no lease`, { cause });
}

class EtcdRegistration implements DynamoRegistration {
  readonly instanceId: bigint;
  readonly #options: EtcdRegistrationOptions;
  readonly #log: Logger;
  readonly #ttlSeconds: number;
  readonly #texts = new Map<string, string>();
  /** Keys that etcd may still have. */
  readonly #removals = new Set<string>();
  readonly #closing = new AbortController();
  readonly #run: Promise<void>;
  #client: Etcd3;
  #attempt: number;
  /** Ends the rest before the next renewal. */
  #poke = new AbortController();
  /** Etcd may lack what was put or have what was removed. */
  #isBehind = false;

  constructor(options: EtcdRegistrationOptions, ttlSeconds: number, client: Etcd3, attempt: number, lease: bigint) {
    this.#options = options;
    this.#log = options.log;
    this.#ttlSeconds = ttlSeconds;
    this.#client = client;
    this.#attempt = attempt;
    this.instanceId = lease;
    this.#run = this.#keepAlive();
  }

  async put(record: EncodedRecord): Promise<void> {
    if (this.#closing.signal.aborted) throw new DiscoveryBackendError("the registration is closed");
    this.#texts.set(record.key, record.text);
    this.#removals.delete(record.key);
    await this.#orLater(`put ${record.key} into`, () => this.#write(record.key, record.text));
  }

  async remove(key: string): Promise<void> {
    this.#texts.delete(key);
    this.#removals.add(key);
    await this.#orLater(`remove ${key} from`, () => this.#erase(key));
  }

  /** What etcd does not take now it is given once it is back, as what is to be there and what is not stays noted. */
  async #orLater(what: string, write: () => Promise<void>): Promise<void> {
    try {
      await write();
    } catch (cause) {
      this.#isBehind = true;
      this.#poke.abort();
      throw new DiscoveryBackendError(`cannot ${what} etcd now; it is tried again`, { cause });
    }
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#run;
    try {
      await this.#client.leaseClient.leaseRevoke({ ID: this.instanceId.toString() });
    } catch (error) {
      this.#log.warn({ error }, "etcd lease cannot be revoked; its records go when it expires");
    }
    this.#client.close();
  }

  async #keepAlive(): Promise<void> {
    const { signal } = this.#closing;
    const intervalMs = (this.#ttlSeconds * 1000) / 3;
    let retryMs = firstRetryMs;
    let isAway = false;
    for (let waitMs = intervalMs; !signal.aborted; ) {
      // While etcd is away the pauses are short by themselves, and every write that fails would end one.
      await rest(waitMs, isAway ? signal : AbortSignal.any([signal, this.#poke.signal]));
      if (signal.aborted) return;
      this.#poke = new AbortController();
      try {
        const isLost = !(await this.#renew());
        if (isLost) await this.#takeLeaseAgain();
        if (isLost || this.#isBehind) await this.#catchUp();
        if (isLost) this.#log.warn({ records: this.#texts.size }, "etcd lease was lost; records are registered again");
        isAway = false;
        retryMs = firstRetryMs;
        waitMs = intervalMs;
      } catch (error) {
        if (!isAway) this.#log.warn({ error }, "etcd lease cannot be kept alive now");
        isAway = true;
        this.#isBehind = true;
        this.#client.close();
        this.#attempt++;
        this.#client = connectEtcd(this.#options, this.#attempt);
        waitMs = Math.min(retryMs, intervalMs);
        retryMs = Math.min(retryMs * 2, longestRetryMs);
      }
    }
  }

  /** False when etcd no longer has the lease. One stream for one answer: a stream kept open dies unseen with its server. */
  async #renew(): Promise<boolean> {
    const stream = await this.#client.leaseClient.leaseKeepAlive();
    return await new Promise<boolean>((resolve, reject) => {
      const silent = setTimeout(() => reject(new Error("etcd did not answer a keep-alive")), callTimeoutMs);
      const end = (error: Error): void => {
        clearTimeout(silent);
        reject(error);
      };
      stream.on("error", end);
      stream.on("end", () => end(new Error("etcd ended the keep-alive")));
      stream.on("data", ({ TTL }) => {
        clearTimeout(silent);
        resolve(BigInt(TTL) > 0n);
      });
      stream.write({ ID: this.instanceId.toString() });
    }).finally(() => stream.cancel());
  }

  async #takeLeaseAgain(): Promise<void> {
    await this.#client.leaseClient.leaseGrant({ ID: this.instanceId.toString(), TTL: this.#ttlSeconds });
  }

  async #catchUp(): Promise<void> {
    this.#isBehind = false;
    for (const key of this.#removals) await this.#erase(key);
    for (const [key, text] of this.#texts) await this.#write(key, text);
  }

  async #erase(key: string): Promise<void> {
    await this.#client.kv.deleteRange({ key: Buffer.from(key) });
    if (!this.#texts.has(key)) this.#removals.delete(key);
  }

  async #write(key: string, text: string): Promise<void> {
    await this.#client.kv.put({
      key: Buffer.from(key),
      value: Buffer.from(text),
      lease: this.instanceId.toString(),
    });
  }
}
