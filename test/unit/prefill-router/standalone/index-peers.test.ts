/** Taking a peer's index over at the start: who is asked, how long, and what this picker answers itself; over real loopback HTTP. */
import { once } from "node:events";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as rest } from "node:timers/promises";
import { afterEach, describe, expect, it } from "@jest/globals";
import { IndexPeers, type IndexPeersInit } from "../../../../src/prefill-router/standalone/index-peers.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import { eventually } from "../../../stack.ts";

const open: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

async function listen(listener: RequestListener): Promise<{ readonly url: string; readonly server: Server }> {
  const server = createServer(listener).listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push(async () => {
    server.closeAllConnections();
    server.close();
    await Promise.resolve();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, server };
}

const answers =
  (status: number, body = ""): RequestListener =>
  (_request, response) =>
    response.writeHead(status).end(body);

interface Started {
  readonly peers: IndexPeers;
  readonly taken: readonly string[];
}

async function start(changes: Partial<IndexPeersInit>): Promise<Started> {
  const taken: string[] = [];
  const peers = new IndexPeers({
    port: 0,
    urls: undefined,
    dump: async function* () {
      yield '{"m:default":';
      await Promise.resolve();
      yield '"é"}';
    },
    takeOver: (dump) => {
      const text = Buffer.from(dump).toString("utf8");
      JSON.parse(text);
      taken.push(text);
      return Promise.resolve(7);
    },
    isPrepared: () => true,
    log: silentLogger,
    now: () => performance.now(),
    random: () => 0,
    ...changes,
  });
  open.push(() => peers.close());
  peers.begin();
  await eventually("it listens", () => Promise.resolve(peers.port !== undefined));
  return { peers, taken };
}

const ended = ({ peers }: Started): Promise<unknown> =>
  eventually("it is over", () => Promise.resolve(!peers.isRecovering));
const ask = (peers: IndexPeers, path = "/dump", method = "GET") =>
  fetch(`http://127.0.0.1:${peers.port}${path}`, { method });

/** Nobody listens there. */
async function nobody(): Promise<string> {
  const { url, server } = await listen(() => {});
  server.close();
  await once(server, "close");
  return url;
}

describe("an index that is taken over", () => {
  it("comes from the first peer that gives it; the others' failures are passed over", async () => {
    const hurt = await listen(answers(500));
    const broken = await listen(answers(200, "{"));
    const good = await listen(answers(200, "{}"));
    const started = await start({ urls: [await nobody(), hurt.url, broken.url, `${good.url}/`] });
    await ended(started);
    expect(started.taken).toEqual(["{}"]);
    expect(started.peers.state()).toMatchObject({ recovery: "recovered", takenOverBlocks: 7, failure: null });
  });

  it("is asked of the peers that are found, at the port that all have, once the engines are known", async () => {
    const { server } = await listen(answers(200, "{}"));
    const { port } = server.address() as AddressInfo;
    const other = createServer(answers(200, "{}")).listen(port, "127.0.0.2");
    await once(other, "listening");
    open.push(async () => {
      other.close();
      await Promise.resolve();
    });
    let isPrepared = false;
    // Its own address is taken, which it says and tries again; that keeps it from no index.
    const peers = new IndexPeers({
      port,
      urls: undefined,
      dump: async function* () {},
      takeOver: () => Promise.resolve(1),
      isPrepared: () => isPrepared,
      log: silentLogger,
      now: () => performance.now(),
      random: () => 0,
    });
    open.push(() => peers.close());
    peers.begin();
    peers.found([{ host: "127.0.0.2", port: 9092 }]);
    await rest(120);
    expect(peers.isRecovering).toBe(true);
    isPrepared = true;
    await eventually("it is over", () => Promise.resolve(!peers.isRecovering));
    expect(peers.state()).toMatchObject({ recovery: "recovered" });
  });

  it("is not waited for where nobody has one: those that start together have none", async () => {
    const starting = await listen(answers(503, "peer KV index not yet recovered"));
    const began = performance.now();
    const started = await start({ urls: [starting.url, await nobody()] });
    await ended(started);
    expect(started.peers.state()).toMatchObject({ recovery: "empty" });
    expect(performance.now() - began).toBeLessThan(5_000);
    const alone = await start({ urls: [] });
    await ended(alone);
    expect(alone.peers.state()).toMatchObject({ recovery: "empty" });
  });

  it("is asked for again while a peer has one and cannot give it, and then for no longer than it may take", async () => {
    let asked = 0;
    const busy = await listen((request, response) => {
      asked += 1;
      answers(asked < 3 ? 500 : 200, "{}")(request, response);
    });
    const patient = await start({ urls: [busy.url] });
    await ended(patient);
    expect([patient.peers.state()["recovery"], asked]).toEqual(["recovered", 3]);

    const silent = await listen(() => {});
    const began = performance.now();
    const bounded = await start({ urls: [silent.url], withinMs: 300 });
    await ended(bounded);
    expect(bounded.peers.state()).toMatchObject({ recovery: "empty" });
    expect(performance.now() - began).toBeLessThan(3_000);
    const unheard = await start({ withinMs: 200 });
    await ended(unheard);
    expect(unheard.peers.state()).toMatchObject({ recovery: "empty" });
  });

  it("ends with the picker, whatever it waits for", async () => {
    const silent = await listen(() => {});
    const { peers } = await start({ urls: [silent.url] });
    await rest(50);
    await peers.close();
    expect(peers.isRecovering).toBe(true);
  });
});

describe("this picker's own index", () => {
  it("is given once it is known, whole or not at all", async () => {
    const silent = await listen(() => {});
    const busy = await start({ urls: [silent.url] });
    expect((await ask(busy.peers)).status).toBe(503);
    const started = await start({ urls: [] });
    await ended(started);
    const text = '{"m:default":"é"}';
    for (const path of [
      "/dump",
      "/dump?max_bytes=0",
      "/dump?max_bytes=x",
      `/dump?max_bytes=${Buffer.byteLength(text)}`,
    ]) {
      const response = await ask(started.peers, path);
      expect([path, response.status, response.headers.get("content-type"), await response.text()]).toEqual([
        path,
        200,
        "application/json",
        text,
      ]);
    }
    expect((await ask(started.peers, `/dump?max_bytes=${Buffer.byteLength(text) - 1}`)).status).toBe(413);
    expect((await ask(started.peers, "/workers")).status).toBe(404);
    expect((await ask(started.peers, "/dump", "POST")).status).toBe(405);
  });

  it("is read by few at once, and a reader that goes holds nothing", async () => {
    let waiting = 0;
    const gate = new AbortController();
    const started = await start({
      urls: [],
      dump: async function* () {
        yield "{";
        waiting += 1;
        await rest(10_000, undefined, { signal: gate.signal }).catch(() => undefined);
        yield "}";
      },
    });
    await ended(started);
    const readers = [ask(started.peers), ask(started.peers)];
    await eventually("both read", () => Promise.resolve(waiting === 2));
    expect((await ask(started.peers)).status).toBe(503);
    gate.abort();
    expect(await Promise.all(readers.map(async (reader) => await (await reader).text()))).toEqual(["{}", "{}"]);
    expect((await ask(started.peers)).status).toBe(200);
  });
});
