/** The prefill router's service on real sockets: Dynamo's recorded answers, engine events, the dump and who takes it over, peers, and its end. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it, jest } from "@jest/globals";
import { encode } from "@msgpack/msgpack";
import { Publisher } from "zeromq";
import { startChild } from "../../../src/app/child.ts";
import {
  type RunningService,
  type ServiceOptions,
  startPrefillRouterService,
} from "../../../src/app/prefill-router-service/start-service.ts";
import { readFleetSettings } from "../../../src/prefill-router/fleet/fleet-settings.ts";
import { defaultPendingBounds } from "../../../src/prefill-router/service/pending-selections.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { type Answer, ask, type Step } from "../../dynamo/select-steps.ts";

const recorded = JSON.parse(
  readFileSync(join(import.meta.dirname, "../../fixtures/dynamo/select-service.json"), "utf8"),
) as readonly { readonly step: Step; readonly answer: Answer }[];

jest.setTimeout(30_000);

const closing: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function start(
  options: Partial<ServiceOptions> = {},
  environment: Readonly<Record<string, string>> = {},
): Promise<{ readonly running: RunningService; readonly url: string }> {
  const { settings, faults } = readFleetSettings(environment, {});
  expect(faults).toEqual([]);
  const running = await startPrefillRouterService({
    host: "127.0.0.1",
    port: 0,
    settings,
    pending: defaultPendingBounds,
    indexerPeers: [],
    replicaPort: undefined,
    replicaPeers: [],
    log: silentLogger,
    ...options,
  });
  closing.push(() => running.close());
  return { running, url: `http://127.0.0.1:${running.port}` };
}

async function until<Value>(check: () => Promise<Value | undefined>): Promise<Value> {
  const end = performance.now() + 20_000;
  for (;;) {
    const value = await check();
    if (value !== undefined) return value;
    if (performance.now() > end) throw new Error("it took too long");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const post = (url: string, path: string, body: object): Promise<Answer> => ask(url, { method: "POST", path, body });
const get = (url: string, path: string): Promise<Answer> => ask(url, { method: "GET", path });
const drop = (url: string, path: string): Promise<Answer> => ask(url, { method: "DELETE", path });

class Engine {
  readonly #socket = new Publisher({ linger: 0 });
  #sequence = 0n;

  async open(): Promise<string> {
    await this.#socket.bind("tcp://127.0.0.1:*");
    closing.push(async () => this.#socket.close());
    return this.#socket.lastEndpoint ?? "";
  }

  async send(...events: readonly object[]): Promise<void> {
    const sequence = Buffer.alloc(8);
    sequence.writeBigUInt64BE(this.#sequence++);
    await this.#socket.send(["kv-events", sequence, encode([1, events], { useBigInt64: true })]);
  }
}

const tokens = Array.from({ length: 16 }, (_, index) => index + 1);
const stored = (
  block_hashes: readonly (number | bigint)[],
  parent: number | bigint | null,
  token_ids: number[],
  medium?: string,
) => ({
  type: "BlockStored",
  block_hashes,
  parent_block_hash: parent,
  token_ids,
  block_size: 4,
  medium: medium ?? null,
});

interface Scores {
  readonly workers: readonly {
    readonly device_blocks: number;
    readonly disk_blocks: number;
    readonly dp_rank: number;
  }[];
}

async function scoresOf(url: string, model = "default"): Promise<Scores> {
  return (await post(url, "/overlap_scores", { model_name: model, token_ids: tokens })).body as Scores;
}

/** A worker whose engine was heard. */
async function heardWorker(url: string, members: object = {}): Promise<Engine> {
  const engine = new Engine();
  const kv_events_endpoint = await engine.open();
  const worker = { worker_id: 1, endpoint: "http://b", block_size: 4, kv_events_endpoint, ...members };
  expect((await post(url, "/workers", worker)).status).toBe(201);
  await until(async () => {
    await engine.send(stored([1, 2n ** 63n + 3n], null, tokens.slice(0, 8)));
    return (await scoresOf(url)).workers[0]?.device_blocks === 2 ? true : undefined;
  });
  return engine;
}

describe("the prefill router's service", () => {
  it("answers as Dynamo's select service was recorded to", async () => {
    const { url } = await start();
    for (const [index, { step, answer }] of recorded.entries()) {
      expect({ index, step, answer: await ask(url, step) }).toEqual({ index, step, answer });
    }
    expect(recorded.length).toBeGreaterThan(120);
  });

  it("hears engines, counts the tiers on and says again what it was told", async () => {
    const { url } = await start();
    const engine = await heardWorker(url, { data_parallel_start_rank: 3 });
    await engine.send(
      stored([7], 2n ** 63n + 3n, tokens.slice(8, 12), "CPU"),
      stored([8], 7, tokens.slice(12), "DISK"),
    );
    const { workers } = await until(async () => {
      const scores = await scoresOf(url);
      return scores.workers[0]?.disk_blocks === 4 ? scores : undefined;
    });
    // The batches name no rank: they speak for the one the endpoint was registered for.
    expect(workers).toMatchObject([{ dp_rank: 3, device_blocks: 2, host_pinned_blocks: 3, disk_blocks: 4 }]);
    const selected = await post(url, "/select", { token_ids: tokens });
    expect(selected.body).toMatchObject({
      overlap: { longest_matched: 16, gpu: 8, dp: { 3: 8 }, cpu: 12, disk: 16 },
      effective_prefill_tokens: 4,
    });
    const dump = (await get(url, "/dump")).body as Record<string, { events: readonly unknown[] }>;
    const events = dump["default:default"]?.events;
    expect(events).toMatchObject([
      {
        worker_id: 1,
        storage_tier: "device",
        event: {
          event_id: 0,
          dp_rank: 3,
          data: { stored: { parent_hash: null, blocks: [{ block_hash: 1 }, { block_hash: "9223372036854775811" }] } },
        },
      },
      { storage_tier: "host_pinned", event: { data: { stored: { parent_hash: "9223372036854775811" } } } },
      { storage_tier: "disk", event: { data: { stored: { parent_hash: 7, blocks: [{ block_hash: 8 }] } } } },
    ]);
    await engine.send({ type: "BlockRemoved", block_hashes: [2n ** 63n + 3n] });
    await until(async () => ((await scoresOf(url)).workers[0]?.device_blocks === 1 ? true : undefined));
    expect(JSON.stringify((await get(url, "/dump")).body)).not.toContain('"block_hash":"9223372036854775811"');
  });

  it("starts with a peer's blocks, which the worker's own events then continue", async () => {
    const first = await start();
    const engine = await heardWorker(first.url);
    const second = await start({ indexerPeers: ["http://127.0.0.1:9", first.url] });
    const workers = (await get(first.url, "/workers")).body as { readonly kv_events_endpoint: string }[];
    const kv_events_endpoint = workers[0]?.kv_events_endpoint;
    await post(second.url, "/workers", { worker_id: 1, endpoint: "http://b", block_size: 4, kv_events_endpoint });
    expect((await scoresOf(second.url)).workers[0]).toMatchObject({ device_blocks: 2 });
    // It says no more than what comes after: only who took the first two over knows what it continues.
    await until(async () => {
      await engine.send(stored([9], 2n ** 63n + 3n, tokens.slice(8, 12)));
      return (await scoresOf(second.url)).workers[0]?.device_blocks === 3 ? true : undefined;
    });
    const third = await start({ indexerPeers: [first.url] });
    expect((await get(third.url, "/loads")).body).toEqual([]);
    const eagle = { worker_id: 1, endpoint: "http://b", block_size: 4, is_eagle: true, kv_events_endpoint };
    expect((await post(third.url, "/workers", eagle)).body).toMatchObject({ lifecycle: "schedulable" });
    await drop(third.url, "/workers/1");
    expect((await post(third.url, "/workers", { ...eagle, block_size: 8 })).body).toMatchObject({
      not_schedulable_reasons: [expect.stringContaining("block_size mismatch")],
    });
    await drop(second.url, "/workers/1");
    expect((await get(second.url, "/dump")).body).toEqual({ "default:default": { block_size: 4, events: [] } });
  });

  it("tells its peers what is booked, and ends what they booked", async () => {
    const first = await start({ replicaPort: 0 });
    const second = await start({ replicaPort: 0, replicaPeers: [`tcp://127.0.0.1:${first.running.replicaPort}`] });
    const endpoint = `tcp://127.0.0.1:${second.running.replicaPort}`;
    expect((await post(first.url, "/replica_sync/register_peer", { endpoint })).status).toBe(201);
    expect((await post(first.url, "/replica_sync/register_peer", { endpoint })).status).toBe(200);
    expect((await get(first.url, "/replica_sync/peers")).body).toEqual([endpoint]);
    expect((await post(first.url, "/replica_sync/register_peer", { endpoint: "x" })).status).toBe(400);
    const worker = { worker_id: 1, endpoint: "http://b", block_size: 4, kv_events_endpoint: "tcp://127.0.0.1:9" };
    for (const { url } of [first, second]) await post(url, "/workers", worker);
    const loadsOf = async (url: string): Promise<unknown> =>
      ((await get(url, "/loads")).body as readonly { readonly loads: readonly unknown[] }[])[0]?.loads[0];
    const loads = (requests: number, tokensLeft: number, blocks: number) => ({
      active_requests: requests,
      potential_prefill_tokens: tokensLeft,
      potential_decode_blocks: blocks,
    });
    const agree = (expected: object): Promise<true> =>
      until(async () => {
        const both = await Promise.all([loadsOf(first.url), loadsOf(second.url)]);
        try {
          for (const load of both) expect(load).toMatchObject(expected);
          return true;
        } catch {
          return undefined;
        }
      });
    let ids = 0;
    // The sockets connect in their own time: what is booked before that is never heard of.
    const id = await until(async () => {
      const selection_id = `a${ids++}`;
      await post(first.url, "/select_and_reserve", { token_ids: tokens, selection_id });
      await new Promise((resolve) => setTimeout(resolve, 20));
      if ((await post(second.url, `/reservations/${selection_id}/output_block`, {})).status === 200)
        return selection_id;
      await drop(first.url, `/reservations/${selection_id}`);
      return undefined;
    });
    await agree({ active_requests: 1, potential_prefill_tokens: 16 });
    expect((await post(second.url, "/select_and_reserve", { token_ids: tokens, selection_id: id })).status).toBe(409);
    await post(first.url, `/reservations/${id}/prefill_complete`, {});
    await agree({ active_requests: 1, potential_prefill_tokens: 0 });
    await drop(first.url, `/reservations/${id}`);
    await agree(loads(0, 0, 0));
    expect((await drop(second.url, `/reservations/${id}`)).status).toBe(404);
    // Who did not book it may advance and end it too.
    await post(first.url, "/select_and_reserve", { token_ids: tokens, selection_id: "other" });
    await agree({ active_requests: 1, potential_prefill_tokens: 16 });
    await post(second.url, "/reservations/other/prefill_complete", {});
    await agree({ active_requests: 1, potential_prefill_tokens: 0 });
    await drop(second.url, "/reservations/other");
    await agree(loads(0, 0, 0));
    expect((await drop(first.url, "/reservations/other")).status).toBe(404);
    // A service that stops ends nothing: its requests run on, and who asks a peer may end them.
    await post(second.url, "/select_and_reserve", { token_ids: tokens, selection_id: "last" });
    await agree({ active_requests: 1 });
    await second.running.close();
    await post(first.url, "/reservations/last/output_block", {});
    expect(await loadsOf(first.url)).toMatchObject({ active_requests: 1, potential_decode_blocks: 5 });
    expect((await drop(first.url, "/reservations/last")).status).toBe(200);
    expect((await post(first.url, "/replica_sync/deregister_peer", { endpoint })).status).toBe(200);
    expect((await post(first.url, "/replica_sync/deregister_peer", { endpoint })).status).toBe(404);
  });

  it("holds a request while every worker is busy, and lets it go with its client", async () => {
    const { url } = await start({}, { DYN_ROUTER_QUEUE_THRESHOLD: "0.1" });
    const worker = { worker_id: 1, endpoint: "http://b", block_size: 4, kv_events_endpoint: "tcp://127.0.0.1:9" };
    expect((await post(url, "/workers", worker)).body).toMatchObject({
      lifecycle: "incomplete",
      not_schedulable_reasons: ["max_num_batched_tokens is required while queueing is enabled"],
    });
    await post(url, "/workers", { ...worker, max_num_batched_tokens: 100 });
    await post(url, "/select_and_reserve", { token_ids: tokens, selection_id: "first" });
    const pendingCount = async (): Promise<number> =>
      ((await get(url, "/loads")).body as readonly { readonly pending_count: number }[])[0]?.pending_count ?? -1;
    const waits = post(url, "/select_and_reserve", { token_ids: tokens, selection_id: "second" });
    const gone = new AbortController();
    const body = JSON.stringify({ token_ids: tokens, selection_id: "third" });
    const headers = { "content-type": "application/json" };
    const leaves = fetch(`${url}/select_and_reserve`, { method: "POST", headers, body, signal: gone.signal });
    await until(async () => ((await pendingCount()) === 2 ? true : undefined));
    gone.abort();
    await expect(leaves).rejects.toThrow();
    await until(async () => ((await pendingCount()) === 1 ? true : undefined));
    // An advisory selection stands outside the queue.
    expect((await post(url, "/select", { token_ids: tokens, advisory: true })).body).toMatchObject({
      worker_load: { active_prefill_tokens: 16, prefill_token_capacity: 100 },
    });
    await drop(url, "/reservations/first");
    expect((await waits).status).toBe(200);
    expect((await drop(url, "/reservations/third")).status).toBe(404);
  });

  it("keeps a session where it was served", async () => {
    const { url } = await start({}, { DYN_ROUTER_SESSION_AFFINITY_TTL_SECS: "60" });
    for (const worker_id of [1, 2]) {
      const kv_events_endpoint = "tcp://127.0.0.1:9";
      await post(url, "/workers", { worker_id, endpoint: "http://b", block_size: 4, kv_events_endpoint });
    }
    const served = await post(url, "/select_and_reserve", { token_ids: tokens, session_id: "s", selection_id: "a" });
    const { worker_id } = served.body as { readonly worker_id: number };
    for (let turn = 0; turn < 4; turn++) {
      const next = { token_ids: tokens, session_id: "s", selection_id: `b${turn}` };
      expect((await post(url, "/select_and_reserve", next)).body).toMatchObject({ worker_id });
    }
    const query = await post(url, "/select", { token_ids: tokens, session_id: "s", selection_id: "later" });
    expect(query.body).toMatchObject({ worker_id });
    expect((await post(url, "/reservations", { selection_id: "later" })).body).toMatchObject({ worker_id });
  });

  it("plans both legs where workers say which stage they do", async () => {
    const { url } = await start();
    for (const [worker_id, worker_type] of [
      [1, "prefill"],
      [2, "decode"],
    ] as const) {
      const kv_events_endpoint = "tcp://127.0.0.1:9";
      const endpoint = `http://${worker_type}`;
      await post(url, "/workers", { worker_id, worker_type, endpoint, block_size: 4, kv_events_endpoint });
    }
    const planned = await post(url, "/select", { token_ids: tokens, selection_id: "both" });
    expect(planned.body).toMatchObject({
      worker_id: 2,
      endpoint: "http://decode",
      prefill: { worker_id: 1, endpoint: "http://prefill", effective_prefill_tokens: 16 },
    });
    expect((await post(url, "/reservations", { selection_id: "both" })).status).toBe(201);
    const { loads } = ((await get(url, "/loads")).body as readonly { readonly loads: readonly object[] }[])[0] ?? {
      loads: [],
    };
    expect(loads).toMatchObject([
      { worker_id: 2, potential_prefill_tokens: 0, potential_decode_blocks: 4 },
      { worker_id: 1, potential_prefill_tokens: 16 },
    ]);
  });

  it("counts in /metrics and refuses a body that is too long", async () => {
    const { url } = await start();
    expect((await post(url, "/select", { token_ids: Array.from({ length: 3_000_000 }, () => 111) })).status).toBe(413);
    await get(url, "/health");
    const metrics = await get(url, "/metrics");
    expect(metrics.contentType).toContain("version=0.0.4");
    expect(metrics.body).toContain('signalbox_prefill_router_requests_total{route="/health",status="200"} 1');
  });

  it("is a command that serves until it is told to stop", async () => {
    const folder = mkdtempSync(join(tmpdir(), "signalbox-key-"));
    const key = join(folder, "key");
    writeFileSync(key, Buffer.alloc(32, 7));
    closing.push(() => rm(folder, { recursive: true }));
    const child = await startChild({
      command: "prefill-router",
      args: [
        "--host=127.0.0.1",
        "--port=0",
        "--log-format=json",
        "--session-affinity-ttl-secs=10",
        "--router-tracking-hash=keyed-xxh3-v1",
        `--router-tracking-key-file=${key}`,
        "--router-tracking-key-id=epoch-1",
      ],
      readyWhen: (line) =>
        line.includes("the prefill router serves") ? (JSON.parse(line) as { readonly port: number }) : undefined,
    });
    closing.push(() => child.close());
    expect(await get(`http://127.0.0.1:${child.ready.port}`, "/health")).toMatchObject({ status: 200 });
    child.signal("SIGTERM");
    expect(await child.exited).toBe(0);
  });

  it.each<[readonly string[], Readonly<Record<string, string>>, string]>([
    [["--replica-sync-peers=tcp://a:1"], {}, "requires --replica-sync-port"],
    [["--router-tracking-hash=keyed-xxh3-v1"], {}, "key"],
    [["--no-such-flag"], {}, "unknown flag"],
    [
      [],
      { DYN_SHARED_CACHE_TYPE: "hicache" },
      "sharedCacheType hicache is supported for workers that Dynamo registers",
    ],
  ])("says what is wrong with %j and %j, and ends with 2", (args, environment, says) => {
    const ended = spawnSync("bin/signalbox", ["prefill-router", ...args], {
      encoding: "utf8",
      timeout: 10_000,
      env: { ...process.env, ...environment },
    });
    expect(ended.status).toBe(2);
    expect(ended.stderr).toContain(says);
  });
});
