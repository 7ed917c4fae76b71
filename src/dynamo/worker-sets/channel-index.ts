/** Event channels by what is asked for: an exact scope and topic. */
import { scopePath } from "../record-keys.ts";
import type { EventChannelRecord, EventScope } from "../records.ts";

export class ChannelIndex {
  readonly #byKey = new Map<string, EventChannelRecord>();
  readonly #byTopic = new Map<string, Set<EventChannelRecord>>();

  /** The channel of this key before, when it was another one. */
  put(key: string, channel: EventChannelRecord): EventChannelRecord | undefined {
    const before = this.remove(key);
    this.#byKey.set(key, channel);
    const topic = topicKey(channel.scope, channel.topic);
    const channels = this.#byTopic.get(topic) ?? new Set();
    this.#byTopic.set(topic, channels.add(channel));
    return before;
  }

  remove(key: string): EventChannelRecord | undefined {
    const channel = this.#byKey.get(key);
    if (channel === undefined) return undefined;
    this.#byKey.delete(key);
    const topic = topicKey(channel.scope, channel.topic);
    const channels = this.#byTopic.get(topic);
    channels?.delete(channel);
    if (channels?.size === 0) this.#byTopic.delete(topic);
    return channel;
  }

  of(scope: EventScope, topic: string): readonly EventChannelRecord[] {
    return [...(this.#byTopic.get(topicKey(scope, topic)) ?? [])];
  }
}

function topicKey(scope: EventScope, topic: string): string {
  return `${scopePath(scope)} ${topic}`;
}
