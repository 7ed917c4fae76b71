/** Indices served to other routers: when they are announced and taken back, beside whom they may not be, and what they say. */
import { afterEach, describe, expect, it, jest } from "@jest/globals";
import { createKvIndex } from "../../../../src/data/prefix-index/exact-kv-index.ts";
import { readIndexAnswer } from "../../../../src/dynamo/kv-index/index-answer.ts";
import { queryEndpoint, recordEndpoint } from "../../../../src/dynamo/kv-index/index-endpoints.ts";
import { encodeIndexQuestion } from "../../../../src/dynamo/kv-index/index-question.ts";
import { encodeRoutingRecord, readRecordAnswer } from "../../../../src/dynamo/kv-index/routing-record.ts";
import type { InstanceRecord } from "../../../../src/dynamo/records.ts";
import type { Endpoint, EndpointServer } from "../../../../src/dynamo/request-plane/endpoint-contracts.ts";
import { IndexService } from "../../../../src/prefill-router/remote-index/index-service.ts";
import { type ServedWorker, SetServing } from "../../../../src/prefill-router/remote-index/set-serving.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import { createTokenHasher } from "../../../../src/tokens/block-hash.ts";
import { until } from "../../dynamo/until.ts";

const open: IndexService[] = [];
afterEach(async () => {
  jest.useRealTimers();
  for (const service of open.splice(0)) await service.close();
});

const component = { namespace: "ns", component: "backend" };
const queryKey = `v1/instances/ns/backend/${queryEndpoint}/1a`;
const recordKey = `v1/instances/ns/backend/${recordEndpoint}/1a`;
const queryPath = `1a/ns/backend/${queryEndpoint}`;
const recordPath = `1a/ns/backend/${recordEndpoint}`;
const quiet = { isSettled: true, overlaps: () => [], record: () => undefined };

function start(
  options: {
    readonly isFedByEvents?: boolean;
    readonly others?: string[];
    readonly failures?: number;
    readonly portFailures?: number;
  } = {},
) {
  const { isFedByEvents = true, others = [], failures = 0 } = options;
  const records = new Map<string, string>();
  const endpoints = new Map<string, Endpoint>();
  const errors: string[] = [];
  let left = failures;
  let { portFailures = 0 } = options;
  let isListening = false;
  const server: EndpointServer = {
    counters: { requests: 0, answered: 0, undelivered: 0, refused: 0, connections: 0 },
    serve: ({ namespace, component: of, endpoint: name, instanceId }, endpoint) => {
      const path = `${instanceId.toString(16)}/${namespace}/${of}/${name}`;
      endpoints.set(path, endpoint);
      return {
        transport: { kind: "tcp", address: "10.0.0.1:7000", path },
        end: () => void endpoints.delete(path),
      };
    },
    close: async () => {
      expect(records.size).toBe(0);
      isListening = false;
    },
  };
  const service = new IndexService({
    listen: async () => {
      if (portFailures-- > 0) throw new Error("in use");
      isListening = true;
      return server;
    },
    registration: {
      instanceId: 26n,
      put: async ({ key, text }) => {
        if (left-- > 0) throw new Error("away");
        records.set(key, text);
      },
      remove: async (key) => void records.delete(key),
    },
    lookup: ({ endpoint }) =>
      others
        .filter((one) => one === endpoint)
        .map((one) => ({ instanceId: 5n, endpoint: one }) as unknown as InstanceRecord),
    isFedByEvents,
    log: { ...silentLogger, error: (_fields, message) => errors.push(message) },
  });
  open.push(service);
  return { service, records, endpoints, errors, others, isListening: () => isListening };
}

describe("a served index", () => {
  it("is announced with its address and path, and taken back before its port is given up", async () => {
    const { service, records, endpoints, isListening } = start();
    service.serve(component, "m", quiet);
    await until(() => records.size === 1);
    expect(JSON.parse(records.get(queryKey) ?? "null")).toEqual({
      type: "Endpoint",
      ...component,
      endpoint: queryEndpoint,
      instance_id: 26,
      transport: { tcp: `10.0.0.1:7000/${queryPath}` },
      request_plane_codec: "msgpack",
    });
    expect([...endpoints.keys()]).toEqual([queryPath]);
    await service.close();
    expect({ records: records.size, endpoints: endpoints.size, isListening: isListening() }).toEqual({
      records: 0,
      endpoints: 0,
      isListening: false,
    });
  });

  it("takes decisions, too, where those feed it", async () => {
    const { service, records } = start({ isFedByEvents: false });
    service.serve(component, "m", quiet);
    await until(() => records.size === 2);
    expect([...records.keys()]).toEqual([queryKey, recordKey]);
  });

  it("is announced once what workers hold has been asked for, or for ten seconds", async () => {
    jest.useFakeTimers();
    const { service, records } = start();
    const index = { ...quiet, isSettled: false };
    service.serve(component, "m", index);
    await jest.advanceTimersByTimeAsync(3000);
    expect(records.size).toBe(0);
    index.isSettled = true;
    await jest.advanceTimersByTimeAsync(200);
    expect(records.size).toBe(1);
    const slow = start();
    slow.service.serve(component, "m", { ...quiet, isSettled: false });
    await jest.advanceTimersByTimeAsync(10_500);
    expect(slow.records.size).toBe(1);
  });

  it("is announced again after discovery was away", async () => {
    jest.useFakeTimers();
    const { service, records, errors } = start({ failures: 2 });
    service.serve(component, "m", quiet);
    await jest.advanceTimersByTimeAsync(5000);
    expect(records.size).toBe(1);
    expect(errors).toHaveLength(2);
  });

  it("waits for its port while another one has it, and can be closed meanwhile", async () => {
    jest.useFakeTimers();
    const { service, records, errors, isListening } = start({ portFailures: 3 });
    service.serve(component, "m", quiet);
    await jest.advanceTimersByTimeAsync(2500);
    expect({ records: records.size, errors }).toEqual({
      records: 0,
      errors: ["served indices cannot be asked for yet; tried again"],
    });
    await jest.advanceTimersByTimeAsync(1000);
    expect({ records: records.size, isListening: isListening() }).toEqual({ records: 1, isListening: true });
    const hopeless = start({ portFailures: Number.POSITIVE_INFINITY });
    hopeless.service.serve(component, "m", quiet);
    await jest.advanceTimersByTimeAsync(2500);
    await hopeless.service.close();
  });

  it.each([
    [true, recordEndpoint],
    [false, queryEndpoint],
    [false, recordEndpoint],
  ])("waits (events: %s) while another process serves %s there, and says so once", async (isFedByEvents, other) => {
    jest.useFakeTimers();
    const { service, records, errors, others } = start({ isFedByEvents, others: [other] });
    service.serve(component, "m", quiet);
    await jest.advanceTimersByTimeAsync(60_000);
    expect(records.size).toBe(0);
    expect(errors).toEqual([expect.stringContaining("this router's index is not served")]);
    others.pop();
    await jest.advanceTimersByTimeAsync(10_000);
    expect(records.size).toBe(isFedByEvents ? 1 : 2);
  });

  it("is served beside others that events feed", async () => {
    const { service, records } = start({ others: [queryEndpoint] });
    service.serve(component, "m", quiet);
    await until(() => records.size === 1);
  });

  it("stays announced when its set is replaced, and goes a while after the last has left", async () => {
    jest.useFakeTimers();
    const { service, records } = start();
    const end = service.serve(component, "m", quiet);
    await jest.advanceTimersByTimeAsync(1000);
    end();
    const endNext = service.serve(component, "m", quiet);
    await jest.advanceTimersByTimeAsync(10_000);
    expect(records.size).toBe(1);
    endNext();
    await jest.advanceTimersByTimeAsync(10_000);
    expect(records.size).toBe(0);
    service.serve(component, "m", quiet);
    await jest.advanceTimersByTimeAsync(1000);
    expect(records.size).toBe(1);
  });

  it("is of one set for a model: the first one stays", async () => {
    const { service, errors } = start();
    const end = service.serve(component, "m", quiet);
    service.serve(component, "m", quiet)();
    expect(errors).toEqual(["an index is not served: another set of this model is"]);
    end();
    service.serve(component, "m", quiet);
    expect(errors).toHaveLength(1);
  });
});

describe("the index of a set", () => {
  const tokens = Uint32Array.from({ length: 64 }, (_, index) => index);
  const prompt = createTokenHasher().hash(tokens, { blockSize: 16 });
  const none = Buffer.alloc(0);

  const worker = (id: number, of = "backend"): ServedWorker =>
    ({
      id: BigInt(id),
      instance: { namespace: "ns", component: of },
      card: { runtime: { dataParallelStartRank: 0, dataParallelSize: 2 } },
    }) as unknown as ServedWorker;

  function startSet(options: Parameters<typeof start>[0] = {}) {
    const running = start(options);
    const index = createKvIndex({ random: () => 0.5 });
    const holders = new Map<string, number>();
    const routed: number[] = [];
    const serving = new SetServing({
      service: running.service,
      model: "m",
      matcher: index,
      routed: (holder) => void routed.push(holder),
      holderOf: ({ workerId, dpRank }) => holders.get(`${workerId}/${dpRank}`),
      isSettled: () => true,
      now: () => 0,
    });
    const store = (rank: string, tier: 0 | 1 | 2 | 3, first: number, count: number): void => {
      const holder = holders.get(rank) ?? index.attach();
      holders.set(rank, holder);
      const at = 2 * first - 2;
      const [low = 0, high = 0] = first === 0 ? [] : prompt.sequenceHashes.subarray(at, at + 2);
      index.stored(holder, tier, low, high, first > 0, prompt.sequenceHashes, prompt.blockHashes, first, count);
    };
    const query = async (path = queryPath, model = "m", isDeviceOnly = false) => {
      await until(() => running.endpoints.has(path));
      const body = encodeIndexQuestion({ model, blockHashes: prompt.blockHashes, isDeviceOnly }, "msgpack");
      return readIndexAnswer(running.endpoints.get(path)?.(body, "msgpack") ?? none, "msgpack");
    };
    return { ...running, serving, holders, store, query, routed };
  }

  it("says what each rank of the component's workers holds, by tier", async () => {
    const { serving, store, query } = startSet();
    for (const each of [worker(1), worker(2), worker(3, "prefill")]) serving.workerAdded(each);
    store("1/1", 0, 0, 2);
    store("1/1", 1, 2, 1);
    store("2/0", 0, 0, 4);
    store("3/0", 0, 0, 1);
    expect(await query()).toEqual({
      kind: "overlaps",
      overlaps: [
        { workerId: 1n, dpRank: 1, device: 2, host: 1, disk: 0 },
        { workerId: 2n, dpRank: 0, device: 4, host: 0, disk: 0 },
      ],
    });
    expect(await query(queryPath, "m", true)).toMatchObject({ overlaps: [{ device: 2, host: 0 }, { device: 4 }] });
    expect(await query(`1a/ns/prefill/${queryEndpoint}`)).toMatchObject({ overlaps: [{ workerId: 3n }] });
    serving.workerRemoved(2n);
    expect(await query()).toMatchObject({ overlaps: [{ workerId: 1n }] });
    expect(serving.counters.answered).toBe(4);
  });

  it("answers with an error for another model, and for what is no question", async () => {
    const { serving, query, endpoints } = startSet();
    serving.workerAdded(worker(1));
    expect(await query(queryPath, "other")).toEqual({
      kind: "error",
      message: "no index of model other is served here",
    });
    const answer = endpoints.get(queryPath)?.(Buffer.from([0xc1]), "msgpack") ?? none;
    expect(readIndexAnswer(answer, "msgpack")).toMatchObject({ kind: "error", message: /^the question / });
  });

  it("takes decisions for ranks it knows, and counts the others", async () => {
    const { serving, holders, endpoints, routed } = startSet({ isFedByEvents: false });
    serving.workerAdded(worker(1));
    holders.set("1/0", 4);
    await until(() => endpoints.has(recordPath));
    const write = (workerId: bigint, model = "m") => {
      const { blockHashes, sequenceHashes } = prompt;
      const body = encodeRoutingRecord({ model, workerId, dpRank: 0, blockHashes, sequenceHashes }, "msgpack");
      return readRecordAnswer(endpoints.get(recordPath)?.(body, "msgpack") ?? none, "msgpack");
    };
    expect([write(1n), write(9n), write(1n, "other")]).toEqual([
      { kind: "recorded" },
      { kind: "recorded" },
      { kind: "error", message: "no index of model other is served here" },
    ]);
    expect(routed).toEqual([4]);
    expect(serving.counters).toEqual({ answered: 0, recorded: 1, foreign: 1 });
  });

  it("is asked no more once its set is closed", async () => {
    const { serving, query } = startSet();
    serving.workerAdded(worker(1));
    await query();
    serving.close();
    expect(await query()).toMatchObject({ kind: "error" });
  });
});
