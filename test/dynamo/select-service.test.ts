/**
 * Our service beside Dynamo's own select service: the same requests, the same engine events, the same answers. RECORD=1 keeps Dynamo's answers as the
 * fixture that the tests without Dynamo compare with.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { encode } from "@msgpack/msgpack";
import { Publisher } from "zeromq";
import {
  type RunningService,
  type ServiceOptions,
  startPrefillRouterService,
} from "../../src/app/prefill-router-service/start-service.ts";
import { readFleetSettings } from "../../src/prefill-router/fleet/fleet-settings.ts";
import { defaultPendingBounds } from "../../src/prefill-router/service/pending-selections.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import { freePorts } from "./ports.ts";
import { type Answer, ask, bookingSteps, type Step, wrongSteps } from "./select-steps.ts";
import { type DynamoService, startDynamoService } from "./services.ts";

const fixture = join(import.meta.dirname, "../fixtures/dynamo/select-service.json");
/** Nobody listens there. */
const noEngine = "tcp://127.0.0.1:9";

async function startOurs(
  environment: Readonly<Record<string, string>> = {},
  options: Partial<ServiceOptions> = {},
): Promise<RunningService> {
  return await startPrefillRouterService({
    host: "127.0.0.1",
    port: 0,
    settings: readFleetSettings(environment, {}).settings,
    pending: defaultPendingBounds,
    indexerPeers: [],
    replicaPort: undefined,
    replicaPeers: [],
    log: silentLogger,
    ...options,
  });
}

describe("the service beside Dynamo's select service", () => {
  let theirs: DynamoService;
  let ours: RunningService;
  let ourUrl: string;

  beforeAll(async () => {
    theirs = await startDynamoService("select_service");
    ours = await startOurs();
    ourUrl = `http://127.0.0.1:${ours.port}`;
  });
  afterAll(async () => {
    await ours?.close();
    await theirs?.close();
  });

  it("answers every step as it does", async () => {
    const steps: readonly Step[] = [...wrongSteps(noEngine), ...bookingSteps(noEngine)];
    const recorded: { readonly step: Step; readonly answer: Answer }[] = [];
    const differences: unknown[] = [];
    for (const [index, step] of steps.entries()) {
      const expected = await ask(theirs.url, step);
      const answer = await ask(ourUrl, step);
      recorded.push({ step, answer: expected });
      try {
        expect(answer).toEqual(expected);
      } catch {
        differences.push({ index, step, answer, expected });
      }
    }
    if (process.env["RECORD"] === "1") writeFileSync(fixture, `${JSON.stringify(recorded, null, 1)}\n`);
    expect(differences).toEqual([]);
  });

  it("chooses as it does over random books and blocks", async () => {
    const pair = new RandomPair(theirs.url, ourUrl);
    await pair.start();
    try {
      for (let turn = 0; turn < 300; turn++) await pair.turn();
      expect(pair.chosen).toBeGreaterThan(100);
      expect(pair.tied).toBeLessThan(pair.chosen / 4);
    } finally {
      await pair.close();
    }
  });
});

/** Starts both with the same settings; `flags` are theirs, for ours said as options. */
async function startBoth(
  environment: Readonly<Record<string, string>>,
  flags: readonly string[] = [],
  options: Partial<ServiceOptions> = {},
) {
  const theirs = await startDynamoService("select_service", flags, environment);
  const ours = await startOurs(environment, options).catch(async (error: unknown) => {
    await theirs.close();
    throw error;
  });
  return {
    theirs: theirs.url,
    ours: `http://127.0.0.1:${ours.port}`,
    running: ours,
    async close() {
      await ours.close();
      await theirs.close();
    },
  };
}

const prompt = Array.from({ length: 18 }, (_, index) => index + 1);
const plainWorker = { worker_id: 1, endpoint: "http://b", block_size: 4, kv_events_endpoint: noEngine };
const post = (path: string, body: object): Step => ({ method: "POST", path, body });

async function both(pair: { readonly theirs: string; readonly ours: string }, steps: readonly Step[]): Promise<void> {
  for (const step of steps) {
    const expected = await ask(pair.theirs, step);
    expect({ step, answer: await ask(pair.ours, step) }).toEqual({ step, answer: expected });
  }
}

describe("the service beside Dynamo's, with other settings", () => {
  it.each([
    ["without events", { DYN_ROUTER_USE_KV_EVENTS: "false" }],
    ["with predictions", { DYN_ROUTER_PREDICTED_TTL_SECS: "60" }],
    [
      "with busy thresholds",
      {
        DYN_ROUTER_CONDITIONAL_DISAGG_PREFILL_BUSY_THRESHOLD: "0.3",
        DYN_ROUTER_CONDITIONAL_DISAGG_DECODE_BUSY_THRESHOLD: "0.5",
      },
    ],
    ["without prefill tokens", { DYN_ROUTER_TRACK_PREFILL_TOKENS: "false" }],
    ["without overlap credit", { DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT: "0" }],
    ["with a queue", { DYN_ROUTER_QUEUE_THRESHOLD: "10" }],
  ])("answers as it does %s", async (_, environment) => {
    const pair = await startBoth(environment);
    try {
      await both(pair, [
        post("/workers", { ...plainWorker, kv_events_endpoint: null }),
        post("/workers", { ...plainWorker, total_kv_blocks: 10 }),
        post("/workers", { ...plainWorker, total_kv_blocks: 10, max_num_batched_tokens: 40 }),
        post("/select", { token_ids: prompt, advisory: true }),
        post("/select_and_reserve", { token_ids: prompt, selection_id: "a" }),
        post("/select_and_reserve", { token_ids: prompt, selection_id: "b" }),
        post("/select", { token_ids: prompt, selection_id: "c" }),
        post("/reservations", { selection_id: "c" }),
        post("/select", { token_ids: prompt, advisory: true }),
        post("/select", { token_ids: [...prompt, 1, 2, 3, 4], advisory: true }),
        post("/potential_loads", { token_ids: prompt }),
        post("/overlap_scores", { token_ids: prompt }),
        { method: "GET", path: "/loads" },
        { method: "DELETE", path: "/reservations/a" },
        { method: "GET", path: "/loads" },
      ]);
    } finally {
      await pair.close();
    }
  });

  it("counts running blocks by the same keyed hashes", async () => {
    const directory = mkdtempSync(join(tmpdir(), "signalbox-key-"));
    const file = join(directory, "key");
    writeFileSync(file, Buffer.from(Array.from({ length: 32 }, (_, index) => 7 * index)));
    const environment = {
      DYN_ROUTER_TRACKING_HASH: "keyed-xxh3-v1",
      DYN_ROUTER_TRACKING_KEY_FILE: file,
      DYN_ROUTER_TRACKING_KEY_ID: "epoch-1",
    };
    expect(readFleetSettings(environment, {}).faults).toEqual([]);
    const pair = await startBoth(environment);
    try {
      const block_mm_infos = [
        null,
        {
          mm_objects: [
            { mm_hash: 42, offsets: [[0, 1]] },
            { mm_hash: 7, offsets: [[2, 3]] },
          ],
        },
      ];
      await both(pair, [
        post("/workers", plainWorker),
        post("/select_and_reserve", { token_ids: prompt, selection_id: "a" }),
        post("/select_and_reserve", { token_ids: prompt, selection_id: "b", lora_name: "l", cache_salt: "täglich" }),
        post("/select_and_reserve", { token_ids: prompt, selection_id: "c", is_eagle: true }),
        post("/select_and_reserve", { token_ids: prompt, selection_id: "d", block_mm_infos }),
        { method: "GET", path: "/loads" },
      ]);
    } finally {
      await pair.close();
      rmSync(directory, { recursive: true });
    }
  });

  it("shares its bookings with it, both ways", async () => {
    const port = await freePorts(2);
    const flags = [`--replica-sync-port=${port}`, `--replica-sync-peers=tcp://127.0.0.1:${port + 1}`];
    const pair = await startBoth({}, flags, { replicaPort: port + 1, replicaPeers: [`tcp://127.0.0.1:${port}`] });
    try {
      await both(pair, [post("/workers", { ...plainWorker, model_name: "default" })]);
      const loadOf = async (url: string): Promise<unknown> =>
        (
          (await ask(url, { method: "GET", path: "/loads" })).body as readonly { readonly loads: readonly object[] }[]
        )[0]?.loads;
      let ids = 0;
      // Until the sockets of that way are connected nothing is heard.
      const heardBooking = (from: string, to: string): Promise<string> =>
        until(async () => {
          const selection_id = `b${ids++}`;
          await ask(from, post("/select_and_reserve", { token_ids: prompt, selection_id }));
          await new Promise((resolve) => setTimeout(resolve, 50));
          const output = await ask(to, post(`/reservations/${selection_id}/output_block`, {}));
          if (output.status === 200) return selection_id;
          await ask(from, { method: "DELETE", path: `/reservations/${selection_id}` });
          return undefined;
        });
      for (const [from, to] of [
        [pair.theirs, pair.ours],
        [pair.ours, pair.theirs],
      ] as const) {
        await ask(from, { method: "DELETE", path: `/reservations/${await heardBooking(from, to)}` });
      }
      for (const [from, to] of [
        [pair.theirs, pair.ours],
        [pair.ours, pair.theirs],
      ] as const) {
        const id = await heardBooking(from, to);
        await ask(from, post(`/reservations/${id}/output_block`, {}));
        const agreed = async (expected: object): Promise<unknown> =>
          await until(async () => {
            const loads = [await loadOf(from), await loadOf(to)];
            const wanted = [expect.objectContaining(expected)];
            try {
              expect(loads).toEqual([wanted, wanted]);
              return true;
            } catch {
              return undefined;
            }
          });
        await agreed({ active_requests: 1, potential_prefill_tokens: 18, potential_decode_blocks: 5 });
        await ask(from, post(`/reservations/${id}/prefill_complete`, {}));
        await agreed({ active_requests: 1, potential_prefill_tokens: 0 });
        // Who did not book it may end it too.
        await ask(to, { method: "DELETE", path: `/reservations/${id}` });
        await agreed({ active_requests: 0, potential_decode_blocks: 0 });
      }
    } finally {
      await pair.close();
    }
  });
});

async function until<Value>(check: () => Promise<Value | undefined>): Promise<Value> {
  const end = performance.now() + 15_000;
  for (;;) {
    const value = await check();
    if (value !== undefined) return value;
    if (performance.now() > end) throw new Error("it took too long");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const blockSize = 4;
const ids = [3, 5, 8, 13];

interface Load {
  readonly worker_id: number;
  readonly potential_prefill_tokens: number;
  readonly potential_decode_blocks: number;
}

/** Both services with the same workers; what one books at its choice, the other books on the same worker. */
class RandomPair {
  chosen = 0;
  tied = 0;
  readonly #theirs: string;
  readonly #ours: string;
  readonly #engines = new Map<number, { readonly socket: Publisher; sequence: number }>();
  /** An engine names a block by all tokens up to its end. */
  readonly #hashes = new Map<string, number>();
  readonly #open: string[] = [];
  readonly #prompts: number[][] = [];
  #state = 12345;
  #nextId = 0;

  constructor(theirs: string, ours: string) {
    this.#theirs = theirs;
    this.#ours = ours;
  }

  async start(): Promise<void> {
    for (const worker_id of ids) {
      const socket = new Publisher({ linger: 0 });
      await socket.bind("tcp://127.0.0.1:*");
      this.#engines.set(worker_id, { socket, sequence: 0 });
      const members = { model_name: "random", endpoint: `http://${worker_id}`, block_size: blockSize };
      await this.#both("POST", "/workers", { worker_id, ...members, kv_events_endpoint: socket.lastEndpoint });
    }
    for (let prompt = 0; prompt < 12; prompt++) {
      const length = blockSize * (2 + this.#random(20)) + this.#random(blockSize);
      const prefix = prompt % 3 === 0 ? [] : (this.#prompts[prompt - 1] ?? []).slice(0, 2 * blockSize);
      this.#prompts.push([...prefix, ...Array.from({ length }, () => this.#random(1000))]);
    }
    for (const worker_id of ids) await this.#heard(worker_id);
  }

  /** Selects, or books, or tells of blocks, or ends a booking: compared each time. */
  async turn(): Promise<void> {
    const what = this.#random(10);
    if (what < 2) await this.#store(ids[this.#random(ids.length)] ?? 0, this.#prompt());
    else if (what < 5) await this.#end();
    else await this.#book();
  }

  async close(): Promise<void> {
    for (const worker_id of ids) await this.#both("DELETE", `/workers/${worker_id}`);
    for (const { socket } of this.#engines.values()) socket.close();
  }

  async #book(): Promise<void> {
    const prompt = { model_name: "random", token_ids: this.#prompt() };
    const id = `b${this.#nextId++}`;
    const loads = await this.#both<Load[]>("POST", "/potential_loads", prompt);
    const expected = await this.#ask<{ worker_id: number }>(this.#theirs, "POST", "/select", prompt);
    const chosen = await this.#ask<{ worker_id: number }>(this.#ours, "POST", "/select", prompt);
    this.chosen += 1;
    if (chosen.worker_id === expected.worker_id) expect(chosen).toEqual(expected);
    else {
      this.tied += 1;
      expect(costOf(loads, chosen.worker_id)).toBe(costOf(loads, expected.worker_id));
    }
    const pinned_worker = { worker_id: expected.worker_id, dp_rank: 0 };
    await this.#both("POST", "/select_and_reserve", { ...prompt, pinned_worker, selection_id: id });
    this.#open.push(id);
  }

  async #end(): Promise<void> {
    const at = this.#random(Math.max(1, this.#open.length));
    const id = this.#open[at];
    if (id === undefined) return;
    const what = this.#random(3);
    if (what === 0) await this.#both("POST", `/reservations/${id}/prefill_complete`);
    else if (what === 1) await this.#both("POST", `/reservations/${id}/output_block`, {});
    else {
      this.#open.splice(at, 1);
      await this.#both("DELETE", `/reservations/${id}`);
    }
    await this.#both("GET", "/loads?model_name=random");
  }

  /** A beginning of the prompt, in the worker's device memory; waits until both have heard of it. */
  async #store(worker_id: number, prompt: readonly number[]): Promise<void> {
    const blocks = 1 + this.#random(Math.floor(prompt.length / blockSize));
    await this.#send(worker_id, prompt.slice(0, blocks * blockSize));
    const query = { model_name: "random", token_ids: prompt };
    await this.#agreed(() => this.#both("POST", "/overlap_scores", query), worker_id, blocks);
  }

  /** Sockets connect in their own time: tells of a block until both know it. */
  async #heard(worker_id: number): Promise<void> {
    const marker = [90_000 + worker_id, 1, 2, 3];
    for (const url of [this.#theirs, this.#ours]) {
      const end = performance.now() + 10_000;
      for (;;) {
        await this.#send(worker_id, marker);
        const query = { model_name: "random", token_ids: marker };
        const scores = await this.#ask<Scores>(url, "POST", "/overlap_scores", query);
        if (devicesOf(scores, worker_id) === 1) break;
        if (performance.now() > end) throw new Error(`${url} hears nothing of worker ${worker_id}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  async #agreed(scoresOf: () => Promise<unknown>, worker_id: number, blocks: number): Promise<void> {
    const end = performance.now() + 20_000;
    for (;;) {
      try {
        const scores = (await scoresOf()) as Scores;
        expect(devicesOf(scores, worker_id)).toBeGreaterThanOrEqual(blocks);
        return;
      } catch (error) {
        if (performance.now() > end) throw error;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  }

  async #send(worker_id: number, token_ids: readonly number[]): Promise<void> {
    const engine = this.#engines.get(worker_id);
    if (engine === undefined) throw new Error("no such engine");
    const block_hashes = Array.from({ length: token_ids.length / blockSize }, (_, block) =>
      this.#hashOf(token_ids.slice(0, (block + 1) * blockSize)),
    );
    const event = { type: "BlockStored", block_hashes, parent_block_hash: null, token_ids, block_size: blockSize };
    const sequence = Buffer.alloc(8);
    sequence.writeBigUInt64BE(BigInt(engine.sequence++));
    await engine.socket.send(["", sequence, encode([1, [event], 0])]);
  }

  #hashOf(token_ids: readonly number[]): number {
    const key = token_ids.join(" ");
    const hash = this.#hashes.get(key) ?? this.#hashes.size + 1;
    this.#hashes.set(key, hash);
    return hash;
  }

  async #both<Body>(method: string, path: string, body?: object): Promise<Body> {
    const expected = await ask(this.#theirs, { method, path, ...(body === undefined ? {} : { body }) });
    const answer = await ask(this.#ours, { method, path, ...(body === undefined ? {} : { body }) });
    expect(sorted(answer)).toEqual(sorted(expected));
    return expected.body as Body;
  }

  async #ask<Body>(url: string, method: string, path: string, body: object): Promise<Body> {
    return (await ask(url, { method, path, body })).body as Body;
  }

  #prompt(): number[] {
    return this.#prompts[this.#random(this.#prompts.length)] ?? [];
  }

  #random(below: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 0x1_0000_0000) * below);
  }
}

interface Scores {
  readonly workers: readonly { readonly worker_id: number; readonly device_blocks: number }[];
}

function devicesOf({ workers }: Scores, workerId: number): number {
  return workers.find((worker) => worker.worker_id === workerId)?.device_blocks ?? 0;
}

/** Dynamo's cost at its defaults, where only device blocks are cached. */
function costOf(loads: readonly Load[], workerId: number): number {
  const load = loads.find(({ worker_id }) => worker_id === workerId);
  return (load?.potential_prefill_tokens ?? 0) / blockSize + (load?.potential_decode_blocks ?? 0);
}

/** Loads come in no order. */
function sorted(answer: Answer): Answer {
  const order = (value: unknown): unknown => {
    if (!Array.isArray(value)) return value;
    const items: readonly unknown[] = value;
    return items
      .map((item) => (isLoads(item) ? { ...item, loads: order(item.loads) } : item))
      .sort((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)));
  };
  return { ...answer, body: order(answer.body) };
}

function isLoads(value: unknown): value is { readonly loads: unknown } {
  return typeof value === "object" && value !== null && "loads" in value;
}
