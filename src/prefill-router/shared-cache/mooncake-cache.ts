/**
 * One Mooncake store as its events tell of it, read by one layout: which pages of KV cache it has. The master replays nothing, so what was stored before
 * this was opened is not known of, and after a gap in the sequence all is forgotten: a page is never believed longer than the events bear out.
 */
import {
  type MessageSource,
  type MessageSourceOptions,
  openMessageSource,
} from "../../data/kv-events/message-source.ts";
import { MooncakeBatchReader, objectEvents } from "../../dynamo/kv-events/mooncake-batch.ts";
import type { HicacheLayout } from "../../dynamo/model-card/model-card.ts";
import { isLoggedAt, type Logger } from "../../telemetry/log.ts";
import { ObjectKeyReader, partsPerPage } from "./object-keys.ts";
import { PageHasher } from "./page-hashes.ts";
import { PageTable } from "./page-table.ts";
import type { SharedCacheCounters } from "./shared-cache-counters.ts";

export type OpenSource = (options: MessageSourceOptions) => Pick<MessageSource, "close">;

export interface MooncakeCacheInit {
  readonly endpoint: string;
  readonly layout: HicacheLayout;
  /** Shared by the caches of a worker set. */
  readonly counters: SharedCacheCounters;
  readonly log: Logger;
  readonly open?: OpenSource;
  /** Of pages that have up to 32 parts; fewer where they have more. */
  readonly maxPages?: number;
}

/** Dynamo's bound, of objects and groups there and of pages here. */
const defaultMaxPages = 1_000_000;
const noHits = new Uint32Array(0);

export class MooncakeCache {
  readonly #init: MooncakeCacheInit;
  readonly #batches = new MooncakeBatchReader();
  readonly #keys: ObjectKeyReader;
  readonly #hasher: PageHasher;
  readonly #pages: PageTable;
  readonly #source: Pick<MessageSource, "close">;
  /** Of the last batch that was read; undefined before the first. */
  #sequence: number | undefined;
  #isConnected = false;
  /** The connection was lost since the last batch: the next one may be another master's. */
  #mayBeAnother = false;

  constructor(init: MooncakeCacheInit) {
    const { endpoint, layout, log, open = openMessageSource, maxPages = defaultMaxPages } = init;
    const parts = partsPerPage(layout);
    this.#init = init;
    this.#keys = new ObjectKeyReader(layout);
    this.#hasher = new PageHasher(layout.pageSize, layout.isEagle);
    this.#pages = new PageTable(parts, Math.floor(maxPages / Math.ceil(parts / 32)));
    this.#source = open({
      endpoint,
      binds: false,
      topicFilter: "",
      log,
      handler: {
        message: (_topic, sequence, payload) => this.#message(sequence, payload),
        connected: () => {
          this.#isConnected = true;
        },
        disconnected: () => {
          this.#isConnected = false;
          this.#mayBeAnother = true;
          init.counters.disconnects++;
        },
        malformed: () => this.#malformed(),
      },
    });
  }

  get isConnected(): boolean {
    return this.#isConnected;
  }

  /** Pages of which at least one part is in the store. */
  get pages(): number {
    return this.#pages.size;
  }

  get sequence(): number | undefined {
    return this.#sequence;
  }

  /** Ranges [from, to) of the prompt's pages that are whole in the store, flat and rising. */
  hitsOf(tokens: Uint32Array): Uint32Array {
    if (this.#pages.size === 0) return noHits;
    const ranges: number[] = [];
    this.#hasher.hash(tokens, (page, index) => {
      if (!this.#pages.has(page)) return;
      if (ranges.at(-1) === index) ranges[ranges.length - 1] = index + 1;
      else ranges.push(index, index + 1);
    });
    return ranges.length === 0 ? noHits : Uint32Array.from(ranges);
  }

  async close(): Promise<void> {
    await this.#source.close();
    this.#pages.clear();
  }

  #message(sequence: number, payload: Buffer): void {
    const { counters } = this.#init;
    const previous = this.#sequence;
    const mayBeAnother = this.#mayBeAnother;
    // What it would have told is missed: the batch after it follows on nothing.
    if (!this.#batches.read(payload)) {
      this.#malformed();
      return;
    }
    if (sequence === previous && !mayBeAnother) return;
    if (previous !== undefined && sequence !== previous + 1) {
      this.#pages.clear();
      this.#warn(
        ++counters.gaps,
        { previous, sequence },
        "events of a shared cache were missed: what it had is forgotten",
      );
    }
    this.#mayBeAnother = false;
    this.#apply(payload);
    counters.batches++;
    this.#sequence = sequence;
  }

  #apply(payload: Buffer): void {
    const { counters } = this.#init;
    const batch = this.#batches;
    const keys = this.#keys;
    for (let event = 0; event < batch.count; event++) {
      const kind = batch.kindOf(event);
      if (kind === objectEvents.keyless) this.#noteKeyless();
      else if (!keys.read(payload, batch.startOf(event), batch.lengthOf(event))) counters.foreign++;
      else if (kind === objectEvents.stored) this.#stored(keys.page, keys.part);
      else this.#removed(keys.page, keys.part);
    }
  }

  #stored(page: string, part: number): void {
    const { counters } = this.#init;
    counters.stored++;
    if (this.#pages.add(page, part)) return;
    const pages = this.#pages.size;
    this.#pages.clear();
    this.#pages.add(page, part);
    this.#warn(
      ++counters.overflows,
      { pages },
      "a shared cache has more pages than are kept track of: all are forgotten",
    );
  }

  #removed(page: string, part: number): void {
    this.#init.counters.removed++;
    this.#pages.remove(page, part);
  }

  #noteKeyless(): void {
    this.#warn(
      ++this.#init.counters.keyless,
      {},
      "a shared cache's events name no objects (the master's kv_events_emit_object_key is off): nothing is known of it",
    );
  }

  #malformed(): void {
    this.#warn(++this.#init.counters.malformed, {}, "an event of a shared cache cannot be read");
  }

  #warn(count: number, detail: Readonly<Record<string, unknown>>, message: string): void {
    if (isLoggedAt(count)) this.#init.log.warn({ endpoint: this.#init.endpoint, count, ...detail }, message);
  }
}
