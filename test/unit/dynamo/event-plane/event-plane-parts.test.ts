/** The parts of the event plane that need no socket: subjects, frames, envelopes, the filter of duplicates, settings. */
import { describe, expect, it } from "@jest/globals";
import { resolveAdvertisedHost } from "../../../../src/dynamo/advertised-host.ts";
import { MalformedMessage } from "../../../../src/dynamo/encoding/value-reader.ts";
import { DuplicateFilter } from "../../../../src/dynamo/event-plane/duplicate-filter.ts";
import { Envelope, encodeEnvelope, randomPublisherId } from "../../../../src/dynamo/event-plane/envelope.ts";
import { eventPlaneSettings } from "../../../../src/dynamo/event-plane/settings.ts";
import { subjectOf } from "../../../../src/dynamo/event-plane/subject.ts";
import { encodeFrames, isSameIdentity, openFrames } from "../../../../src/dynamo/event-plane/zmq-frames.ts";
import fc from "../../../properties.ts";
import { framesOf, wires } from "../wires.ts";

const topic = Buffer.from("kv-events");

describe("subjects", () => {
  it.each([
    [
      { namespace: "ns", component: "backend", endpoint: "generate" },
      "namespace.ns.component.backend.endpoint.generate.kv-events",
    ],
    [{ namespace: "ns", component: "backend", endpoint: undefined }, "namespace.ns.component.backend.kv-events"],
    [{ namespace: "a.b", component: undefined, endpoint: undefined }, "namespace.a%2Eb.kv-events"],
    [{ namespace: "größe*>", component: undefined, endpoint: undefined }, "namespace.gr%C3%B6%C3%9Fe%2A%3E.kv-events"],
  ])("of %j are %s", (scope, subject) => {
    expect(subjectOf(scope, "kv-events")).toBe(subject);
  });

  it("are what Dynamo publishes to on NATS", () => {
    expect(wires.nats[0]?.subject).toBe(
      subjectOf({ namespace: "ns", component: "backend", endpoint: "generate" }, "kv-events"),
    );
  });
});

describe("ZeroMQ frames", () => {
  const good = framesOf(wires.zmq.stored);
  const [topicFrame, publisher, sequence, body] = good as [Buffer, Buffer, Buffer, Buffer];

  it("of a recorded message are written again byte for byte", () => {
    const envelope = openFrames(good, topic) as Buffer;
    expect(encodeFrames(topic, publisher.readBigUInt64BE(), sequence.readBigUInt64BE(), envelope)).toEqual(good);
    expect(isSameIdentity(good, BigInt(wires.zmq.stored.publisherId), 0n)).toBe(true);
    expect(isSameIdentity(good, 1n, 0n)).toBe(false);
  });

  it.each([
    ["frame-count", [topicFrame, publisher, sequence]],
    ["frame-count", [...good, body]],
    ["topic", [Buffer.from("kv-events-x"), publisher, sequence, body]],
    ["identity", [topicFrame, publisher.subarray(1), sequence, body]],
    ["version", [topicFrame, publisher, sequence, Buffer.concat([Buffer.of(2), body.subarray(1)])]],
    ["length", [topicFrame, publisher, sequence, body.subarray(0, body.length - 1)]],
    ["length", [topicFrame, publisher, sequence, body.subarray(0, 3)]],
  ])("are refused for their %s", (fault, frames) => {
    expect(openFrames(frames, topic)).toBe(fault);
  });
});

describe("envelopes", () => {
  it("are read back, payload untouched", () => {
    const envelope = new Envelope("t");
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.uint8Array(),
        (id, sequence, payload) => {
          envelope.read(encodeEnvelope(id, sequence, 1_700_000_000_000, "t", payload));
          expect(envelope).toMatchObject({ publisherId: id, sequence, isOfTopic: true });
          expect(envelope.payload).toEqual(Buffer.from(payload));
        },
      ),
    );
  });

  it("of older releases are JSON with the payload as an array", () => {
    const envelope = new Envelope("t");
    envelope.read(
      Buffer.from(
        '{"publisher_id":18446744073709551615,"sequence":7,"published_at":1,"topic":"t","payload":[123,125]}',
      ),
    );
    expect(envelope).toMatchObject({
      publisherId: 2n ** 64n - 1n,
      sequence: 7n,
      isOfTopic: true,
      payload: Buffer.from("{}"),
    });
  });

  it("of another topic are told apart, and what is none is refused", () => {
    const envelope = new Envelope("t");
    envelope.read(encodeEnvelope(1n, 1n, 1, "tt", Buffer.of(1)));
    expect(envelope.isOfTopic).toBe(false);
    for (const bytes of [Buffer.of(0x80), Buffer.of(0xc1), Buffer.from("{}"), Buffer.from("{"), Buffer.alloc(0)]) {
      expect(() => envelope.read(bytes)).toThrow(MalformedMessage);
    }
  });

  it("have publisher ids that JSON numbers can hold", () => {
    for (let index = 0; index < 100; index++) expect(randomPublisherId()).toBeLessThan(2n ** 53n);
  });
});

describe("the duplicate filter", () => {
  it("admits each message of a publisher once, in whatever order two brokers deliver it", () => {
    fc.assert(
      fc.property(
        fc.shuffledSubarray(Array.from({ length: 100 }, (_, index) => index)),
        fc.shuffledSubarray(Array.from({ length: 100 }, (_, index) => index)),
        (one, other) => {
          const filter = new DuplicateFilter();
          const admitted = [...one, ...other].filter((sequence) => filter.admit(5n, BigInt(sequence)));
          expect(new Set(admitted)).toEqual(new Set([...one, ...other]));
          expect(admitted).toHaveLength(new Set(admitted).size);
        },
      ),
    );
  });

  it("keeps publishers apart and takes what is far behind for seen", () => {
    const filter = new DuplicateFilter();
    expect(filter.admit(1n, 10_000n)).toBe(true);
    expect(filter.admit(2n, 10_000n)).toBe(true);
    expect(filter.admit(1n, 1n)).toBe(false);
    expect(filter.admit(1n, 100_000n)).toBe(true);
    expect(filter.admit(1n, 99_999n)).toBe(true);
    expect(filter.admit(1n, 99_999n)).toBe(false);
  });
});

describe("the settings of the event plane", () => {
  it("are ZeroMQ without brokers by default", () => {
    expect(eventPlaneSettings({})).toEqual({ kind: "zmq", ioThreads: 4, host: undefined, broker: undefined });
    expect(eventPlaneSettings({ DYN_EVENT_PLANE: " " })).toMatchObject({ kind: "zmq" });
  });

  it("take brokers from their URL or from discovery", () => {
    const url = "xsub=tcp://a:1;tcp://b:1 , xpub=tcp://a:2;tcp://b:2";
    expect(eventPlaneSettings({ DYN_ZMQ_BROKER_URL: url })).toMatchObject({
      broker: { endpoints: { xsub: ["tcp://a:1", "tcp://b:1"], xpub: ["tcp://a:2", "tcp://b:2"] } },
    });
    expect(eventPlaneSettings({ DYN_ZMQ_BROKER_ENABLED: "true" })).toMatchObject({ broker: { endpoints: undefined } });
  });

  it("take NATS servers, credentials and certificates", () => {
    const env = {
      DYN_EVENT_PLANE: "nats",
      NATS_SERVER: "nats://a:1,nats://b:2",
      NATS_AUTH_TOKEN: "x",
      NATS_TLS_CA_CERT_PATH: "/ca",
    };
    expect(eventPlaneSettings(env)).toMatchObject({
      kind: "nats",
      servers: ["nats://a:1", "nats://b:2"],
      token: "x",
      caFile: "/ca",
    });
  });

  it.each([
    [{ DYN_EVENT_PLANE: "kafka" }, "DYN_EVENT_PLANE"],
    [{ DYN_ZMQ_IO_THREADS: "0" }, "DYN_ZMQ_IO_THREADS"],
    [{ DYN_ZMQ_BROKER_URL: "tcp://a:1" }, "DYN_ZMQ_BROKER_URL"],
    [{ DYN_ZMQ_BROKER_URL: "xsub=tcp://a:1" }, "DYN_ZMQ_BROKER_URL"],
    [{ DYN_EVENT_PLANE: "nats", NATS_TLS_CLIENT_CERT_PATH: "/c" }, "NATS_TLS_CLIENT_KEY_PATH"],
  ])("are refused as %j, naming the variable", (env, variable) => {
    expect(() => eventPlaneSettings(env)).toThrow(variable);
  });
});

describe("the advertised host", () => {
  it.each([
    ["127.0.0.1", { address: "127.0.0.1", family: 4 }],
    [" ::1 ", { address: "::1", family: 6 }],
    ["[::1]", { address: "::1", family: 6 }],
    ["lo", { address: "127.0.0.1", family: 4 }],
  ])("of %j is %j", async (configured, expected) => {
    expect(await resolveAdvertisedHost(configured, "X")).toEqual(expected);
  });

  it("is never a wildcard, and what cannot be resolved names its variable", async () => {
    await expect(resolveAdvertisedHost("0.0.0.0", "DYN_X")).rejects.toThrow("DYN_X=0.0.0.0");
    await expect(resolveAdvertisedHost("no.such.host.invalid", "DYN_X")).rejects.toThrow("DYN_X=no.such.host.invalid");
  });
});
