/**
 * The reference picker's scores for a sequence of prompts (test/fixtures/reference/prefix-scores.json): the hash granularity, the partial last block, what
 * is learnt from a request and how it is weighed against load are the same here, to six decimals.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { eventually } from "../stack.ts";
import {
  connectExtProc,
  type ExtProc,
  requestBody,
  requestHeaders,
  responseBody,
  responseHeaders,
} from "./ext-proc-client.ts";
import { type FakeEngines, startFakeEngines } from "./fake-engines.ts";

interface Recorded {
  readonly queues: readonly number[];
  readonly requestsPerPhase: number;
  readonly requests: readonly {
    readonly prompt: readonly [unit: number, times: number, tail: number, tails: number];
    readonly scores: readonly number[];
  }[];
}

const recorded = JSON.parse(
  await readFile(join(import.meta.dirname, "../fixtures/reference/prefix-scores.json"), "utf8"),
) as Recorded;

const config = `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: prefix-cache-scorer}, {type: queue-scorer}]
schedulingProfiles:
- name: default
  plugins: [{pluginRef: prefix-cache-scorer}, {pluginRef: queue-scorer, weight: 3}]
`;

let engines: FakeEngines;
let picker: Child<EppPorts>;
let extProc: ExtProc;

beforeAll(async () => {
  engines = await startFakeEngines(recorded.queues.length);
  picker = await startEppChild([
    `--endpoints=${engines.engines.map(({ address }) => address).join(",")}`,
    `--config-text=${config}`,
    "--secure-serving=false",
    "--emit-endpoint-scores",
    "--refresh-metrics-interval=10ms",
    "--drain-timeout=0s",
  ]);
  extProc = connectExtProc(picker.ready.grpcPort, false);
}, 30_000);

afterAll(async () => {
  extProc.close();
  await picker.close();
  await engines.close();
});

async function observe(queues: readonly number[]): Promise<void> {
  engines.set(queues.map((queue) => ({ queue, kv: 0 })));
  await eventually("the scraped queues", async () => {
    const answer = await fetch(`http://127.0.0.1:${picker.ready.metricsPort}/debug/endpoints`);
    const shown = (await answer.json()) as { address: string; metrics: { waitingRequests: number } }[];
    return engines.engines.every(
      ({ address }, i) => shown.find((one) => one.address === address)?.metrics.waitingRequests === queues[i],
    );
  });
}

function promptOf([unit, times, tail, tails]: Recorded["requests"][number]["prompt"]): string {
  const repeated = `${unit}${"abcdefgh".repeat(64)}`.repeat(times);
  return tail === 0 ? repeated : repeated + `tail${tail}`.repeat(tails);
}

async function scoresOf(prompt: string): Promise<readonly (number | undefined)[]> {
  const messages = [
    requestHeaders({ ":method": "POST", ":path": "/v1/completions" }),
    requestBody(JSON.stringify({ model: "m1", prompt })),
    responseHeaders({ ":status": "200", "content-type": "application/json" }),
    responseBody("{}", { endOfStream: true }),
  ];
  const [reply] = await extProc.exchange(messages, 4);
  if (reply?.kind !== "requestHeaders") throw new Error(`not routed: ${JSON.stringify(reply)}`);
  const metadata = reply.metadata as {
    "envoy.lb": { "x-gateway-destination-endpoint-scores": Record<string, number> };
  };
  const scores = metadata["envoy.lb"]["x-gateway-destination-endpoint-scores"];
  return engines.engines.map(({ address }) => scores[address]);
}

it("scores a sequence of prompts as the reference does", async () => {
  const { queues, requestsPerPhase, requests } = recorded;
  for (const [i, { prompt, scores }] of requests.entries()) {
    if (i % requestsPerPhase === 0) {
      const phase = i / requestsPerPhase;
      await observe(queues.map((_, engine) => queues[(engine + phase) % queues.length] ?? 0));
    }
    const got = await scoresOf(promptOf(prompt));
    expect({ request: i, scores: got.map((score) => Math.round((score ?? -1) * 1e6) / 1e6) }).toEqual({
      request: i,
      scores,
    });
  }
}, 30_000);
