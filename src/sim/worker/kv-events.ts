/**
 * Publishes KV event batches as vLLM does: a ZeroMQ PUB socket with frames `[topic, sequence (8 bytes, big endian), payload]` and,
 * when asked for, a ROUTER socket that replays past batches from a sequence number on. What is kept is bounded in batches and in bytes.
 */
import type { Publisher, Router } from "zeromq";
import type { Logger } from "../../telemetry/log.ts";

/** Bytes of past batches kept for replay, whatever their number. */
const maxReplayBytes = 64 * 1024 * 1024;
/** Batches waiting to be sent; the oldest gives way, as at ZeroMQ's own high-water mark. */
const maxUnsent = 100_000;
const endOfReplay = Buffer.alloc(8, 0xff);
const empty = Buffer.alloc(0);

export interface KvEventsOptions {
  readonly endpoint: string;
  readonly replayEndpoint: string | undefined;
  readonly replayBatches: number;
  readonly logger: Logger;
}

interface Batch {
  readonly sequence: Buffer;
  readonly payload: Uint8Array;
}

export interface KvEventsPublisher {
  /** The endpoint as bound (with the port that was picked) or as connected to. */
  readonly endpoint: string;
  readonly replayEndpoint: string | undefined;
  /** Never waits; batches go out in order. */
  publish(topic: string, payload: Uint8Array): void;
  close(): Promise<void>;
}

/** Loads ZeroMQ, which nothing else in a worker needs, and opens the sockets. */
export async function openKvEvents(options: KvEventsOptions): Promise<KvEventsPublisher> {
  const zeromq = await import("zeromq");
  const publisher = new zeromq.Publisher({ linger: 0, sendHighWaterMark: maxUnsent });
  let router: Router | undefined;
  try {
    if (isBound(options.endpoint)) await publisher.bind(options.endpoint);
    else publisher.connect(options.endpoint);
    if (options.replayEndpoint !== undefined) {
      router = new zeromq.Router({ linger: 0 });
      await router.bind(options.replayEndpoint);
    }
  } catch (error) {
    publisher.close();
    router?.close();
    throw new Error(`cannot open KV event sockets: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
  return new ZeromqKvEvents(options, publisher, router);
}

/** vLLM's rule (wildcards, ipc and inproc are bound, all else is connected to), and port 0 cannot be connected to. */
function isBound(endpoint: string): boolean {
  return /[*]|::|^ipc:|^inproc:|:0$/.test(endpoint);
}

class ZeromqKvEvents implements KvEventsPublisher {
  readonly endpoint: string;
  readonly replayEndpoint: string | undefined;
  readonly #options: KvEventsOptions;
  readonly #publisher: Publisher;
  readonly #router: Router | undefined;
  readonly #kept: Batch[] = [];
  readonly #unsent: Buffer[][] = [];
  readonly #replaying: Promise<void>;
  #sending: Promise<void> | undefined;
  #keptBytes = 0;
  #next = 0n;
  #isClosed = false;

  constructor(options: KvEventsOptions, publisher: Publisher, router: Router | undefined) {
    this.#options = options;
    this.#publisher = publisher;
    this.#router = router;
    this.endpoint = publisher.lastEndpoint ?? options.endpoint;
    this.replayEndpoint = router?.lastEndpoint ?? undefined;
    this.#replaying = router === undefined ? Promise.resolve() : this.#serveReplays(router);
  }

  publish(topic: string, payload: Uint8Array): void {
    if (this.#isClosed) return;
    const sequence = Buffer.alloc(8);
    sequence.writeBigUInt64BE(this.#next++);
    this.#keep({ sequence, payload });
    if (this.#unsent.length >= maxUnsent) this.#unsent.shift();
    this.#unsent.push([Buffer.from(topic), sequence, Buffer.from(payload.buffer, payload.byteOffset, payload.length)]);
    this.#sending ??= this.#send();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#sending;
    this.#publisher.close();
    this.#router?.close();
    await this.#replaying;
  }

  #keep(batch: Batch): void {
    this.#kept.push(batch);
    this.#keptBytes += batch.payload.length;
    while (this.#kept.length > this.#options.replayBatches || this.#keptBytes > maxReplayBytes) {
      this.#keptBytes -= this.#kept.shift()?.payload.length ?? 0;
    }
  }

  /** A socket takes one send at a time; a PUB socket never blocks, so this ends as soon as nothing is left. */
  async #send(): Promise<void> {
    try {
      for (let frames = this.#unsent.shift(); frames !== undefined; frames = this.#unsent.shift()) {
        await this.#publisher.send(frames);
      }
    } catch (error) {
      this.#options.logger.error({ error: String(error) }, "KV events could not be sent");
    } finally {
      this.#sending = undefined;
    }
  }

  async #serveReplays(router: Router): Promise<void> {
    try {
      for await (const [client, delimiter, start] of router) {
        if (client === undefined || delimiter?.length !== 0 || start?.length !== 8) continue;
        await this.#replay(router, client, start);
      }
    } catch (error) {
      if (!this.#isClosed) this.#options.logger.error({ error: String(error) }, "KV event replay ended");
    }
  }

  async #replay(router: Router, client: Buffer, start: Buffer): Promise<void> {
    // A copy: publishing goes on, and trims the buffer, while a slow client is served.
    const batches = this.#kept.filter(({ sequence }) => sequence.compare(start) >= 0);
    for (const { sequence, payload } of batches) await router.send([client, empty, sequence, payload]);
    await router.send([client, empty, endOfReplay, empty]);
  }
}
