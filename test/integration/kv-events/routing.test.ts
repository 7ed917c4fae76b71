/**
 * From an engine's cache to a decision, in the running picker: simulated workers publish KV events over ZeroMQ and render prompts over HTTP, and a
 * repeated prompt goes to the worker that says it holds it. Once for each way in which events are wired.
 */
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../../src/app/child.ts";
import type { WorkerOptions } from "../../../src/sim/worker/options.ts";
import { type RunningWorker, startWorker } from "../../../src/sim/worker/start-worker.ts";
import { eventually } from "../../stack.ts";
import { decide } from "../ext-proc-call.ts";

const scratch = mkdtempSync(join(tmpdir(), "signalbox-kv-events-"));
const open: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** ZeroMQ lets go of a port a moment after its socket has closed. */
async function untilFree(port: string): Promise<void> {
  await eventually(`port ${port}`, async () => {
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false)).listen(Number(port), () => resolve(true));
    });
    if (isFree) await new Promise((resolve) => server.close(resolve));
    return isFree;
  });
}

async function startEngine(options: Partial<WorkerOptions>): Promise<RunningWorker> {
  const worker = await startWorker({
    host: "127.0.0.1",
    port: 0,
    timeScale: 100,
    numGpuBlocks: 64,
    servedModelNames: ["m"],
    ...options,
  });
  open.push(() => worker.close());
  return worker;
}

const portOf = (endpoint: string | undefined): string => endpoint?.split(":").at(-1) ?? "";

/** The picker over these workers; events as told. */
async function startPicker(workers: readonly RunningWorker[], events: object): Promise<Child<EppPorts>> {
  const endpoints = workers.map((worker, i) => ({
    name: `worker-${i}`,
    namespace: "default",
    address: "127.0.0.1",
    port: worker.port,
    labels: {
      ...(worker.kvEventsEndpoint === undefined ? {} : { "signalbox/kv-events-port": portOf(worker.kvEventsEndpoint) }),
      ...(worker.kvReplayEndpoint === undefined ? {} : { "signalbox/kv-replay-port": portOf(worker.kvReplayEndpoint) }),
    },
  }));
  const endpointsFile = join(scratch, "endpoints.json");
  writeFileSync(endpointsFile, JSON.stringify({ endpoints }));
  const config = {
    apiVersion: "llm-d.ai/v1alpha1",
    kind: "EndpointPickerConfig",
    plugins: [
      { type: "file-discovery", parameters: { path: endpointsFile } },
      { type: "endpoint-notification-source" },
      { type: "token-producer", parameters: { modelName: "m", vllm: { url: workers[0]?.url } } },
      {
        type: "precise-prefix-cache-producer",
        parameters: { tokenProcessorConfig: { blockSizeTokens: 16, hashSeed: "42" }, kvEventsConfig: events },
      },
      {
        type: "prefix-cache-scorer",
        parameters: { prefixMatchInfoProducerName: "precise-prefix-cache-producer" },
      },
    ],
    dataLayer: {
      discovery: { pluginRef: "file-discovery" },
      injectDefaults: false,
      sources: [
        {
          pluginRef: "endpoint-notification-source",
          extractors: [{ pluginRef: "precise-prefix-cache-producer" }],
        },
      ],
    },
    schedulingProfiles: [{ name: "default", plugins: [{ pluginRef: "prefix-cache-scorer" }] }],
  };
  const configFile = join(scratch, "config.json");
  writeFileSync(configFile, JSON.stringify(config));
  const picker = await startEppChild([`--config-file=${configFile}`, "--secure-serving=false", "--drain-timeout=0s"]);
  open.push(async () => {
    await picker.close();
  });
  return picker;
}

interface State {
  readonly heldBlocks: number;
  readonly events: Readonly<Record<string, number>>;
  readonly engines: Readonly<Record<string, { readonly blocks: number }>>;
}

async function stateOf(picker: Child<EppPorts>): Promise<State> {
  const response = await fetch(`http://127.0.0.1:${picker.ready.metricsPort}/debug/plugins/state`);
  const states = (await response.json()) as Record<string, State>;
  const state = states["precise-prefix-cache-producer"];
  if (state === undefined) throw new Error("the producer shows no state");
  return state;
}

const story = (topic: string): string => `${topic}: `.padEnd(640, "once upon a time ");

async function ask(worker: RunningWorker, content: string): Promise<void> {
  const response = await fetch(`${worker.url}/v1/chat/completions`, {
    method: "POST",
    body: JSON.stringify({ model: "m", messages: [{ role: "user", content }], max_tokens: 1 }),
  });
  expect(response.status).toBe(200);
  await response.arrayBuffer();
}

/** Has the worker compute fresh prompts until the picker has heard of it, which a joining subscriber does in its own time. */
async function untilHeard(picker: Child<EppPorts>, workers: readonly RunningWorker[]): Promise<void> {
  for (const [i, worker] of workers.entries()) {
    await eventually(`events of worker ${i}`, async () => {
      await ask(worker, `${performance.now()} is the time`.padEnd(96, "."));
      return ((await stateOf(picker)).engines[`default/worker-${i}`]?.blocks ?? 0) > 0;
    });
  }
}

/** Where that prompt goes, asked until it goes there always (`expected`) or anywhere (undefined). */
async function destinations(picker: Child<EppPorts>, content: string, times: number): Promise<ReadonlySet<string>> {
  const seen = new Set<string>();
  for (let i = 0; i < times; i++) {
    const { destination } = await decide(picker.ready.grpcPort, `r-${i}`, content);
    seen.add(destination);
  }
  return seen;
}

const hostPort = ({ port }: RunningWorker): string => `127.0.0.1:${port}`;

async function toHolderOnly(picker: Child<EppPorts>, content: string, holder: RunningWorker): Promise<void> {
  await eventually(`the prompt goes to ${hostPort(holder)}`, async () => {
    const seen = await destinations(picker, content, 6);
    return seen.size === 1 && seen.has(hostPort(holder));
  });
}

describe.each([
  {
    wiring: "each worker's own port",
    start: async () => {
      const bound = { kvEventsEndpoint: "tcp://127.0.0.1:0", kvReplayEndpoint: "tcp://127.0.0.1:0" };
      const workers = [await startEngine(bound), await startEngine(bound), await startEngine(bound)];
      return { workers, picker: await startPicker(workers, { podDiscoveryConfig: { socketPort: 1 } }) };
    },
  },
  {
    wiring: "one endpoint of the picker",
    start: async () => {
      const zmqEndpoint = `tcp://127.0.0.1:${await freePort()}`;
      const connects = { kvEventsEndpoint: zmqEndpoint };
      const workers = [await startEngine(connects), await startEngine(connects), await startEngine(connects)];
      const unlabelled = workers.map((worker) => ({ ...worker, kvEventsEndpoint: undefined }));
      return { workers, picker: await startPicker(unlabelled, { zmqEndpoint, discoverPods: false }) };
    },
  },
])("with events over $wiring", ({ start }) => {
  it("sends a repeated prompt to the worker that holds it, and no longer once it was evicted", async () => {
    const { workers, picker } = await start();
    const [first, second] = workers as [RunningWorker, RunningWorker];
    await untilHeard(picker, workers);
    await ask(second, story("dragons"));
    await toHolderOnly(picker, story("dragons"), second);
    await ask(first, story("knights"));
    await toHolderOnly(picker, story("knights"), first);

    for (let i = 0; i < 8; i++) await ask(second, story(`filler ${i} `));
    await eventually("the prompt goes anywhere", async () => {
      return (await destinations(picker, story("dragons"), 12)).size > 1;
    });
    await toHolderOnly(picker, story("knights"), first);
    const { events } = await stateOf(picker);
    expect(events).toMatchObject({ malformed: 0, unknownParent: 0, otherBlockSize: 0, gaps: 0 });
    expect(events["removed"]).toBeGreaterThan(0);
    const page = await (await fetch(`http://127.0.0.1:${picker.ready.metricsPort}/metrics`)).text();
    const labels = 'plugin_name="precise-prefix-cache-producer",plugin_type="precise-prefix-cache-producer"';
    expect(page).toContain(`llm_d_epp_precise_prefix_indexer_max_hit_ratio_bucket{${labels},le="1"}`);
    expect(page).toMatch(new RegExp(`llm_d_epp_prefix_indexer_size\\{${labels}\\} [1-9]`));
    expect(page).toMatch(new RegExp(`llm_d_epp_kv_events_total\\{${labels},what="removed"\\} [1-9]`));
  }, 20_000);
});

describe("with events over each worker's own port", () => {
  it("knows what was cached before the picker started, by replay", async () => {
    const bound = { kvEventsEndpoint: "tcp://127.0.0.1:0", kvReplayEndpoint: "tcp://127.0.0.1:0" };
    const workers = [await startEngine(bound), await startEngine(bound), await startEngine(bound)];
    const [, , third] = workers as [RunningWorker, RunningWorker, RunningWorker];
    await ask(third, story("dragons"));
    await ask(third, story("knights"));
    const picker = await startPicker(workers, {});
    await untilHeard(picker, [workers[0], workers[1], third] as RunningWorker[]);
    await toHolderOnly(picker, story("dragons"), third);
    expect((await stateOf(picker)).events).toMatchObject({ failedReplays: 0, gaps: 0 });
  }, 20_000);

  it("forgets a worker's blocks when the worker restarts, and hears the new one", async () => {
    const ports = {
      port: await freePort(),
      kvEventsEndpoint: `tcp://127.0.0.1:${await freePort()}`,
      kvReplayEndpoint: `tcp://127.0.0.1:${await freePort()}`,
    };
    // vLLM's rule binds wildcards only.
    const wild = (endpoint: string): string => endpoint.replace("127.0.0.1", "*");
    const options = {
      port: ports.port,
      kvEventsEndpoint: wild(ports.kvEventsEndpoint),
      kvReplayEndpoint: wild(ports.kvReplayEndpoint),
    };
    const other = await startEngine({ kvEventsEndpoint: "tcp://127.0.0.1:0", kvReplayEndpoint: "tcp://127.0.0.1:0" });
    let worker = await startEngine(options);
    const picker = await startPicker([other, worker], {});
    await untilHeard(picker, [other, worker]);
    for (const topic of ["dragons", "knights", "giants"]) await ask(worker, story(topic));
    await toHolderOnly(picker, story("giants"), worker);

    await worker.close();
    for (const endpoint of [options.kvEventsEndpoint, options.kvReplayEndpoint]) await untilFree(portOf(endpoint));
    worker = await startEngine(options);
    await untilRestartIsSeen(picker, worker);
    await eventually("the prompt goes anywhere", async () => {
      return (await destinations(picker, story("giants"), 12)).size > 1;
    });
    await ask(worker, story("wizards"));
    await toHolderOnly(picker, story("wizards"), worker);
  }, 20_000);
});

async function untilRestartIsSeen(picker: Child<EppPorts>, worker: RunningWorker): Promise<void> {
  await eventually("the restart is seen", async () => {
    await ask(worker, `${performance.now()} is the time`.padEnd(96, "."));
    return ((await stateOf(picker)).events["restarts"] ?? 0) > 0;
  });
}
