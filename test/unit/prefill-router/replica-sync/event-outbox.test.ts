/** What waits to be said: how it is put into messages, and what happens when there is too much of it. */
import { describe, expect, it } from "@jest/globals";
import type { EventPublisher } from "../../../../src/dynamo/event-plane/event-plane.ts";
import {
  type ActiveSequenceEvent,
  parseActiveSequenceEvents,
} from "../../../../src/dynamo/kv-events/active-sequences.ts";
import type { EventTransport } from "../../../../src/dynamo/records.ts";
import { EventOutbox } from "../../../../src/prefill-router/replica-sync/event-outbox.ts";
import { createReplicaCounters } from "../../../../src/prefill-router/replica-sync/replica-counters.ts";
import { until } from "../../dynamo/until.ts";

const zmq: EventTransport = { kind: "zmq", endpoint: "tcp://127.0.0.1:1" };
const nats: EventTransport = { kind: "nats", subjectPrefix: "namespace.ns" };
const scope = { namespace: "ns", component: "backend", endpoint: "generate" };

function event(index: number): ActiveSequenceEvent {
  return {
    requestId: `request-${index}`,
    workerId: 2n ** 63n + BigInt(index),
    dpRank: index % 3,
    change: { kind: "free" },
    routerId: 7n,
    loraName: index % 2 === 0 ? undefined : "adapter",
  };
}

function publisher(transport: EventTransport): { readonly messages: Buffer[]; readonly publisher: EventPublisher } {
  const messages: Buffer[] = [];
  return {
    messages,
    publisher: {
      publisherId: 1n,
      channel: { type: "EventChannel", scope, topic: "active_sequences_events", publisherId: 1n, transport },
      publish: (payload) => messages.push(Buffer.from(payload)),
      close: async () => undefined,
    },
  };
}

const isBatch = (message: Buffer): boolean => message.includes("events");

describe("an outbox", () => {
  it("puts what happens within a millisecond into one message, in order", async () => {
    const { messages, publisher: to } = publisher(zmq);
    const outbox = new EventOutbox(createReplicaCounters());
    outbox.open(to);
    for (let index = 0; index < 10; index++) outbox.enqueue(event(index));
    expect(messages).toHaveLength(0);
    await until(() => messages.length > 0);
    expect(messages).toHaveLength(1);
    expect(messages.flatMap((message) => parseActiveSequenceEvents(message))).toEqual(
      Array.from({ length: 10 }, (_, index) => event(index)),
    );
    outbox.close();
  });

  it("never puts more than 256 events into a message, and waits for no timer once it has as many", () => {
    const { messages, publisher: to } = publisher(zmq);
    const outbox = new EventOutbox(createReplicaCounters());
    for (let index = 0; index < 300; index++) outbox.enqueue(event(index));
    outbox.open(to);
    for (let index = 300; index < 556; index++) outbox.enqueue(event(index));
    const events = messages.map((message) => parseActiveSequenceEvents(message));
    expect(events.map(({ length }) => length)).toEqual([256, 44, 256]);
    expect(events.flat()).toEqual(Array.from({ length: 556 }, (_, index) => event(index)));
  });

  it("sends each event alone over NATS, as Dynamo's routers read them there", () => {
    const { messages, publisher: to } = publisher(nats);
    const outbox = new EventOutbox(createReplicaCounters());
    for (let index = 0; index < 5; index++) outbox.enqueue(event(index));
    outbox.open(to);
    expect(messages).toHaveLength(5);
    expect(messages.some(isBatch)).toBe(false);
    expect(messages.flatMap((message) => parseActiveSequenceEvents(message))).toEqual(
      Array.from({ length: 5 }, (_, index) => event(index)),
    );
  });

  it("drops the newest and counts it while the channel cannot be opened", () => {
    const counters = createReplicaCounters();
    const { messages, publisher: to } = publisher(zmq);
    const outbox = new EventOutbox(counters, 3);
    for (let index = 0; index < 5; index++) outbox.enqueue(event(index));
    expect(counters).toMatchObject({ dropped: 2, published: 0 });
    outbox.open(to);
    expect(messages.flatMap((message) => parseActiveSequenceEvents(message))).toEqual([event(0), event(1), event(2)]);
    expect(counters).toMatchObject({ dropped: 2, published: 3 });
  });

  it("sends what waits when it closes, and nothing after", () => {
    const { messages, publisher: to } = publisher(zmq);
    const outbox = new EventOutbox(createReplicaCounters());
    outbox.open(to);
    outbox.enqueue(event(1));
    outbox.close();
    outbox.enqueue(event(2));
    outbox.flush();
    expect(messages.flatMap((message) => parseActiveSequenceEvents(message))).toEqual([event(1)]);
  });
});
