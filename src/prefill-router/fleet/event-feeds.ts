/**
 * The event plane as one worker set uses it: a subscription a scope and topic, opened when the first worker of the scope appears, told of every
 * channel that discovery knows, closed with the last worker of the scope or the set.
 */
import type { EventHandler, EventPlane, EventSubscription } from "../../dynamo/event-plane/event-plane.ts";
import { scopePath } from "../../dynamo/record-keys.ts";
import type { EventChannelRecord, EventScope } from "../../dynamo/records.ts";
import type { Logger } from "../../telemetry/log.ts";

/** Who publishes a topic in exactly this scope now. */
export type ChannelLookup = (scope: EventScope, topic: string) => readonly EventChannelRecord[];

/** Sockets: a set has a scope for its decode workers and one for its prefill workers. */
const maxFeeds = 256;

interface Feed {
  readonly scope: string;
  ready: Promise<void>;
  subscription: EventSubscription | undefined;
}

export class EventFeeds {
  readonly #plane: EventPlane;
  readonly #channels: ChannelLookup;
  readonly #log: Logger;
  readonly #feeds = new Map<string, Feed>();
  readonly #closing = new Set<Promise<void>>();
  #isFull = false;
  #isClosed = false;

  constructor(plane: EventPlane, channels: ChannelLookup, log: Logger) {
    this.#plane = plane;
    this.#channels = channels;
    this.#log = log;
  }

  /** Resolves once events of the topic are heard; at once where they are already. Never rejects: a failure is logged and tried no more. */
  async hear(scope: EventScope, topic: string, handler: EventHandler): Promise<void> {
    const path = scopePath(scope);
    const key = `${path}/${topic}`;
    let feed = this.#feeds.get(key);
    if (feed === undefined) {
      if (this.#feeds.size >= maxFeeds) return this.#tellFull();
      feed = { scope: path, ready: Promise.resolve(), subscription: undefined };
      this.#feeds.set(key, feed);
      feed.ready = this.#open(feed, scope, topic, handler);
    }
    await feed.ready;
  }

  opened(channel: EventChannelRecord): void {
    this.#feedOf(channel)?.subscription?.opened(channel);
  }

  closed(channel: EventChannelRecord): void {
    this.#feedOf(channel)?.subscription?.closed(channel);
  }

  /** Closes what is heard in scopes that none of these workers is in. */
  retain(scopes: readonly EventScope[]): void {
    const paths = new Set(scopes.map(scopePath));
    for (const [key, feed] of this.#feeds) {
      if (paths.has(feed.scope)) continue;
      this.#feeds.delete(key);
      this.#isFull = false;
      const closing = this.#closeFeed(feed).finally(() => this.#closing.delete(closing));
      this.#closing.add(closing);
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.retain([]);
    await Promise.all(this.#closing);
  }

  async #closeFeed(feed: Feed): Promise<void> {
    await feed.ready;
    try {
      await feed.subscription?.close();
    } catch (error) {
      this.#log.error({ error, scope: feed.scope }, "a subscription failed to close");
    }
  }

  #tellFull(): void {
    if (!this.#isFull) this.#log.error({ maxFeeds }, "workers name more event scopes than are listened to");
    this.#isFull = true;
  }

  #feedOf({ scope, topic }: EventChannelRecord): Feed | undefined {
    return this.#feeds.get(`${scopePath(scope)}/${topic}`);
  }

  async #open(feed: Feed, scope: EventScope, topic: string, handler: EventHandler): Promise<void> {
    try {
      feed.subscription = await this.#plane.subscribe(scope, topic, handler);
    } catch (error) {
      this.#log.error({ error, topic, ...scope }, "the event plane cannot be subscribed to");
      return;
    }
    if (this.#isClosed) return;
    // Channels that came before the subscription was there.
    for (const channel of this.#channels(scope, topic)) feed.subscription.opened(channel);
  }
}
