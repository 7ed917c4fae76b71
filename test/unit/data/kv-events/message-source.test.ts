/** The ZeroMQ side of engine events against real publishers. */
import { afterEach, describe, expect, it } from "@jest/globals";
import { Publisher, Router } from "zeromq";
import { openMessageSource } from "../../../../src/data/kv-events/message-source.ts";
import { ReplayClient } from "../../../../src/data/kv-events/replay-client.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

const open: { close(): void | Promise<void> }[] = [];

afterEach(async () => {
  for (const closable of open.splice(0).reverse()) await closable.close();
});

async function until(what: string, check: () => boolean, again: () => Promise<void> = async () => {}): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!check()) {
    if (performance.now() > deadline) throw new Error(`not in time: ${what}`);
    await again();
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const sequenceFrame = (sequence: bigint): Buffer => {
  const frame = Buffer.alloc(8);
  frame.writeBigInt64BE(sequence);
  return frame;
};

describe("engine events over ZeroMQ", () => {
  it("hands on what is whole and of the wanted topic, and outlives what is not", async () => {
    const publisher = new Publisher({ linger: 0 });
    open.push(publisher);
    await publisher.bind("tcp://127.0.0.1:*");
    const heard: string[] = [];
    const seen = { connected: 0, malformed: 0 };
    const source = openMessageSource({
      endpoint: publisher.lastEndpoint ?? "",
      binds: false,
      topicFilter: "kv@",
      handler: {
        message: (topic, sequence, payload) => {
          heard.push(`${topic.toString()} ${sequence} ${payload.toString()}`);
          if (payload.toString() === "throws") throw new Error("a broken handler");
        },
        disconnected: () => {},
        connected: () => void seen.connected++,
        malformed: () => void seen.malformed++,
      },
      log: silentLogger,
    });
    open.push(source);
    const join = () => publisher.send(["kv@join", sequenceFrame(0n), "x"]);
    await until("the subscriber joins", () => heard.length > 0, join);
    const from = (): string[] => heard.filter((line) => !line.startsWith("kv@join"));
    await publisher.send(["other", sequenceFrame(1n), "x"]);
    await publisher.send(["kv@a", sequenceFrame(1n)]);
    await publisher.send(["kv@a", "short", "x"]);
    await publisher.send(["kv@a", sequenceFrame(-1n), "x"]);
    await publisher.send(["kv@a", sequenceFrame(2n), "throws"]);
    await publisher.send(["kv@a", sequenceFrame(3n), "x", "more"]);
    await publisher.send(["kv@a", sequenceFrame(2n ** 40n), "last"]);
    await until("the last one", () => from().length === 2);
    expect(from()).toEqual(["kv@a 2 throws", "kv@a 1099511627776 last"]);
    expect(seen).toEqual({ connected: 1, malformed: 4 });
  });

  it("says when a publisher is gone, and hears the next one at the same place", async () => {
    let publisher = new Publisher({ linger: 0 });
    await publisher.bind("tcp://127.0.0.1:*");
    const endpoint = publisher.lastEndpoint ?? "";
    let heard = 0;
    let lost = 0;
    const source = openMessageSource({
      endpoint,
      binds: false,
      topicFilter: "",
      handler: { message: () => (heard += 1), disconnected: () => (lost += 1) },
      log: silentLogger,
    });
    open.push(source);
    const say = () => publisher.send(["", sequenceFrame(0n), "x"]);
    await until("the subscriber joins", () => heard > 0, say);
    publisher.close();
    await until("the loss", () => lost === 1);
    publisher = new Publisher({ linger: 0 });
    open.push({ close: () => publisher.close() });
    let isBound = false;
    await until(
      "its port",
      () => isBound,
      async () => {
        isBound = await publisher.bind(endpoint).then(
          () => true,
          () => false,
        );
      },
    );
    heard = 0;
    await until("the next publisher", () => heard > 0, say);
  });

  it("opens sockets for a thousand endpoints", async () => {
    const sources = Array.from({ length: 1000 }, (_, i) =>
      openMessageSource({
        endpoint: `tcp://127.0.0.1:${1 + i}`,
        binds: false,
        topicFilter: "kv@",
        handler: { message: () => {}, disconnected: () => {} },
        log: { ...silentLogger, error: (fields) => failures.push(fields) },
      }),
    );
    const failures: unknown[] = [];
    await Promise.all(sources.map(({ opened }) => opened));
    await Promise.all(sources.map((source) => source.close()));
    expect(failures).toEqual([]);
  });
});

describe("a replay", () => {
  async function serve(answers: (from: bigint) => readonly (readonly [bigint, string])[]): Promise<string> {
    const router = new Router({ linger: 0 });
    open.push(router);
    await router.bind("tcp://127.0.0.1:*");
    void (async () => {
      for await (const [client, , start] of router) {
        for (const [sequence, payload] of answers(start?.readBigUInt64BE() ?? 0n)) {
          await router.send([client ?? "", "", sequenceFrame(sequence), payload]);
        }
      }
    })().catch(() => {});
    return router.lastEndpoint ?? "";
  }

  function replayFrom(endpoint: string, from: number, limits = { idleMs: 150, totalMs: 1000, cooldownMs: 500 }) {
    const seen: string[] = [];
    let nowMs = 0;
    const ended: boolean[] = [];
    const client = new ReplayClient(
      endpoint,
      {
        replayed: (sequence, payload) => seen.push(`${sequence} ${payload.toString()}`),
        replayEnded: (isComplete) => ended.push(isComplete),
      },
      () => nowMs,
      limits,
    );
    open.push(client);
    const replay = client.start(from);
    return { seen, ended, client, replay, pass: (ms: number) => (nowMs += ms) };
  }

  it("brings batches from a number on, up to the end mark", async () => {
    const endpoint = await serve((from) => [
      [from, "a"],
      [from + 1n, "b"],
      [-1n, ""],
      [from + 2n, "late"],
    ]);
    const { seen, ended, client } = replayFrom(endpoint, 7);
    await until("the end", () => ended.length > 0);
    expect([seen, ended, client.isReady]).toEqual([["7 a", "8 b"], [true], true]);
  });

  it("ends when its source stalls, which is left alone for a while", async () => {
    const endpoint = await serve(() => [[0n, "a"]]);
    const { seen, ended, client, pass } = replayFrom(endpoint, 0);
    await until("the end", () => ended.length > 0);
    expect([seen, ended, client.isReady]).toEqual([["0 a"], [false], false]);
    pass(500);
    expect(client.isReady).toBe(true);
  });

  it("is heard of no more once it is cancelled", async () => {
    const endpoint = await serve(() => [[0n, "a"]]);
    const { ended, client, replay } = replayFrom(endpoint, 0);
    replay.cancel();
    await client.close();
    expect([ended, client.isReady]).toEqual([[], true]);
  });
});
