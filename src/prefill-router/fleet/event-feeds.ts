/**
 * The event plane as one worker set uses it: a subscription a scope and topic, opened when the first worker of the scope appears, told of every
 * channel that discovery knows, closed with the set.
 */
import type { EventHandler, EventPlane, EventSubscription } from "../../dynamo/event-plane/event-plane.ts";
import { scopePath } from "../../dynamo/record-keys.ts";
import type { EventChannelRecord, EventScope } from "../../dynamo/records.ts";
import type { Logger } from "../../telemetry/log.ts";

/** Who publishes a topic in exactly this scope now. */
export type ChannelLookup = (scope: EventScope, topic: string) => readonly EventChannelRecord[];

interface Feed {
  ready: Promise<void>;
  subscription: EventSubscription | undefined;
}

export class EventFeeds {
  readonly #plane: EventPlane;
  readonly #channels: ChannelLookup;
  readonly #log: Logger;
  readonly #feeds = new Map<string, Feed>();
  #isClosed = false;

  constructor(plane: EventPlane, channels: ChannelLookup, log: Logger) {
    this.#plane = plane;
    this.#channels = channels;
    this.#log = log;
  }

  /** Resolves once events of the topic are heard; at once where they are already. Never rejects: a failure is logged and tried no more. */
  async hear(scope: EventScope, topic: string, handler: EventHandler): Promise<void> {
    const key = `${scopePath(scope)}/${topic}`;
    let feed = this.#feeds.get(key);
    if (feed === undefined) {
      feed = { ready: Promise.resolve(), subscription: undefined };
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

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const feed of this.#feeds.values()) {
      await feed.ready;
      await feed.subscription?.close();
    }
    this.#feeds.clear();
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
