/**
 * The router over raw engines in the running picker: simulated vLLM servers publish KV events and render prompts, and the picker is asked as a gateway
 * asks. Whatever is planned goes to the servers only when a test says so, and nothing stays booked.
 */
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, jest } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../../src/app/child.ts";
import type { WorkerOptions } from "../../../src/sim/worker/options.ts";
import { type RunningWorker, startWorker } from "../../../src/sim/worker/start-worker.ts";
import {
  type Conversation,
  connectExtProc,
  type ExtProc,
  type Reply,
  requestBody,
  requestHeaders,
  responseBody,
  responseHeaders,
} from "../../conformance/ext-proc-client.ts";
import { freePorts } from "../../dynamo/ports.ts";
import { eventually } from "../../stack.ts";

jest.setTimeout(60_000);

const scratch = mkdtempSync(join(tmpdir(), "signalbox-standalone-"));
const open: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const published = { kvEventsEndpoint: "tcp://127.0.0.1:0", kvReplayEndpoint: "tcp://127.0.0.1:0" };

async function startEngine(options: Partial<WorkerOptions> = {}): Promise<RunningWorker> {
  const worker = await startWorker({
    host: "127.0.0.1",
    port: 0,
    timeScale: 100,
    numGpuBlocks: 64,
    servedModelNames: ["m"],
    ...published,
    ...options,
  });
  open.push(() => worker.close());
  return worker;
}

const startEngines = (count: number): Promise<RunningWorker[]> =>
  Promise.all(Array.from({ length: count }, () => startEngine()));

const portOf = (endpoint: string | undefined): string => endpoint?.split(":").at(-1) ?? "";
const hostPort = ({ port }: Pick<RunningWorker, "port">): string => `127.0.0.1:${port}`;

interface Picker {
  readonly child: Child<EppPorts>;
  readonly extProc: ExtProc;
  /** Replaces the endpoints. */
  serve(workers: readonly RunningWorker[]): void;
  /** The only set there is. */
  state(): Promise<SetState>;
  isReady(): Promise<boolean>;
}

interface SetState {
  readonly inflight: number;
  readonly untokenized: number;
  readonly suspects: readonly string[];
  readonly index: { readonly heldBlocks: number };
  readonly events: Readonly<Record<string, number>>;
  readonly engines: Readonly<Record<string, { readonly blocks: number }>>;
  readonly sharedIndex: { readonly recovery: string; readonly takenOverBlocks: number; readonly port: number } | null;
  readonly replicas: { readonly heard: number; readonly failure: string | null } | null;
  readonly router: {
    readonly bookings: number;
    readonly queue: readonly { readonly requests: number }[];
    readonly loads: { readonly decode: readonly { readonly activeRequests: number }[] };
    readonly counters: Readonly<Record<string, number>>;
  };
}

interface PickerOptions {
  readonly router?: object;
  readonly engines?: object;
  /** Further labels of an endpoint. */
  readonly labelsOf?: (worker: RunningWorker) => Readonly<Record<string, string>>;
  readonly environment?: Readonly<Record<string, string>>;
}

async function startPicker(workers: readonly RunningWorker[], options: PickerOptions = {}): Promise<Picker> {
  const { args, serve } = configured(workers, options);
  return await runPicker(args, { ...options.environment }, serve);
}

/** By a file of endpoints, so that each has ports of its own. */
function configured(workers: readonly RunningWorker[], options: PickerOptions) {
  const endpointsFile = join(scratch, `endpoints-${open.length}.json`);
  const serve = (servers: readonly RunningWorker[]): void => {
    const endpoints = servers.map((worker) => ({
      name: `pod-${worker.name}-${worker.port}`,
      namespace: "default",
      address: "127.0.0.1",
      port: worker.port,
      labels: {
        "signalbox/kv-events-port": portOf(worker.kvEventsEndpoint),
        "signalbox/kv-replay-port": portOf(worker.kvReplayEndpoint),
        ...options.labelsOf?.(worker),
      },
    }));
    writeFileSync(endpointsFile, JSON.stringify({ endpoints }));
  };
  serve(workers);
  const engines = {
    modelName: "m",
    blockSizeTokens: 16,
    tokens: { vllm: { url: workers[0]?.url } },
    ...options.engines,
  };
  const config = {
    apiVersion: "llm-d.ai/v1alpha1",
    kind: "EndpointPickerConfig",
    plugins: [
      { type: "file-discovery", parameters: { path: endpointsFile, watchFile: true } },
      { type: "dynamo-prefill-router", parameters: { workers: "endpoints", engines, ...options.router } },
    ],
    schedulingProfiles: [{ name: "decode", plugins: [] }],
    dataLayer: { injectDefaults: false, discovery: { pluginRef: "file-discovery" } },
  };
  const configFile = join(scratch, `config-${open.length}.json`);
  writeFileSync(configFile, JSON.stringify(config));
  return { args: [`--config-file=${configFile}`], serve };
}

async function runPicker(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
  serve: Picker["serve"],
): Promise<Picker> {
  const child = await startEppChild([...args, "--secure-serving=false", "--drain-timeout=0s"], {
    environment,
    timeoutMs: 40_000,
  });
  const extProc = connectExtProc(child.ready.grpcPort, false);
  const base = `http://127.0.0.1:${child.ready.metricsPort}`;
  const picker: Picker = {
    child,
    extProc,
    serve,
    async state() {
      const states = (await (await fetch(`${base}/debug/plugins/state`)).json()) as Record<string, unknown>;
      const { sets, ...own } = states["dynamo-prefill-router"] as { readonly sets: readonly [SetState] };
      return { ...sets[0], ...own };
    },
    isReady: async () => (await fetch(`${base}/readyz`)).ok,
  };
  open.push(async () => {
    extProc.close();
    await child.close();
  });
  await eventually("the picker is ready", () => picker.isReady());
  return picker;
}

type HeadersReply = Extract<Reply, { readonly kind: "requestHeaders" | "responseHeaders" }>;

interface Sent {
  readonly destination: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  began(): Promise<void>;
  answered(status?: number): Promise<void>;
  cancel(): void;
}

interface Pending {
  readonly sent: Promise<Sent>;
  cancel(): void;
}

const fullDuplex = { requestBodyMode: 4, responseBodyMode: 4, sendBodyWithoutWaitingForHeaderResponse: false } as const;

function begin({ extProc }: Picker, content: string): Pending {
  const conversation = extProc.open();
  const body = JSON.stringify({ model: "m", messages: [{ role: "user", content }], max_tokens: 1 });
  conversation.send(
    requestHeaders(
      { ":method": "POST", ":path": "/v1/chat/completions", "content-type": "application/json" },
      { protocolConfig: fullDuplex },
    ),
    requestBody(body),
  );
  return { sent: sentOf(conversation), cancel: () => conversation.cancel() };
}

class Refused extends Error {
  readonly status: number | undefined;
  constructor(reply: Extract<Reply, { readonly kind: "immediate" }>) {
    super(reply.body);
    this.status = reply.status;
  }
}

async function sentOf(conversation: Conversation): Promise<Sent> {
  const replies = await conversation.replied(1);
  const first = replies[0];
  if (first?.kind === "immediate") {
    conversation.cancel();
    throw new Refused(first);
  }
  if (first?.kind !== "requestHeaders") throw new Error(`neither sent nor refused: ${JSON.stringify(first)}`);
  const [, whole] = await conversation.replied(2);
  if (whole?.kind !== "requestBody") throw new Error(`no body but ${JSON.stringify(whole)}`);
  const headers = (first as HeadersReply).set;
  const headersCame = async (status: number): Promise<void> => {
    conversation.send(responseHeaders({ ":status": String(status), "content-type": "application/json" }));
    await conversation.replied(3);
  };
  return {
    destination: headers["x-gateway-destination-endpoint"] ?? "",
    headers,
    body: whole.body,
    async began() {
      await headersCame(200);
      conversation.send(responseBody("{", { endOfStream: false }));
      await conversation.replied(4);
    },
    async answered(status = 200) {
      await headersCame(status);
      conversation.send(responseBody("{}", { endOfStream: true }));
      await conversation.replied(4);
      conversation.cancel();
    },
    cancel: () => conversation.cancel(),
  };
}

const plan = (picker: Picker, content: string): Promise<Sent> => begin(picker, content).sent;

async function ask(worker: RunningWorker, content: string): Promise<void> {
  const response = await fetch(`${worker.url}/v1/chat/completions`, {
    method: "POST",
    body: JSON.stringify({ model: "m", messages: [{ role: "user", content }], max_tokens: 1 }),
  });
  expect(response.status).toBe(200);
  await response.arrayBuffer();
}

const story = (topic: string): string => `${topic}: `.padEnd(640, "once upon a time ");

/** Where the prompt goes, asked one after the other with nothing else running. */
async function destinations(picker: Picker, content: string, times: number): Promise<ReadonlySet<string>> {
  const seen = new Set<string>();
  for (let i = 0; i < times; i++) {
    const sent = await plan(picker, content);
    seen.add(sent.destination);
    sent.cancel();
  }
  return seen;
}

async function toHolderOnly(picker: Picker, content: string, holder: RunningWorker): Promise<void> {
  await eventually(`the prompt goes to ${hostPort(holder)}`, async () => {
    const seen = await destinations(picker, content, 6);
    return seen.size === 1 && seen.has(hostPort(holder));
  });
}

const goesAnywhere = (picker: Picker, content: string): Promise<unknown> =>
  eventually("the prompt goes anywhere", async () => (await destinations(picker, content, 12)).size > 1);

async function idle(picker: Picker): Promise<void> {
  await eventually("nothing is booked", async () => {
    const { router, inflight } = await picker.state();
    const isBusy = router.loads.decode.some(({ activeRequests }) => activeRequests > 0);
    return router.bookings === 0 && inflight === 0 && !isBusy;
  });
  expect((await picker.state()).router.counters).toMatchObject({ reaped: 0 });
}

/** Has each worker compute fresh prompts until the picker has heard of it, which a joining subscriber does in its own time. */
async function untilHeard(picker: Picker, workers: readonly RunningWorker[]): Promise<void> {
  for (const worker of workers) {
    await eventually(`events of ${worker.port}`, async () => {
      await ask(worker, `${performance.now()} is the time`.padEnd(96, "."));
      const { engines } = await picker.state();
      return Object.entries(engines).some(([name, { blocks }]) => name.endsWith(`-${worker.port}`) && blocks > 0);
    });
  }
}

describe("two pickers of the same engines", () => {
  it("each see what the other has running, and send the next request elsewhere", async () => {
    const workers = await startEngines(2);
    const port = await freePorts(2);
    const peersOf = (own: number, other: number): PickerOptions => ({
      engines: { peers: { port: own, addresses: [`127.0.0.1:${other}`] } },
    });
    const one = await startPicker(workers, peersOf(port, port + 1));
    const other = await startPicker(workers, peersOf(port + 1, port));
    for (const [from, to] of [
      [one, other],
      [other, one],
    ] as const) {
      await eventually("it is heard", async () => {
        (await plan(from, story("a word"))).cancel();
        const { replicas } = await to.state();
        expect(replicas?.failure).toBeNull();
        return (replicas?.heard ?? 0) > 0;
      });
    }
    await idle(one);
    await idle(other);
    const first = await plan(one, story("a long tale"));
    const requestsIn = async (picker: Picker): Promise<number> =>
      (await picker.state()).router.loads.decode.reduce((sum, { activeRequests }) => sum + activeRequests, 0);
    await eventually("it is booked", async () => (await requestsIn(other)) === 1);
    const second = await plan(other, story("another tale"));
    expect(second.destination).not.toBe(first.destination);
    await first.answered();
    await second.answered();
    await idle(one);
    await idle(other);
  });
});

describe("a picker that starts beside another", () => {
  it("takes its index over where the engines do not repeat what they said, and follows them from there", async () => {
    const silent = { kvReplayEndpoint: undefined };
    const workers = await Promise.all([startEngine(silent), startEngine(silent)]);
    const [first, second] = workers as unknown as readonly [RunningWorker, RunningWorker];
    const port = await freePorts(4);
    const peersOf = (index: number, of: number): PickerOptions => ({
      engines: {
        peers: {
          port: port + index,
          addresses: [`127.0.0.1:${port + of}`],
          indexPort: port + 2 + index,
          indexUrls: [`http://127.0.0.1:${port + 2 + of}`],
        },
      },
    });
    const one = await startPicker(workers, peersOf(0, 1));
    expect((await one.state()).sharedIndex).toMatchObject({ recovery: "empty", port: port + 2 });
    await untilHeard(one, workers);
    await ask(first, story("giants"));
    await ask(second, story("dragons"));
    await toHolderOnly(one, story("giants"), first);
    await toHolderOnly(one, story("dragons"), second);

    const other = await startPicker(workers, peersOf(1, 0));
    const { sharedIndex, index } = await other.state();
    expect(sharedIndex).toMatchObject({ recovery: "recovered" });
    expect(sharedIndex?.takenOverBlocks).toBe((await one.state()).index.heldBlocks);
    expect(index.heldBlocks).toBe(sharedIndex?.takenOverBlocks);
    expect(await destinations(other, story("giants"), 6)).toEqual(new Set([hostPort(first)]));
    expect(await destinations(other, story("dragons"), 6)).toEqual(new Set([hostPort(second)]));

    for (let i = 0; i < 8; i++) await ask(first, story(`filler ${i} `));
    await goesAnywhere(other, story("giants"));
    await toHolderOnly(other, story("dragons"), second);
    await idle(one);
    await idle(other);
  });
});

describe("a router over prefill and decode servers", () => {
  const role = "llm-d.ai/role";
  const disaggregated = (prefill: readonly RunningWorker[]): PickerOptions => ({
    engines: { prefillSelector: `${role}=prefill` },
    labelsOf: (worker) => (prefill.includes(worker) ? { [role]: "prefill" } : {}),
  });
  const prefillServer = ({ headers }: Sent): string | undefined => headers["x-prefiller-host-port"];

  it("leads to a decode server and names the prefill server that knows the prompt, or has the least to do", async () => {
    const workers = await startEngines(4);
    const prefill = workers.slice(0, 2) as [RunningWorker, RunningWorker];
    const decode = workers.slice(2).map(hostPort);
    await ask(prefill[1], story("giants"));
    const picker = await startPicker(workers, disaggregated(prefill));
    const sent = await Promise.all(Array.from({ length: 8 }, (_, i) => plan(picker, story(`tale ${i}`))));
    for (const server of prefill) expect(sent.filter((one) => prefillServer(one) === hostPort(server))).toHaveLength(4);
    for (const server of decode) expect(sent.filter(({ destination }) => destination === server)).toHaveLength(4);
    const { router } = await picker.state();
    expect(router.loads).toMatchObject({
      prefill: [{ activeRequests: 4 }, { activeRequests: 4 }],
      decode: [{ activeRequests: 4 }, { activeRequests: 4 }],
    });
    // The prompt is computed: the prefill server has nothing of it any more, the decode server goes on.
    await sent[0]?.began();
    await eventually("one prefill leg ends", async () => {
      const { loads } = (await picker.state()).router as unknown as {
        readonly loads: Record<string, { activeRequests: number }[]>;
      };
      const count = (stage: string) => loads[stage]?.reduce((sum, { activeRequests }) => sum + activeRequests, 0);
      return count("prefill") === 7 && count("decode") === 8;
    });
    for (const one of sent) one.cancel();
    await idle(picker);

    const known = await Promise.all(Array.from({ length: 2 }, () => plan(picker, story("giants"))));
    expect(known.map(prefillServer)).toEqual([hostPort(prefill[1]), hostPort(prefill[1])]);
    expect(new Set(known.map(({ destination }) => destination))).toEqual(new Set(decode));
    for (const one of known) one.cancel();
    await idle(picker);
  });

  it("has a decode server compute the prompt while there is no prefill server to choose", async () => {
    const workers = await startEngines(2);
    const [prefill, decode] = workers as [RunningWorker, RunningWorker];
    const picker = await startPicker(workers, disaggregated([prefill]));
    const both = await plan(picker, story("one"));
    expect([prefillServer(both), both.destination]).toEqual([hostPort(prefill), hostPort(decode)]);
    await prefill.close();
    // The sidecar beside the decode server could not reach it.
    await both.answered(502);
    await eventually("it is out of the choice", async () => (await picker.state()).suspects.length === 1);
    const alone = await plan(picker, story("two"));
    expect([prefillServer(alone), alone.destination]).toEqual([undefined, hostPort(decode)]);
    await alone.answered();
    picker.serve([decode]);
    await eventually("it has left", async () => (await picker.state()).suspects.length === 0);
    const last = await plan(picker, story("three"));
    expect([prefillServer(last), last.destination]).toEqual([undefined, hostPort(decode)]);
    await last.answered();
    await idle(picker);
  });
});

describe("a router over three engines", () => {
  let workers: readonly RunningWorker[];
  let picker: Picker;
  const shared: (() => Promise<void>)[] = [];

  beforeAll(async () => {
    workers = await startEngines(3);
    await ask(workers[2] as RunningWorker, story("giants"));
    picker = await startPicker(workers);
    shared.push(...open.splice(0));
  });
  afterEach(() => idle(picker));
  afterAll(async () => {
    for (const close of shared.reverse()) await close();
  });

  it("is ready only when it knows what they cached before it started", async () => {
    expect(await destinations(picker, story("giants"), 6)).toEqual(new Set([hostPort(workers[2] as RunningWorker)]));
    expect((await picker.state()).events).toMatchObject({ failedReplays: 0, gaps: 0 });
  });

  it("spreads requests by what each has to do, and counts them until they end", async () => {
    const sent = await Promise.all(Array.from({ length: 12 }, (_, i) => plan(picker, story(`tale ${i}`))));
    const counts = workers.map((worker) => sent.filter(({ destination }) => destination === hostPort(worker)).length);
    expect(counts).toEqual([4, 4, 4]);
    const { router, inflight } = await picker.state();
    expect([router.bookings, inflight]).toEqual([12, 12]);
    for (const [i, one] of sent.entries()) {
      if (i % 3 === 0) await one.answered();
      else if (i % 3 === 1) await one.answered(500);
      else one.cancel();
    }
  });

  it("sends a repeated prompt to its holder until it is evicted, with a destination and nothing of Dynamo's", async () => {
    const [first, second] = workers as readonly [RunningWorker, RunningWorker];
    await untilHeard(picker, workers);
    await ask(second, story("dragons"));
    await toHolderOnly(picker, story("dragons"), second);
    await ask(first, story("knights"));
    await toHolderOnly(picker, story("knights"), first);

    const sent = await plan(picker, story("dragons"));
    expect(Object.keys(sent.headers).filter((name) => /dynamo|instance-id|dp-rank/.test(name))).toEqual([]);
    expect(JSON.parse(sent.body)).toEqual({
      model: "m",
      messages: [{ role: "user", content: story("dragons") }],
      max_tokens: 1,
    });
    await sent.answered();

    for (let i = 0; i < 8; i++) await ask(second, story(`filler ${i} `));
    await goesAnywhere(picker, story("dragons"));
    await toHolderOnly(picker, story("knights"), first);
    const { events } = await picker.state();
    expect(events).toMatchObject({ malformed: 0, unknownParent: 0, otherBlockSize: 0, gaps: 0 });
  });
});

describe("a router over raw engines", () => {
  it("leaves out a server that went away, and follows one that comes in its place", async () => {
    const workers = await startEngines(2);
    const [first, second] = workers as [RunningWorker, RunningWorker];
    const picker = await startPicker(workers);
    await untilHeard(picker, workers);
    await ask(second, story("giants"));
    await toHolderOnly(picker, story("giants"), second);

    await second.close();
    const refused = await plan(picker, story("giants"));
    expect(refused.destination).toBe(hostPort(second));
    await refused.answered(503);
    expect(await destinations(picker, story("giants"), 6)).toEqual(new Set([hostPort(first)]));
    expect((await picker.state()).suspects).toHaveLength(1);

    const third = await startEngine();
    await ask(third, story("wizards"));
    picker.serve([first, third]);
    await toHolderOnly(picker, story("wizards"), third);
    expect((await picker.state()).suspects).toEqual([]);
    await idle(picker);
  });

  it("keeps requests waiting while every server has enough to compute", async () => {
    const workers = await startEngines(1);
    const picker = await startPicker(workers, {
      engines: { maxNumBatchedTokens: 64 },
      environment: { DYN_ROUTER_QUEUE_THRESHOLD: "1" },
    });
    const first = await plan(picker, story("one"));
    const second = begin(picker, story("two"));
    await eventually("one waits", async () => {
      return (await picker.state()).router.queue.reduce((sum, { requests }) => sum + requests, 0) === 1;
    });
    await first.began();
    await (await second.sent).answered();
    first.cancel();
    await idle(picker);
  });

  it("is what the environment of Dynamo's standalone mode stands for", async () => {
    const worker = await startEngine();
    await ask(worker, story("dragons"));
    const environment = {
      DYN_EPP_MODE: "standalone",
      DYN_EPP_INFERENCE_POOL_NAME: "pool",
      POD_NAMESPACE: "default",
      DYN_MODEL_NAME: "m",
      DYN_EPP_TOKENIZER_SERVICE_URL: worker.url,
      DYN_EPP_TOKENIZER_PROTOCOL: "vllm-render",
      DYN_KV_CACHE_BLOCK_SIZE: "16",
      DYN_EPP_KV_EVENT_PORT: portOf(worker.kvEventsEndpoint),
      DYN_EPP_KV_EVENT_REPLAY_PORT: portOf(worker.kvReplayEndpoint),
    };
    const picker = await runPicker([`--endpoints=${hostPort(worker)}`], environment, () => {});
    expect((await picker.state()).index.heldBlocks).toBe(10);
    const sent = await plan(picker, story("dragons"));
    expect(sent.destination).toBe(hostPort(worker));
    await sent.answered();
    await idle(picker);
    const page = await (await fetch(`http://127.0.0.1:${picker.child.ready.metricsPort}/metrics`)).text();
    expect(page).toMatch(/dynamo_[a-z_]*requests_started_total\{[^}]*\} 1/);
    expect(page).toMatch(/llm_d_epp_kv_events_total\{plugin_name="dynamo-prefill-router",[^}]*what="batches"\} [1-9]/);
  });

  it("refuses more requests than it may have, and plans again when some have ended", async () => {
    const workers = await startEngines(1);
    const picker = await startPicker(workers, { router: { maxInflightRequests: 2 } });
    const sent = [await plan(picker, story("one")), await plan(picker, story("two"))];
    await expect(plan(picker, story("three"))).rejects.toMatchObject({
      status: 503,
      message: expect.stringContaining("endpoint picker overloaded"),
    });
    sent[0]?.cancel();
    await eventually("there is room", async () => (await picker.state()).inflight === 1);
    await (await plan(picker, story("three"))).answered();
    sent[1]?.cancel();
    await idle(picker);
  });

  it("answers 504 when tokens take too long, and goes on without when nobody makes them", async () => {
    const workers = await startEngines(2);
    const silent = createServer().listen(0, "127.0.0.1");
    await once(silent, "listening");
    const { port } = silent.address() as AddressInfo;
    open.push(async () => {
      silent.close();
      await Promise.resolve();
    });
    const late = await startPicker(workers, {
      engines: { tokens: { vllm: { url: `http://127.0.0.1:${port}`, timeout: "50ms" } } },
    });
    await expect(plan(late, story("one"))).rejects.toMatchObject({ status: 504 });
    await idle(late);
    const without = await startPicker(workers, { engines: { tokens: { vllm: { url: "http://127.0.0.1:1" } } } });
    const sent = await Promise.all([plan(without, story("one")), plan(without, story("one"))]);
    expect(new Set(sent.map(({ destination }) => destination)).size).toBe(2);
    expect((await without.state()).untokenized).toBe(2);
    for (const one of sent) await one.answered();
    await idle(without);
  });
});
