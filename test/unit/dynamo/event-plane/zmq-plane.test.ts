/** The event plane over real ZeroMQ sockets: who is heard, who is not, and a broker in between. */
import { afterEach, describe, expect, it } from "@jest/globals";
import { Context, Publisher, XPublisher, XSubscriber, Proxy as ZmqProxy } from "zeromq";
import { createEventPlane } from "../../../../src/dynamo/event-plane/create-event-plane.ts";
import { encodeEnvelope } from "../../../../src/dynamo/event-plane/envelope.ts";
import type { EventPlane, EventSubscription } from "../../../../src/dynamo/event-plane/event-plane.ts";
import { encodeFrames } from "../../../../src/dynamo/event-plane/zmq-frames.ts";
import type { EventChannelRecord } from "../../../../src/dynamo/records.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import { until } from "../until.ts";

const scope = { namespace: "ns", component: "backend", endpoint: "generate" };
const env = { DYN_EVENT_PLANE_HOST: "127.0.0.1", DYN_ZMQ_IO_THREADS: "1" };
const closers: (() => Promise<void> | void)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function plane(extra: Record<string, string> = {}): EventPlane {
  const created = createEventPlane({ ...env, ...extra }, silentLogger);
  closers.push(() => created.close());
  return created;
}

interface Heard {
  readonly subscription: EventSubscription;
  readonly texts: string[];
}

async function listen(to: EventPlane, topic = "kv-events"): Promise<Heard> {
  const texts: string[] = [];
  const subscription = await to.subscribe(scope, topic, (payload, publisherId) =>
    texts.push(`${publisherId}:${payload.toString()}`),
  );
  return { subscription, texts };
}

/** ZeroMQ tells nobody when a subscription has arrived: says it until it is heard. */
async function sayUntilHeard(say: (text: string) => void, heard: readonly string[], text: string): Promise<void> {
  await until(() => {
    say(text);
    return heard.some((one) => one.endsWith(text));
  });
}

describe("direct ZeroMQ", () => {
  it("hears every publisher that discovery names, each with its id, in order", async () => {
    const [one, other, listener] = [plane(), plane(), plane()];
    const publishers = [await one.publish(scope, "kv-events"), await other.publish(scope, "kv-events")];
    const { subscription, texts } = await listen(listener);
    for (const { channel } of publishers) subscription.opened(channel);
    for (const publisher of publishers) {
      await sayUntilHeard((text) => publisher.publish(Buffer.from(text)), texts, `hello ${publisher.publisherId}`);
    }
    texts.length = 0;
    for (let index = 0; index < 200; index++)
      for (const publisher of publishers) publisher.publish(Buffer.from(`n${index}`));
    await until(() => texts.filter((text) => text.includes(":n")).length === 400);
    for (const { publisherId } of publishers) {
      const own = texts.filter((text) => text.startsWith(`${publisherId}:n`));
      expect(own).toEqual(Array.from({ length: 200 }, (_, index) => `${publisherId}:n${index}`));
    }
  });

  it("does not hear a publisher whose channel closed, nor one of another scope or topic", async () => {
    const [speaker, listener] = [plane(), plane()];
    const publisher = await speaker.publish(scope, "kv-events");
    const second = await speaker.publish(scope, "kv-events");
    const foreign = await speaker.publish({ ...scope, endpoint: undefined }, "kv-events");
    const { subscription, texts } = await listen(listener);
    for (const { channel } of [publisher, second, foreign]) subscription.opened(channel);
    await sayUntilHeard((text) => publisher.publish(Buffer.from(text)), texts, "open");
    subscription.closed(publisher.channel);
    texts.length = 0;
    await sayUntilHeard(
      (text) => {
        publisher.publish(Buffer.from("gone"));
        foreign.publish(Buffer.from("foreign"));
        second.publish(Buffer.from(text));
      },
      texts,
      "second",
    );
    expect(texts.filter((text) => text.endsWith("foreign"))).toEqual([]);
    expect(texts.at(-1)).toContain("second");
  });

  it("counts and drops what is malformed, of a topic with the same beginning, or of a stranger on the port, and goes on", async () => {
    const listener = plane();
    const context = new Context();
    const raw = new Publisher({ context, linger: 0 });
    closers.push(() => raw.close());
    await raw.bind("tcp://127.0.0.1:*");
    const channel: EventChannelRecord = {
      type: "EventChannel",
      scope,
      topic: "kv-events",
      publisherId: 7n,
      transport: { kind: "zmq", endpoint: raw.lastEndpoint ?? "" },
    };
    const { subscription, texts } = await listen(listener);
    subscription.opened(channel);
    const topic = Buffer.from("kv-events");
    const good = (id: bigint, outer = id): Buffer[] =>
      encodeFrames(topic, outer, 0n, encodeEnvelope(id, 0n, 1, "kv-events", Buffer.from("good")));
    await until(async () => {
      await raw.send(good(7n));
      return texts.length > 0;
    });
    const [, id, sequence, body] = good(7n) as [Buffer, Buffer, Buffer, Buffer];
    await raw.send([Buffer.from("kv-events-x"), id, sequence, body]);
    await raw.send([topic, body]);
    await raw.send([topic, id, sequence, Buffer.concat([Buffer.of(9), body.subarray(1)])]);
    await raw.send(encodeFrames(topic, 7n, 0n, Buffer.from("no envelope")));
    await raw.send(good(7n, 8n));
    await raw.send(good(8n));
    const { dropped } = listener.counters;
    await until(() => dropped.publisher === 1);
    expect(dropped).toMatchObject({ topic: 1, "frame-count": 1, version: 1, malformed: 1, identity: 1, publisher: 1 });
    texts.length = 0;
    await raw.send(good(7n));
    await until(() => texts.length > 0);
  });

  it("keeps a handler's error to the message it came from", async () => {
    const [speaker, listener] = [plane(), plane()];
    const publisher = await speaker.publish(scope, "t");
    const heard: string[] = [];
    const subscription = await listener.subscribe(scope, "t", (payload) => {
      heard.push(payload.toString());
      throw new Error("handler");
    });
    subscription.opened(publisher.channel);
    await sayUntilHeard((text) => publisher.publish(Buffer.from(text)), heard, "one");
    await sayUntilHeard((text) => publisher.publish(Buffer.from(text)), heard, "two");
    expect(listener.counters.dropped.handler).toBe(heard.length);
  });

  it("publishes nothing after close and registers a channel others can reach", async () => {
    const speaker = plane();
    const publisher = await speaker.publish(scope, "t");
    expect(publisher.channel).toMatchObject({
      type: "EventChannel",
      scope,
      topic: "t",
      publisherId: publisher.publisherId,
    });
    expect(publisher.channel.transport).toMatchObject({
      kind: "zmq",
      endpoint: expect.stringMatching(/^tcp:\/\/127\.0\.0\.1:\d+$/),
    });
    await publisher.close();
    publisher.publish(Buffer.from("late"));
    expect(speaker.counters.published).toBe(0);
  });
});

describe("ZeroMQ with brokers", () => {
  async function startBroker(): Promise<{ readonly xsub: string; readonly xpub: string }> {
    const context = new Context();
    const front = new XSubscriber({ context, linger: 0 });
    const back = new XPublisher({ context, linger: 0 });
    await front.bind("tcp://127.0.0.1:*");
    await back.bind("tcp://127.0.0.1:*");
    const addresses = { xsub: front.lastEndpoint ?? "", xpub: back.lastEndpoint ?? "" };
    const proxy = new ZmqProxy(front, back);
    const run = proxy.run();
    closers.push(async () => {
      proxy.terminate();
      await run;
    });
    return addresses;
  }

  it("hears what comes by two brokers once", async () => {
    const brokers = [await startBroker(), await startBroker()];
    const url = `xsub=${brokers.map(({ xsub }) => xsub).join(";")} , xpub=${brokers.map(({ xpub }) => xpub).join(";")}`;
    const [speaker, listener] = [plane({ DYN_ZMQ_BROKER_URL: url }), plane({ DYN_ZMQ_BROKER_URL: url })];
    const publisher = await speaker.publish(scope, "kv-events");
    const { texts } = await listen(listener);
    let said = 0;
    // Both brokers pass it on once a message is dropped as a duplicate.
    await until(() => {
      publisher.publish(Buffer.from(`m${said++}`));
      return listener.counters.dropped.duplicate > 0;
    });
    publisher.publish(Buffer.from("last"));
    await until(() => texts.some((text) => text.endsWith("last")));
    expect(new Set(texts).size).toBe(texts.length);
  });

  it("finds its brokers in discovery when it is told to look there", async () => {
    const { xsub, xpub } = await startBroker();
    const [speaker, listener] = [plane({ DYN_ZMQ_BROKER_ENABLED: "1" }), plane({ DYN_ZMQ_BROKER_ENABLED: "1" })];
    const channel: EventChannelRecord = {
      type: "EventChannel",
      scope: { namespace: "ns", component: "zmq_broker", endpoint: undefined },
      topic: "broker",
      publisherId: 1n,
      transport: { kind: "zmq-broker", xsub: [xsub], xpub: [xpub] },
    };
    const publisher = await speaker.publish(scope, "kv-events");
    const own = await listen(speaker, "other");
    own.subscription.opened(channel);
    const { subscription, texts } = await listen(listener);
    subscription.opened(channel);
    await sayUntilHeard((text) => publisher.publish(Buffer.from(text)), texts, "by broker");
  });
});

describe("a flood of events", () => {
  it("leaves the event loop its turns", async () => {
    const [speaker, listener] = [plane(), plane()];
    const publisher = await speaker.publish(scope, "t");
    let heard = 0;
    const subscription = await listener.subscribe(scope, "t", () => {
      heard++;
      const end = performance.now() + 0.2;
      while (performance.now() < end) {
        // as long as an event with a few hundred blocks takes
      }
    });
    subscription.opened(publisher.channel);
    await until(() => {
      publisher.publish(Buffer.from("first"));
      return heard > 0;
    });
    const before = heard;
    for (let index = 0; index < 1500; index++) publisher.publish(Buffer.alloc(10));
    let turns = 0;
    await until(() => {
      turns++;
      return heard >= before + 1500;
    });
    // 300 ms of work in stretches of a few milliseconds.
    expect(turns).toBeGreaterThan(15);
  });
});
