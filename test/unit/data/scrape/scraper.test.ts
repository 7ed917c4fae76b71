/** The scrape loop and its pollers against real engines' pages on the loopback interface. */
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { afterEach, describe, expect, it, jest } from "@jest/globals";
import { type Endpoint, endpointName } from "../../../../src/data/endpoint.ts";
import { createEndpointStore, type EndpointStore } from "../../../../src/data/endpoint-store.ts";
import { createCoreMetricsExtractor } from "../../../../src/data/scrape/core-metrics-extractor.ts";
import { createHttpSource } from "../../../../src/data/scrape/metrics-source.ts";
import { createModelsExtractor, servedModels } from "../../../../src/data/scrape/models-extractor.ts";
import { Poller, type PollStatus } from "../../../../src/data/scrape/poller.ts";
import {
  createScraper,
  type ScrapeBinding,
  type ScrapeOptions,
  type Scraper,
  scrapeOptions,
} from "../../../../src/data/scrape/scraper.ts";
import type { DataSource, Extractor } from "../../../../src/data/scrape/source.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import { vllmPage } from "./vllm-page.ts";

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error("the condition did not come true in time");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

interface Engine {
  readonly port: number;
  readonly server: Server;
  readonly open: ReadonlySet<Socket>;
  readonly requests: () => number;
}

async function engine(listener: RequestListener, port = 0): Promise<Engine> {
  let requests = 0;
  const server = createServer((request, response) => {
    requests++;
    listener(request, response);
  });
  const open = new Set<Socket>();
  server.on("connection", (socket) => {
    open.add(socket);
    socket.on("close", () => open.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  cleanups.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, server, open, requests: () => requests };
}

function add(store: EndpointStore, name: string, port: number): void {
  store.upsert("test", { namespace: "default", name, address: "127.0.0.1", port, labels: new Map() });
}

function endpointIn(store: EndpointStore, name: string): Endpoint {
  const endpoint = store.get(endpointName("default", name));
  if (endpoint === undefined) throw new Error(`${name} is not in the store`);
  return endpoint;
}

const plain = { insecureSkipVerify: true, caCertPath: "", clientCertPath: "", clientKeyPath: "", interval: "" };
const metricsSource = createHttpSource("metrics-data-source", "text/plain", {
  scheme: "http",
  path: "/metrics",
  ...plain,
});
const coreExtractor = createCoreMetricsExtractor({
  engineLabelKey: "engine",
  defaultEngine: "vllm",
  engineConfigs: [],
});
const coreBinding: ScrapeBinding = { source: metricsSource, extractors: [coreExtractor] };

const quick: ScrapeOptions = {
  refreshIntervalMs: 10,
  idleIntervalMs: 60_000,
  idleAfterMs: 60_000,
  timeoutMs: 1000,
  failureThreshold: 3,
  maxBackoffMs: 20,
  maxInFlight: 100,
};

interface Observed {
  readonly warnings: unknown[];
  readonly infos: unknown[];
  readonly polls: string[];
  readonly extracts: string[];
}

function scrape(
  store: EndpointStore,
  options: Partial<ScrapeOptions> = {},
  bindings: readonly ScrapeBinding[] = [coreBinding],
): { scraper: Scraper; record: Observed } {
  const record: Observed = { warnings: [], infos: [], polls: [], extracts: [] };
  const scraper = createScraper({
    store,
    bindings,
    options: { ...quick, ...options },
    counters: {
      pollFailed: (source) => record.polls.push(source),
      extractFailed: (source, extractor) => record.extracts.push(`${source}/${extractor}`),
    },
    log: {
      ...silentLogger,
      warn: (fields, message) => record.warnings.push([message, fields]),
      info: (fields, message) => record.infos.push([message, fields]),
    },
  });
  cleanups.push(() => scraper.close());
  scraper.start();
  return { scraper, record };
}

function only(scraper: Scraper): PollStatus {
  const [status] = scraper.status();
  if (status === undefined) throw new Error("nothing is polled");
  return status;
}

describe("the scraper", () => {
  it("brings the metrics of every endpoint into the store, over and over on one connection each", async () => {
    let waiting = 0;
    const { port, open } = await engine((_request, response) =>
      response.end(vllmPage({ waiting, running: 1, kvUsage: 0.5, requests: 9 })),
    );
    const store = createEndpointStore();
    for (let index = 0; index < 20; index++) add(store, `e${index}`, port);
    scrape(store);
    for (waiting = 1; waiting < 4; waiting++) {
      await until(() => store.snapshot().every((endpoint) => endpoint.metrics.waitingRequests === waiting));
    }
    expect(open.size).toBe(20);
  });

  it("has no more requests in flight than it may, and every endpoint gets its turn", async () => {
    let open = 0;
    let most = 0;
    const { port } = await engine((_request, response) => {
      most = Math.max(most, ++open);
      setImmediate(() => {
        open--;
        response.end(vllmPage({ waiting: 1, running: 1, kvUsage: 0.5, requests: 9 }));
      });
    });
    const store = createEndpointStore();
    for (let index = 0; index < 50; index++) add(store, `e${index}`, port);
    const { scraper } = scrape(store, { maxInFlight: 4 });
    await until(() => scraper.status().every(({ polls, failures }) => polls - failures >= 3));
    expect(most).toBeLessThanOrEqual(4);
    expect(most).toBeGreaterThan(1);
  });

  it("begins no more at once than takes a few milliseconds, and goes on a moment later", () => {
    jest.useFakeTimers({
      advanceTimers: false,
      doNotFake: ["nextTick", "performance", "setImmediate", "queueMicrotask"],
    });
    cleanups.push(() => void jest.useRealTimers());
    const store = createEndpointStore();
    for (let index = 0; index < 300; index++) add(store, `e${index}`, 9);
    // A clock on which every look costs a millisecond.
    let nowMs = 0;
    const scraper = createScraper({
      store,
      bindings: [coreBinding],
      options: { ...quick, refreshIntervalMs: 10_000, maxInFlight: 1_000, timeoutMs: 60_000 },
      counters: { pollFailed: () => {}, extractFailed: () => {} },
      now: () => nowMs++,
    });
    cleanups.push(() => scraper.close());
    scraper.start();
    const begun = (): number => scraper.status().reduce((sum, { polls }) => sum + polls, 0);
    jest.advanceTimersByTime(0);
    const first = begun();
    expect(first).toBeGreaterThanOrEqual(8);
    expect(first).toBeLessThanOrEqual(64);
    for (let passedMs = 0; passedMs < 300; passedMs += 10) jest.advanceTimersByTime(10);
    expect(begun()).toBeGreaterThan(200);
    // The others had a later tick of the interval.
    for (let passedMs = 0; passedMs < 10_000; passedMs += 250) {
      nowMs += 250;
      jest.advanceTimersByTime(250);
    }
    expect(begun()).toBe(300);
  });

  it("polls the others although as many as may be in flight never answer", async () => {
    const silent = await engine(() => {});
    const { port } = await engine((_request, response) =>
      response.end(vllmPage({ waiting: 1, running: 1, kvUsage: 0.5, requests: 9 })),
    );
    const store = createEndpointStore();
    for (let index = 0; index < 4; index++) add(store, `a${index}`, silent.port);
    for (let index = 0; index < 10; index++) add(store, `b${index}`, port);
    scrape(store, { maxInFlight: 4, timeoutMs: 50 });
    await until(() =>
      store.snapshot().every(({ name, metrics }) => name.includes("/a") || metrics.waitingRequests === 1),
    );
  });

  it("follows endpoints that come and go, and leaves no connection behind", async () => {
    const { port, open } = await engine((_request, response) =>
      response.end(vllmPage({ waiting: 1, running: 1, kvUsage: 0.5, requests: 9 })),
    );
    const store = createEndpointStore();
    const { scraper } = scrape(store);
    add(store, "a", port);
    add(store, "b", port);
    await until(() => store.snapshot().every((endpoint) => endpoint.metrics.waitingRequests === 1));
    store.remove("test", endpointName("default", "a"));
    await until(() => open.size === 1);
    expect(scraper.status().map(({ endpoint }) => endpoint)).toEqual(["default/b"]);
    await scraper.close();
    await until(() => open.size === 0);
    add(store, "c", port);
    scraper.noteTraffic(performance.now());
    expect(scraper.status()).toEqual([]);
  });

  it("keeps one request in flight to an engine that does not answer, gives it up in time and keeps the old values", async () => {
    let answers = true;
    const { port, requests, open } = await engine((_request, response) => {
      if (answers) response.end(vllmPage({ waiting: 7, running: 1, kvUsage: 0.5, requests: 9 }));
    });
    const store = createEndpointStore();
    add(store, "a", port);
    const { scraper, record } = scrape(store, { timeoutMs: 60 });
    await until(() => endpointIn(store, "a").metrics.waitingRequests === 7);
    answers = false;
    const before = requests();
    const updatedAtMs = endpointIn(store, "a").metrics.updatedAtMs;
    await until(() => record.polls.length >= 2);
    // Each failure is one request that nobody answered; at most the next one is on its way (and one answer may have been).
    expect(requests() - before).toBeLessThanOrEqual(record.polls.length + 2);
    expect(only(scraper).lastFailure).toBe("CANCELLED: no answer within 60 ms");
    expect(endpointIn(store, "a").metrics.waitingRequests).toBe(7);
    expect(endpointIn(store, "a").metrics.updatedAtMs - updatedAtMs).toBeLessThan(60);
    expect(open.size).toBeLessThanOrEqual(1);
  });

  it("logs an episode of failures once at its begin and once at its end", async () => {
    let status = 500;
    const { port } = await engine((_request, response) => {
      response.statusCode = status;
      response.end(vllmPage({ waiting: 2, running: 1, kvUsage: 0.5, requests: 9 }));
    });
    const store = createEndpointStore();
    add(store, "a", port);
    const { scraper, record } = scrape(store);
    await until(() => record.polls.length >= 6);
    expect(only(scraper)).toMatchObject({ isHealthy: false, lastFailure: "HTTP 500", ageMs: undefined });
    expect(record.warnings).toEqual([
      ["an endpoint cannot be scraped", { endpoint: "default/a", source: "metrics-data-source", reason: "HTTP 500" }],
    ]);
    status = 200;
    await until(() => only(scraper).isHealthy);
    expect(record.infos).toHaveLength(1);
    expect(record.warnings).toHaveLength(1);
    expect(only(scraper)).toMatchObject({ consecutiveFailures: 0, lastFailure: "HTTP 500" });
    expect(new Set(record.polls)).toEqual(new Set(["metrics-data-source"]));
  });

  it("comes back to an engine that was restarted on the same address", async () => {
    const page =
      (waiting: number): RequestListener =>
      (_request, response) =>
        void response.end(vllmPage({ waiting, running: 1, kvUsage: 0.5, requests: 9 }));
    const first = await engine(page(1));
    const store = createEndpointStore();
    add(store, "a", first.port);
    const { record } = scrape(store);
    await until(() => endpointIn(store, "a").metrics.waitingRequests === 1);
    first.server.closeAllConnections();
    await new Promise((resolve) => first.server.close(resolve));
    await until(() => record.polls.length >= 3);
    await engine(page(2), first.port);
    await until(() => endpointIn(store, "a").metrics.waitingRequests === 2);
  });

  it("follows a redirect to another path of the same server once, and keeps to it", async () => {
    const asked: (string | undefined)[] = [];
    const { port } = await engine((request, response) => {
      asked.push(request.url);
      if (request.url === "/metrics/?all=1") {
        response.end(vllmPage({ waiting: 8, running: 1, kvUsage: 0.5, requests: 9 }));
      } else response.writeHead(307, { location: `http://${request.headers.host}/metrics/?all=1` }).end();
    });
    const store = createEndpointStore();
    add(store, "a", port);
    const { record } = scrape(store);
    await until(() => asked.length >= 5);
    expect(asked.slice(0, 3)).toEqual(["/metrics", "/metrics/?all=1", "/metrics/?all=1"]);
    expect(endpointIn(store, "a").metrics.waitingRequests).toBe(8);
    expect(record.polls).toEqual([]);
  });

  it.each([
    ["to another server", "http://127.0.0.1:1/metrics"],
    ["to another scheme", "https://127.0.0.1/metrics"],
    ["in a circle", "/metrics"],
    ["to nowhere", "http://["],
  ])("counts a redirect %s as a failed poll", async (_case, location) => {
    const { port } = await engine((_request, response) => response.writeHead(302, { location }).end());
    const store = createEndpointStore();
    add(store, "a", port);
    const { scraper, record } = scrape(store);
    await until(() => record.polls.length >= 3);
    expect(only(scraper)).toMatchObject({ isHealthy: false, lastFailure: "HTTP 302" });
  });

  it("counts pages without a wanted series as extract failures and keeps scraping", async () => {
    const { port } = await engine((_request, response) => response.end("nothing 1\n"));
    const store = createEndpointStore();
    add(store, "a", port);
    const { scraper, record } = scrape(store);
    await until(() => record.extracts.length >= 4);
    expect(record.extracts[0]).toBe("metrics-data-source/core-metrics-extractor");
    expect(record.polls).toEqual([]);
    expect(only(scraper).isHealthy).toBe(false);
    expect(record.warnings).toHaveLength(1);
  });

  it("warns once of a page that lacks some series, shows which, and counts the endpoint healthy", async () => {
    const { port } = await engine((_request, response) =>
      response.end("vllm:num_requests_waiting 3\nvllm:num_requests_running 0\n"),
    );
    const store = createEndpointStore();
    add(store, "a", port);
    const { scraper, record } = scrape(store);
    await until(() => record.extracts.length >= 4);
    expect(only(scraper)).toMatchObject({ isHealthy: true, missing: ["vllm:kv_cache_usage_perc"] });
    expect(record.warnings).toHaveLength(1);
    expect(endpointIn(store, "a").metrics.waitingRequests).toBe(3);
  });

  it("isolates an extractor that throws from the others and from the loop", async () => {
    const broken: Extractor = {
      extractorType: "broken",
      open: () => ({
        read() {
          throw new Error("oops");
        },
      }),
    };
    const { port } = await engine((_request, response) =>
      response.end(vllmPage({ waiting: 4, running: 1, kvUsage: 0.5, requests: 9 })),
    );
    const store = createEndpointStore();
    add(store, "a", port);
    const { record } = scrape(store, {}, [{ source: metricsSource, extractors: [broken, coreExtractor] }]);
    await until(() => record.extracts.length >= 2);
    expect(record.extracts[0]).toBe("metrics-data-source/broken");
    expect(endpointIn(store, "a").metrics.waitingRequests).toBe(4);
  });

  it("polls several sources of an endpoint, each as slowly as it asks", async () => {
    const asked = { "/metrics": 0, "/v1/models": 0 };
    const { port } = await engine((request, response) => {
      const path = request.url === "/v1/models" ? "/v1/models" : "/metrics";
      asked[path]++;
      response.end(
        path === "/metrics"
          ? vllmPage({ waiting: 1, running: 1, kvUsage: 0.5, requests: 9 })
          : JSON.stringify({ object: "list", data: [{ id: "base" }, { id: "adapter", parent: "base" }] }),
      );
    });
    const models = createHttpSource("models-data-source", "application/json", {
      scheme: "http",
      path: "/v1/models",
      ...plain,
      interval: "1h",
    });
    const store = createEndpointStore();
    add(store, "a", port);
    scrape(store, {}, [coreBinding, { source: models, extractors: [createModelsExtractor()] }]);
    await until(() => asked["/metrics"] >= 5 && servedModels(endpointIn(store, "a")) !== undefined);
    expect(servedModels(endpointIn(store, "a"))).toEqual([
      { id: "base", parent: undefined },
      { id: "adapter", parent: "base" },
    ]);
    expect(asked["/v1/models"]).toBe(1);
  });

  it("rests when no request comes, and polls at once when one does", async () => {
    const { port, requests } = await engine((_request, response) =>
      response.end(vllmPage({ waiting: 1, running: 1, kvUsage: 0.5, requests: 9 })),
    );
    const store = createEndpointStore();
    for (let index = 0; index < 20; index++) add(store, `e${index}`, port);
    const { scraper } = scrape(store, { idleAfterMs: 40 });
    await until(() => scraper.isIdle && requests() >= 20);
    expect(scraper.intervalMs).toBe(60_000);
    const rested = requests();
    const calledAtMs = performance.now();
    scraper.noteTraffic(calledAtMs);
    expect([scraper.isIdle, scraper.intervalMs]).toEqual([false, 10]);
    await until(() => store.snapshot().every((endpoint) => endpoint.metrics.updatedAtMs > calledAtMs));
    // Woken, not just reached by the next slow round (which is a minute away). What was under way when it rested is asked again while it stays awake.
    await until(() => {
      scraper.noteTraffic(performance.now());
      return requests() >= rested + 20;
    });
  });

  it("scrapes a new endpoint soon although it is idle", async () => {
    const { port } = await engine((_request, response) =>
      response.end(vllmPage({ waiting: 1, running: 1, kvUsage: 0.5, requests: 9 })),
    );
    const store = createEndpointStore();
    const { scraper } = scrape(store, { idleAfterMs: 1 });
    await until(() => scraper.isIdle);
    add(store, "a", port);
    await until(() => endpointIn(store, "a").metrics.waitingRequests === 1);
    expect(scraper.isIdle).toBe(true);
  });

  it("does not rest while requests are in flight", async () => {
    const { port, requests } = await engine((_request, response) =>
      response.end(vllmPage({ waiting: 1, running: 1, kvUsage: 0.5, requests: 9 })),
    );
    const store = createEndpointStore();
    add(store, "a", port);
    const booking = store.book(endpointIn(store, "a"), 1);
    const { scraper } = scrape(store, { idleAfterMs: 20 });
    await until(() => requests() >= 8);
    expect(scraper.isIdle).toBe(false);
    booking.release();
    await until(() => scraper.isIdle);
  });
});

describe("the intervals of a scraper", () => {
  it.each([
    [50, 50, 1000],
    [20, 20, 400],
    [1, 10, 200],
    [5000, 5000, 5000],
  ])("for a refresh of %i ms are %i ms in traffic and %i ms when idle", (refresh, fast, idle) => {
    expect(scrapeOptions(refresh)).toMatchObject({ refreshIntervalMs: fast, idleIntervalMs: idle });
  });
});

describe("a poller", () => {
  it("waits longer after each failure past the threshold, and at once as usual after success", async () => {
    let status = 503;
    const { port, requests } = await engine((_request, response) => {
      response.statusCode = status;
      response.end(vllmPage({ waiting: 1, running: 1, kvUsage: 0.5, requests: 9 }));
    });
    const store = createEndpointStore();
    add(store, "a", port);
    const environment = {
      sink: store,
      endpoint: store.get.bind(store),
      counters: { pollFailed: () => {}, extractFailed: () => {} },
      log: silentLogger,
      now: () => 0,
      timeoutMs: 1000,
      failureThreshold: 2,
      maxBackoffMs: 60,
    };
    const source: DataSource = metricsSource;
    const poller = new Poller(endpointIn(store, "a"), source, [coreExtractor], environment, 0);
    cleanups.push(() => poller.close());
    const polledAt: number[] = [];
    for (let nowMs = 0; nowMs <= 300; nowMs += 10) {
      if (nowMs === 250) status = 200;
      const before = poller.status(nowMs).polls;
      if (poller.isDue(nowMs, 10)) poller.poll(nowMs, 10);
      const { polls } = poller.status(nowMs);
      if (polls === before) continue;
      polledAt.push(nowMs);
      await until(
        () =>
          !poller.isBusy(nowMs) &&
          requests() === polls &&
          (poller.status(0).failures === polls || poller.status(0).ageMs !== undefined),
      );
    }
    expect(polledAt).toEqual([0, 10, 30, 70, 130, 190, 250, 260, 270, 280, 290, 300]);
  });
});
