/** Questions to other processes' indices: who is asked, what an answer is worth, and what becomes of a request that gets none. */
import { setTimeout as rest } from "node:timers/promises";
import { afterEach, describe, expect, it, jest } from "@jest/globals";
import { encodeIndexAnswer, type RankOverlap } from "../../../../src/dynamo/kv-index/index-answer.ts";
import { queryEndpoint, recordEndpoint } from "../../../../src/dynamo/kv-index/index-endpoints.ts";
import { readIndexQuestion } from "../../../../src/dynamo/kv-index/index-question.ts";
import { encodeRecordAnswer, readRoutingRecord } from "../../../../src/dynamo/kv-index/routing-record.ts";
import type { InstanceRecord } from "../../../../src/dynamo/records.ts";
import type { CallSink, RequestPlane } from "../../../../src/dynamo/request-plane/contracts.ts";
import { IndexClient, type IndexClientInit } from "../../../../src/prefill-router/remote-index/index-client.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

const open: IndexClient[] = [];
afterEach(() => {
  for (const client of open.splice(0)) client.close();
});

interface Call {
  readonly instance: InstanceRecord;
  readonly body: Buffer;
  readonly sink: CallSink;
  isCancelled: boolean;
}

const instance = (instanceId: number, endpoint = queryEndpoint, component = "backend"): InstanceRecord => ({
  type: "Endpoint",
  namespace: "ns",
  component,
  endpoint,
  instanceId: BigInt(instanceId),
  transport: { kind: "tcp", address: "127.0.0.1:1", path: "p" },
  codec: "msgpack",
});

const worker = (id: number, role: "aggregated" | "prefill" | "decode" = "aggregated") => ({
  id: BigInt(id),
  role,
  instance: instance(id, "generate", role === "prefill" ? "prefill" : "backend"),
});

function start(records: InstanceRecord[], changes: Partial<IndexClientInit> = {}) {
  const calls: Call[] = [];
  const plane: Pick<RequestPlane, "call"> = {
    call: (to, body, _options, sink) => {
      const call: Call = { instance: to, body: Buffer.from(body), sink, isCancelled: false };
      calls.push(call);
      return { id: "", cancel: () => (call.isCancelled = true), pause: () => undefined, resume: () => undefined };
    },
  };
  const clock = { nowMs: 0 };
  const logged: string[] = [];
  const client = new IndexClient({
    model: "m",
    isFedByEvents: true,
    asksDecodeLeg: false,
    plane,
    lookup: ({ component, endpoint }) =>
      records.filter((one) => one.component === component && one.endpoint === endpoint),
    now: () => clock.nowMs,
    log: {
      ...silentLogger,
      warn: (_fields, message) => logged.push(message),
      info: (_fields, message) => logged.push(message),
    },
    answerWithinMs: 50,
    ...changes,
  });
  open.push(client);
  const asked: (readonly RankOverlap[] | undefined)[] = [];
  const ask = () => client.ask(Uint32Array.of(1, 2, 3, 4), (overlaps) => asked.push(overlaps));
  return { client, calls, clock, logged, asked, ask };
}

const held: readonly RankOverlap[] = [{ workerId: 1n, dpRank: 0, device: 2, host: 0, disk: 0 }];
const answer = (call: Call | undefined, overlaps = held): void => {
  call?.sink.item(encodeIndexAnswer({ kind: "overlaps", overlaps }, "msgpack"));
  call?.sink.ended({ kind: "complete" });
};
const unreachable = (call: Call | undefined): void =>
  call?.sink.ended({ kind: "failed", reason: "unreachable", message: "nobody listens" });

describe("an aggregated set", () => {
  it("asks who serves there in turn, with the prompt's blocks, and takes what is said", () => {
    const { client, calls, asked, ask } = start([instance(7), instance(8), instance(9, queryEndpoint, "other")]);
    client.workerAdded(worker(1));
    for (let index = 0; index < 4; index++) ask();
    expect(calls.map(({ instance: { instanceId } }) => instanceId)).toEqual([8n, 7n, 8n, 7n]);
    const [first] = calls;
    expect(readIndexQuestion(first?.body ?? Buffer.alloc(0), "msgpack")).toEqual({
      model: "m",
      blockHashes: Uint32Array.of(1, 2, 3, 4),
      isDeviceOnly: false,
    });
    answer(first);
    expect(asked).toEqual([held]);
    expect(client.counters).toMatchObject({ answered: 1, cancelled: 0 });
  });

  it("goes on without when nobody serves, at once", () => {
    const { client, asked, ask } = start([]);
    client.workerAdded(worker(1));
    ask();
    expect(asked).toEqual([undefined]);
    expect(client.counters.failedQueries).toEqual(new Map([["no-instance", 1]]));
  });

  it("says once that nobody serves any more", () => {
    const records = [instance(7)];
    const { client, calls, logged, ask } = start(records);
    client.workerAdded(worker(1));
    ask();
    answer(calls[0]);
    records.pop();
    ask();
    ask();
    expect(logged).toEqual(["the remote index cannot be used: requests are planned without it"]);
  });

  it("leaves one alone that failed, and lets a single request find out whether it is back", () => {
    const { client, calls, clock, logged, asked, ask } = start([instance(7)]);
    client.workerAdded(worker(1));
    ask();
    unreachable(calls[0]);
    for (let index = 0; index < 3; index++) ask();
    clock.nowMs = 1500;
    for (let index = 0; index < 3; index++) ask();
    expect(calls).toHaveLength(2);
    expect(asked).toEqual(Array.from({ length: 6 }, () => undefined));
    answer(calls[1]);
    ask();
    answer(calls[2]);
    expect(asked.slice(6)).toEqual([held, held]);
    expect(client.counters.failedQueries).toEqual(
      new Map([
        ["unreachable", 1],
        ["resting", 5],
      ]),
    );
    expect(logged).toEqual([
      "the remote index cannot be used: requests are planned without it",
      "the remote index can be used",
    ]);
  });

  it("asks the others meanwhile, and says nothing of it", () => {
    const { client, calls, logged, ask } = start([instance(7), instance(8)]);
    client.workerAdded(worker(1));
    ask();
    unreachable(calls[0]);
    ask();
    answer(calls[1]);
    ask();
    expect(calls.map(({ instance: { instanceId } }) => instanceId)).toEqual([8n, 7n, 7n]);
    expect(logged).toEqual([]);
    unreachable(calls[2]);
    expect(logged).toHaveLength(1);
  });

  it("waits no longer than it may, and hears nothing of an answer that comes later", async () => {
    const { client, calls, asked, ask } = start([instance(7)]);
    client.workerAdded(worker(1));
    ask();
    await rest(80);
    expect(asked).toEqual([undefined]);
    expect(calls[0]?.isCancelled).toBe(true);
    answer(calls[0]);
    expect(asked).toHaveLength(1);
    expect(client.counters.failedQueries).toEqual(new Map([["too-slow", 1]]));
  });

  it("lets go of a question whose request has ended", async () => {
    const { client, calls, asked, ask } = start([instance(7)]);
    client.workerAdded(worker(1));
    const pending = ask();
    pending.cancel();
    pending.cancel();
    await rest(80);
    expect(asked).toEqual([]);
    expect(calls[0]?.isCancelled).toBe(true);
    expect(client.counters).toMatchObject({ cancelled: 1, failedQueries: new Map() });
    // It said nothing of the server: the next request asks it.
    ask();
    expect(calls).toHaveLength(2);
  });

  it.each([
    ["an error", encodeIndexAnswer({ kind: "error", message: "no such model" }, "msgpack"), "error"],
    ["no answer at all", Buffer.from([0xc1]), "malformed"],
  ] as const)("counts %s as nothing known", (_what, item, reason) => {
    const { client, calls, asked, ask } = start([instance(7)]);
    client.workerAdded(worker(1));
    ask();
    calls[0]?.sink.item(item);
    calls[0]?.sink.ended({ kind: "complete" });
    expect(asked).toEqual([undefined]);
    expect(client.counters.failedQueries).toEqual(new Map([[reason, 1]]));
  });

  it("does not ask where an index is served that decisions feed", () => {
    const { client, calls, ask } = start([instance(7), instance(7, recordEndpoint)]);
    client.workerAdded(worker(1));
    ask();
    expect(calls).toEqual([]);
    expect(client.counters.failedQueries).toEqual(new Map([["topology", 1]]));
  });
});

describe("a disaggregated set", () => {
  it.each([
    [false, ["prefill"]],
    [true, ["prefill", "backend"]],
  ])("asks the components whose overlaps count (decode leg: %s)", (asksDecodeLeg, components) => {
    const serving = [instance(7, queryEndpoint, "prefill"), instance(8, queryEndpoint, "backend")];
    const { client, calls, asked, ask } = start(serving, { asksDecodeLeg });
    client.workerAdded(worker(1, "prefill"));
    client.workerAdded(worker(2, "decode"));
    ask();
    expect(calls.map(({ instance: { component } }) => component)).toEqual(components);
    for (const call of calls) answer(call);
    expect(asked).toEqual([components.flatMap(() => held)]);
  });

  it("asks the decode workers' component once the last prefill worker has left", () => {
    const { client, calls, ask } = start([instance(8, queryEndpoint, "backend")]);
    client.workerAdded(worker(1, "prefill"));
    client.workerAdded(worker(2, "decode"));
    client.workerRemoved(1n);
    ask();
    expect(calls.map(({ instance: { component } }) => component)).toEqual(["backend"]);
  });

  it("goes on with what one component says when another says nothing", () => {
    const { client, calls, asked, ask } = start([instance(7, queryEndpoint, "prefill")], { asksDecodeLeg: true });
    client.workerAdded(worker(1, "prefill"));
    client.workerAdded(worker(2, "decode"));
    ask();
    answer(calls[0]);
    expect(asked).toEqual([held]);
  });
});

describe("decisions", () => {
  const alone = [instance(7), instance(7, recordEndpoint)];
  const blocks = Uint32Array.of(1, 2);
  const chain = Uint32Array.of(3, 4);

  it("are written to the one who takes them, and not waited for", () => {
    const { client, calls } = start(alone, { isFedByEvents: false });
    client.workerAdded(worker(1));
    client.record({ workerId: 1n, dpRank: 0 }, blocks, chain);
    client.record({ workerId: 5n, dpRank: 0 }, blocks, chain);
    expect(calls.map(({ instance: { endpoint } }) => endpoint)).toEqual([recordEndpoint]);
    expect(readRoutingRecord(calls[0]?.body ?? Buffer.alloc(0), "msgpack")).toEqual({
      model: "m",
      workerId: 1n,
      dpRank: 0,
      blockHashes: blocks,
      sequenceHashes: chain,
    });
    calls[0]?.sink.item(encodeRecordAnswer({ kind: "recorded" }, "msgpack"));
    expect(client.counters.recorded).toBe(1);
  });

  it.each([
    ["two that take them", [...alone, instance(8), instance(8, recordEndpoint)]],
    ["one asked and another told", [instance(7), instance(8, recordEndpoint)]],
    ["one that is asked alone", [instance(7)]],
  ])("are written to nobody where there are %s", (_what, records) => {
    const { client, calls, asked, ask } = start(records, { isFedByEvents: false });
    client.workerAdded(worker(1));
    client.record({ workerId: 1n, dpRank: 0 }, blocks, chain);
    ask();
    expect({ calls, asked }).toEqual({ calls: [], asked: [undefined] });
    expect(client.counters.failedRecords).toEqual(new Map([["topology", 1]]));
  });

  it("are lost beyond a bound of those under way, and let go of at the end", () => {
    const { client, calls } = start(alone, { isFedByEvents: false });
    client.workerAdded(worker(1));
    for (let index = 0; index < 1030; index++) client.record({ workerId: 1n, dpRank: 0 }, blocks, chain);
    expect(calls).toHaveLength(1024);
    expect(client.counters.failedRecords).toEqual(new Map([["overflow", 6]]));
    client.close();
    expect(calls.every(({ isCancelled }) => isCancelled)).toBe(true);
  });

  it("are told nobody of a component whose workers have left", () => {
    const { client, calls, ask } = start(alone, { isFedByEvents: false });
    client.workerAdded(worker(1));
    client.record({ workerId: 1n, dpRank: 0 }, blocks, chain);
    client.workerRemoved(1n);
    const spy = jest.fn();
    client.ask(blocks, spy);
    expect(spy).toHaveBeenCalledWith(undefined);
    expect(calls.map(({ isCancelled }) => isCancelled)).toEqual([true]);
    ask();
  });
});
