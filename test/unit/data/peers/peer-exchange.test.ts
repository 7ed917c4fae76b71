import { connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, describe, expect, it } from "@jest/globals";
import { type Endpoint, endpointName } from "../../../../src/data/endpoint.ts";
import { createEndpointStore, type EndpointStore } from "../../../../src/data/endpoint-store.ts";
import type { PeerAddress, PeerSource } from "../../../../src/data/peers/peer-addresses.ts";
import { PeerExchange } from "../../../../src/data/peers/peer-exchange.ts";
import { PeerSecret } from "../../../../src/data/peers/peer-secret.ts";
import { SharedLoad } from "../../../../src/data/peers/shared-load.ts";
import type { SharedKnowledge } from "../../../../src/data/shared-state.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

const host = "127.0.0.1";
/** So long that nothing is dropped for silence unless a test is about that, on a machine however slow. */
const patient = 10_000;
const quick = 100;

const open: { close(): unknown }[] = [];

afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
});

class Listed implements PeerSource {
  found: (addresses: readonly PeerAddress[]) => void = () => {};
  start(found: (addresses: readonly PeerAddress[]) => void): Promise<void> {
    this.found = found;
    return Promise.resolve();
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}

interface Replica {
  readonly exchange: PeerExchange;
  readonly store: EndpointStore;
  readonly endpoint: () => Endpoint;
  /** Calls these ports. */
  calls(...ports: readonly number[]): void;
}

interface ReplicaOptions {
  readonly heartbeatMs?: number;
  readonly secret?: PeerSecret;
  readonly port?: number;
  readonly scope?: string;
}

async function replica(options: ReplicaOptions = {}): Promise<Replica> {
  const store = createEndpointStore();
  store.upsert("test", { namespace: "default", name: "1", address: "10.0.0.1", port: 80, labels: new Map() });
  const source = new Listed();
  const exchange = new PeerExchange({
    host,
    port: options.port ?? 0,
    scope: options.scope ?? "default/pool",
    source,
    secret: options.secret,
    log: silentLogger,
    now: () => performance.now(),
    random: Math.random,
    heartbeatMs: options.heartbeatMs ?? patient,
  });
  exchange.share("pool", [new SharedLoad(store)]);
  open.push(exchange);
  await exchange.start();
  const endpoint = (): Endpoint => {
    const found = store.get(endpointName("default", "1"));
    if (found === undefined) throw new Error("the endpoint has left");
    return found;
  };
  return { exchange, store, endpoint, calls: (...ports) => source.found(ports.map((port) => ({ host, port }))) };
}

async function until(what: string, check: () => boolean): Promise<void> {
  const end = performance.now() + 20_000;
  while (!check()) {
    if (performance.now() > end) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const requestsAt = (one: Replica): number => one.endpoint().load.requests;

/** A TCP relay that a test can make silent, or cut. */
async function relay(to: number): Promise<{ readonly port: number; mute(): void; cut(): void; close(): void }> {
  const sockets = new Set<Socket>();
  let isMute = false;
  const server: Server = createServer((from) => {
    const onward = connect({ host, port: to });
    for (const socket of [from, onward]) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        from.destroy();
        onward.destroy();
        sockets.delete(socket);
      });
    }
    from.on("data", (chunk) => !isMute && onward.write(chunk));
    onward.on("data", (chunk) => !isMute && from.write(chunk));
  });
  await new Promise<void>((resolve) => server.listen({ host, port: 0 }, resolve));
  const cut = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  const address = server.address();
  const one = {
    port: typeof address === "object" && address !== null ? address.port : 0,
    mute: () => {
      isMute = true;
    },
    cut,
    close: () => {
      cut();
      server.close();
    },
  };
  open.push(one);
  return one;
}

describe("replicas over TCP", () => {
  it("have each other's load within a moment, and lose it when one of them ends", async () => {
    const [a, b, c] = [await replica(), await replica(), await replica()];
    const ports = [a, b, c].map(({ exchange }) => exchange.port);
    for (const one of [a, b, c]) one.calls(...ports);
    await until("all heard", () => [a, b, c].every(({ exchange }) => exchange.heard === 2));
    a.store.book(a.endpoint(), 10);
    b.store.book(b.endpoint(), 20);
    const booking = c.store.book(c.endpoint(), 30);
    await until("the sum", () => [a, b, c].every((one) => requestsAt(one) === 3));
    expect([a, b, c].map((one) => one.endpoint().load.tokens)).toEqual([60, 60, 60]);
    booking.release();
    await until("the release", () => [a, b, c].every((one) => requestsAt(one) === 2));
    await b.exchange.close();
    await until("the end of b", () => requestsAt(a) === 1 && requestsAt(c) === 1);
    expect(a.exchange.counters.silent).toBe(0);
  });

  it("are counted in what happened before they met", async () => {
    const a = await replica();
    const b = await replica();
    b.store.book(b.endpoint(), 5);
    a.calls(b.exchange.port);
    await until("what b had", () => requestsAt(a) === 1);
    expect(requestsAt(b)).toBe(1);
  });

  it("take a peer that was started anew at the same address for a new one", async () => {
    const a = await replica();
    const b = await replica();
    const { port } = b.exchange;
    b.store.book(b.endpoint(), 5);
    a.calls(port);
    await until("what b had", () => requestsAt(a) === 1);
    await b.exchange.close();
    const again = await replica({ port });
    again.store.book(again.endpoint(), 5);
    again.store.book(again.endpoint(), 5);
    await until("what it has now", () => requestsAt(a) === 2);
  });

  it("go on where a connection broke off", async () => {
    const a = await replica();
    const b = await replica();
    const between = await relay(b.exchange.port);
    a.calls(between.port);
    b.store.book(b.endpoint(), 5);
    await until("what b had", () => requestsAt(a) === 1);
    between.cut();
    b.store.book(b.endpoint(), 5);
    await until("what b has now", () => requestsAt(a) === 2);
    expect(b.exchange.counters).toMatchObject({ snapshots: 1, resumed: 1 });
    expect(a.exchange.counters.silent).toBe(0);
  });

  it("do not count one that is silent for three heartbeats, until it is heard again", async () => {
    const a = await replica({ heartbeatMs: quick });
    const b = await replica({ heartbeatMs: quick });
    const between = await relay(b.exchange.port);
    b.store.book(b.endpoint(), 5);
    a.calls(between.port);
    await until("what b had", () => requestsAt(a) === 1);
    between.mute();
    await until("silence noticed", () => requestsAt(a) === 0);
    expect(a.exchange.counters.silent).toBe(1);
    a.calls(b.exchange.port);
    await until("b heard again", () => requestsAt(a) === 1);
  });

  it("hear a peer out whose address is listed no more", async () => {
    const a = await replica();
    const b = await replica();
    a.calls(b.exchange.port);
    await until("heard", () => a.exchange.heard === 1);
    a.calls();
    b.store.book(b.endpoint(), 5);
    await until("what b says at its end", () => requestsAt(a) === 1);
    await b.exchange.close();
    await until("the end of b", () => requestsAt(a) === 0);
    await until("forgotten", () => (a.exchange.state()["peers"] as unknown[]).length === 0);
  });

  it("of another pool say nothing to each other", async () => {
    const a = await replica();
    const b = await replica({ scope: "default/another" });
    b.store.book(b.endpoint(), 5);
    a.calls(b.exchange.port);
    await until(
      "refused",
      () => (a.exchange.state()["peers"] as { error: string | null }[])[0]?.error?.includes("another") ?? false,
    );
    expect(requestsAt(a)).toBe(0);
  });
});

describe("what a replica shares", () => {
  it("may change while it runs: what is no longer shared is left alone, the load goes on", async () => {
    const a = await replica();
    const told: (string | undefined)[] = [];
    const state = (name: string): SharedKnowledge => ({
      kind: "knowledge",
      topic: "words",
      shareWith: (changes) => told.push(`${name} ${changes === undefined ? "off" : "on"}`),
      apply: () => true,
      known: () => [],
    });
    const load = new SharedLoad(a.store);
    a.exchange.share("pool", [load, state("first")]);
    const b = await replica();
    b.calls(a.exchange.port);
    await until("heard", () => b.exchange.heard === 1);
    const { snapshots } = a.exchange.counters;
    a.exchange.share("pool", [load, state("second")]);
    a.store.book(a.endpoint(), 1);
    await until("still shared", () => requestsAt(b) === 1);
    expect(told).toEqual(["first on", "first off", "second on"]);
    expect(a.exchange.counters.snapshots).toBe(snapshots);
  });
});

describe("the port for replicas", () => {
  it("hangs up on what is no picker, and serves on", async () => {
    const b = await replica();
    for (const words of ["GET / HTTP/1.1\r\nhost: x\r\n\r\n", "\u0016\u0003\u0001", "\0".repeat(100_000)]) {
      const socket = connect({ host, port: b.exchange.port });
      open.push({ close: () => socket.destroy() });
      socket.on("error", () => {});
      socket.resume();
      const closed = new Promise((resolve) => socket.once("close", resolve));
      socket.write(words);
      if (words.length > 4) await closed;
    }
    expect(b.exchange.counters.refused).toBeGreaterThanOrEqual(2);
    const a = await replica();
    b.store.book(b.endpoint(), 5);
    a.calls(b.exchange.port);
    await until("served on", () => requestsAt(a) === 1);
  });
});

describe("a secret of the replicas", () => {
  const one = "correct horse battery staple";
  const other = "another secret, just as long";

  it("lets those in that have it, and keeps the others and those without any out", async () => {
    const b = await replica({ secret: new PeerSecret(one) });
    b.store.book(b.endpoint(), 5);
    const a = await replica({ secret: new PeerSecret(one) });
    const stranger = await replica({ secret: new PeerSecret(other) });
    const open1 = await replica();
    for (const caller of [a, stranger, open1]) caller.calls(b.exchange.port);
    await until("heard with the secret", () => requestsAt(a) === 1);
    await until("the others were refused", () => b.exchange.counters.refused >= 2);
    expect(requestsAt(stranger)).toBe(0);
    expect(requestsAt(open1)).toBe(0);
  });

  it("keeps a liar out that answers at a peer's address without it", async () => {
    const liar = await replica();
    liar.store.book(liar.endpoint(), 5);
    const a = await replica({ secret: new PeerSecret(one) });
    a.calls(liar.exchange.port);
    await until("refused", () => (a.exchange.state()["peers"] as { error: string | null }[])[0]?.error !== null);
    expect(requestsAt(a)).toBe(0);
  });

  it("can be changed in two steps, during which everybody is heard", async () => {
    const secret = new PeerSecret(`${one}\n${other}\n`);
    const b = await replica({ secret });
    b.store.book(b.endpoint(), 5);
    const old = await replica({ secret: new PeerSecret(one) });
    const fresh = await replica({ secret: new PeerSecret(other) });
    for (const caller of [old, fresh]) caller.calls(b.exchange.port);
    await until("both heard", () => requestsAt(old) === 1 && requestsAt(fresh) === 1);
    secret.replace(other);
    const late = await replica({ secret: new PeerSecret(one) });
    late.calls(b.exchange.port);
    await until("the old one is out", () => b.exchange.counters.refused >= 1);
    expect(requestsAt(late)).toBe(0);
  });

  it("must be there and long enough", () => {
    for (const text of ["", "\n \n", "short", `${one}\nshort`]) {
      expect(() => new PeerSecret(text)).toThrow(expect.objectContaining({ code: "BAD_PEER_SECRET" }));
    }
    const secret = new PeerSecret(one);
    expect(() => secret.replace("short")).toThrow(expect.objectContaining({ code: "BAD_PEER_SECRET" }));
  });
});
