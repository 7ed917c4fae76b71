/**
 * The router over raw engines beside Dynamo's select service, which Dynamo's picker is in this mode: each takes the other's index over when it starts,
 * and then says the same of a prompt from the same engine's events.
 */
import { afterEach, describe, expect, it } from "@jest/globals";
import { createEndpointStore } from "../../src/data/endpoint-store.ts";
import { createListedPeers } from "../../src/data/peers/peer-addresses.ts";
import { instanceIdOfPod } from "../../src/dynamo/instance-id.ts";
import { readFleetSettings } from "../../src/prefill-router/fleet/fleet-settings.ts";
import { EndpointRoutes } from "../../src/prefill-router/standalone/endpoint-routes.ts";
import { type RunningWorker, startWorker } from "../../src/sim/worker/start-worker.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import { eventually } from "../stack.ts";
import { freePorts } from "./ports.ts";
import { type DynamoService, startDynamoService } from "./services.ts";

const open: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

const blockSize = 16;
const pod = "engine-0";
const workerId = instanceIdOfPod(pod);
/** 640 bytes, a token each, and what the chat adds. */
const story = (topic: string): string => `${topic}: `.padEnd(640, "once upon a time ");

async function startEngine(): Promise<RunningWorker> {
  const engine = await startWorker({
    host: "127.0.0.1",
    port: 0,
    timeScale: 100,
    numGpuBlocks: 256,
    servedModelNames: ["m"],
    kvEventsEndpoint: "tcp://127.0.0.1:0",
  });
  open.push(() => engine.close());
  return engine;
}

const completion = (engine: RunningWorker, path: string, prompt: string): Promise<Response> =>
  fetch(`${engine.url}${path}`, { method: "POST", body: JSON.stringify({ model: "m", prompt, max_tokens: 1 }) });

async function compute(engine: RunningWorker, prompt: string): Promise<void> {
  const response = await completion(engine, "/v1/completions", prompt);
  await response.arrayBuffer();
  expect(response.status).toBe(200);
}

async function tokensOf(engine: RunningWorker, prompt: string): Promise<readonly number[]> {
  const rendered: unknown = await (await completion(engine, "/v1/completions/render", prompt)).json();
  const [first] = rendered as readonly [{ readonly token_ids: readonly number[] }];
  return first.token_ids;
}

interface Ours {
  readonly routes: EndpointRoutes;
  /** Where its index is asked for. */
  readonly url: string;
  blocks(): number;
  recovery(): unknown;
}

async function startOurs(engine: RunningWorker, indexUrls: readonly string[]): Promise<Ours> {
  const store = createEndpointStore();
  const labels = new Map([["signalbox/kv-events-port", engine.kvEventsEndpoint?.split(":").at(-1) ?? ""]]);
  store.upsert("test", { namespace: "default", name: pod, address: "127.0.0.1", port: engine.port, labels });
  store.markSynced();
  const { settings } = readFleetSettings({}, {});
  const port = await freePorts(2);
  const routes = new EndpointRoutes({
    endpoints: store,
    engines: { modelName: "m", blockSizeTokens: blockSize, kvEventPort: 5557 },
    settings,
    tokenizer: undefined,
    peers: { source: createListedPeers({ names: [] }), port, index: { port: port + 1, urls: indexUrls } },
    log: silentLogger,
    now: () => performance.now(),
    random: Math.random,
    observersOf: () => [],
  });
  open.push(() => routes.close());
  routes.begin();
  await eventually("our router is ready", () => Promise.resolve(routes.isReady));
  const set = () => (routes.state()["sets"] as readonly [Readonly<Record<string, unknown>>])[0];
  return {
    routes,
    url: `http://127.0.0.1:${port + 1}`,
    blocks: () => (set()["index"] as { readonly heldBlocks: number }).heldBlocks,
    recovery: () => (set()["sharedIndex"] as { readonly recovery: string }).recovery,
  };
}

async function post(service: DynamoService, path: string, body: string): Promise<unknown> {
  const response = await fetch(`${service.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  const answer: unknown = await response.json();
  expect([path, response.status, answer]).toEqual([path, expect.any(Number), expect.anything()]);
  expect(response.status).toBeLessThan(300);
  return answer;
}

/** In text, for the id is larger than a number's precision. */
const register = (service: DynamoService, engine: RunningWorker): Promise<unknown> =>
  post(
    service,
    "/workers",
    `{"worker_id":${workerId},"model_name":"m","endpoint":"${engine.url}","block_size":${blockSize},"kv_events_endpoint":"${engine.kvEventsEndpoint}"}`,
  );

async function deviceBlocks(service: DynamoService, tokens: readonly number[]): Promise<number> {
  const answer = await post(service, "/overlap_scores", JSON.stringify({ model_name: "m", token_ids: tokens }));
  const { workers } = answer as { readonly workers: readonly { readonly device_blocks: number }[] };
  return workers[0]?.device_blocks ?? 0;
}

describe("an index that pickers hand on", () => {
  it("is taken over by Dynamo's from ours, with what it held for the engine", async () => {
    const engine = await startEngine();
    const ours = await startOurs(engine, []);
    expect(ours.recovery()).toBe("empty");
    await eventually("our index follows the engine", async () => {
      await compute(engine, `${performance.now()}`.padEnd(64, "."));
      return ours.blocks() > 0;
    });
    await compute(engine, story("giants"));
    const tokens = await tokensOf(engine, story("giants"));
    const whole = Math.floor(tokens.length / blockSize);
    await eventually("the story is indexed", () => Promise.resolve(ours.blocks() >= whole));
    const theirs = await startDynamoService("select_service", ["--indexer-peers", ours.url]);
    open.push(() => theirs.close());
    await register(theirs, engine);
    expect(await deviceBlocks(theirs, tokens)).toBe(whole);
    expect(await deviceBlocks(theirs, await tokensOf(engine, story("dragons")))).toBe(0);
  });

  it("is taken over by ours from Dynamo's, and goes on from there", async () => {
    const engine = await startEngine();
    const theirs = await startDynamoService("select_service");
    open.push(() => theirs.close());
    await register(theirs, engine);
    const tokens = await tokensOf(engine, story("giants"));
    const whole = Math.floor(tokens.length / blockSize);
    let marks = 0;
    await eventually("Dynamo's index follows the engine", async () => {
      marks += 1;
      const mark = `mark ${marks}`.padEnd(64, ".");
      await compute(engine, mark);
      return (await deviceBlocks(theirs, await tokensOf(engine, mark))) > 0;
    });
    await compute(engine, story("giants"));
    await eventually("the story is indexed", async () => (await deviceBlocks(theirs, tokens)) === whole);

    const ours = await startOurs(engine, [theirs.url]);
    expect(ours.recovery()).toBe("recovered");
    const taken = ours.blocks();
    expect(taken).toBeGreaterThanOrEqual(whole);
    const found = ours.routes.find("m");
    if (found.kind !== "found") throw new Error(found.kind);
    const hashes = found.route.hash(Uint32Array.from(tokens), undefined, undefined);
    const preview = found.route.router.preview({ requestId: "r", isl: tokens.length, ...hashes });
    expect(preview).toMatchObject({ kind: "chosen", decode: { deviceBlocks: whole } });
    await eventually("our index follows the engine", async () => {
      await compute(engine, `${performance.now()}`.padEnd(64, "-"));
      return ours.blocks() > taken;
    });
  });
});
