/**
 * What it costs to ask another process's index before a plan, both ends in this process: the question's bytes, the connection, the match over 64 workers,
 * the answer's own connection and its bytes. One question after another, so a time is what a request waits longer.
 */
import { createKvIndex } from "../src/data/prefix-index/exact-kv-index.ts";
import { encodeIndexAnswer } from "../src/dynamo/kv-index/index-answer.ts";
import { queryEndpoint } from "../src/dynamo/kv-index/index-endpoints.ts";
import { readIndexQuestion } from "../src/dynamo/kv-index/index-question.ts";
import type { InstanceRecord } from "../src/dynamo/records.ts";
import { createEndpointServer } from "../src/dynamo/request-plane/endpoint-server.ts";
import { createRequestPlane } from "../src/dynamo/request-plane/request-plane.ts";
import { ComponentIndex } from "../src/prefill-router/remote-index/component-index.ts";
import { createRemoteCounters } from "../src/prefill-router/remote-index/remote-counters.ts";
import type { ServedIndex } from "../src/prefill-router/remote-index/served-component.ts";
import { SetServing } from "../src/prefill-router/remote-index/set-serving.ts";
import { silentLogger } from "../src/telemetry/log.ts";
import { tokenHasher } from "../src/tokens/block-hash.ts";
import { type Context, type Measurement, median, type Run, repeat } from "./measurement.ts";

const workers = 64;
const blocks = 512;
const questions = 1_000;
const component = { namespace: "ns", component: "backend" };
const model = "model";
const nobody: readonly InstanceRecord[] = [];
const tokensHashes = Uint32Array.from({ length: 2 * blocks }, (_, word) => Math.imul(word + 1, 0x9e3779b1) >>> 0);

/** An index of which every worker holds all blocks, as it is served. */
function servedIndex(): ServedIndex {
  const index = createKvIndex({ random: Math.random });
  const sequence = new Uint32Array(2 * blocks);
  tokenHasher().chain(0, 0, false, tokensHashes, 0, blocks, sequence, 0);
  let served: ServedIndex | undefined;
  const holders = Array.from({ length: workers }, () => index.attach());
  const serving = new SetServing({
    service: {
      serve: (_component, _model, given) => {
        served = given;
        return () => undefined;
      },
    },
    model,
    matcher: index,
    routed: undefined,
    holderOf: ({ workerId }) => holders[Number(workerId)],
    isSettled: () => true,
    now: () => performance.now(),
  });
  for (const [worker, holder] of holders.entries()) {
    index.stored(holder, 0, 0, 0, false, sequence, tokensHashes, 0, blocks);
    serving.workerAdded({
      id: BigInt(worker),
      instance: { ...component },
      card: { runtime: { dataParallelStartRank: 0, dataParallelSize: 1 } },
    });
  }
  if (served === undefined) throw new Error("no index is served");
  return served;
}

async function measureOnce(): Promise<Run> {
  const index = servedIndex();
  const server = await createEndpointServer(silentLogger, { host: "127.0.0.1" });
  const plane = await createRequestPlane({ host: "127.0.0.1" });
  try {
    const endpoint = { ...component, endpoint: queryEndpoint, instanceId: 1n };
    const { transport } = server.serve(endpoint, (body, codec) => {
      const { blockHashes, isDeviceOnly } = readIndexQuestion(body, codec);
      return encodeIndexAnswer({ kind: "overlaps", overlaps: index.overlaps(blockHashes, isDeviceOnly) }, codec);
    });
    const instances: readonly InstanceRecord[] = [{ type: "Endpoint", ...endpoint, transport, codec: "msgpack" }];
    const client = new ComponentIndex({
      component,
      model,
      isFedByEvents: true,
      lookup: (asked) => (asked.endpoint === queryEndpoint ? instances : nobody),
      plane,
      counters: createRemoteCounters(),
      now: () => performance.now(),
      log: silentLogger,
      answerWithinMs: 10_000,
    });
    const ask = (): Promise<void> =>
      new Promise((resolve, reject) => {
        client.ask(tokensHashes, (overlaps) => {
          if (overlaps?.length === workers && overlaps[0]?.device === blocks) resolve();
          else reject(new Error(`the answer is of ${overlaps?.length} workers`));
        });
      });
    for (let warm = 0; warm < questions; warm++) await ask();
    const waits: number[] = [];
    const before = process.cpuUsage();
    for (let question = 0; question < questions; question++) {
      const startedMs = performance.now();
      await ask();
      waits.push(performance.now() - startedMs);
    }
    const { user, system } = process.cpuUsage(before);
    return { "remote-index-cpu": (user + system) / questions, "remote-index-p50": 1_000 * median(waits) };
  } finally {
    await plane.close();
    await server.close();
  }
}

export const remoteIndex: Measurement = {
  name: "remote-index",
  what: `Asking another process's index of ${workers} workers for a prompt of ${blocks} blocks.`,
  figures: [
    {
      name: "remote-index-cpu",
      title: `A question of ${blocks} blocks to a served index, CPU of both ends`,
      unit: "µs",
      digits: 0,
    },
    { name: "remote-index-p50", title: "… time until its answer, p50", unit: "µs", digits: 0 },
  ],
  isLatency: false,
  measure: (context: Context) => repeat(context, measureOnce),
};

if (import.meta.main) for (let run = 0; run < 3; run++) console.log(await measureOnce());
