/** Under load nothing is lost: ten thousand requests, edits of configuration and endpoint list, good and bad, while requests run. */
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { defaultModel, eventually, type Stack, startStack } from "../stack.ts";
import { type Load, startLoad, tally } from "./load.ts";

const fastWorker = ["--time-scale=1000", "--answer-tokens=2"];

const configWith = (endpointsFile: string, scorers: readonly string[]): string =>
  JSON.stringify({
    apiVersion: "llm-d.ai/v1alpha1",
    kind: "EndpointPickerConfig",
    plugins: [
      ...scorers.map((type) => ({ type })),
      { type: "file-discovery", parameters: { path: endpointsFile, watchFile: true } },
    ],
    schedulingProfiles: [{ name: "default", plugins: scorers.map((pluginRef) => ({ pluginRef })) }],
    dataLayer: { discovery: { pluginRef: "file-discovery" } },
  });

const requestBody = (i: number): string =>
  JSON.stringify({
    model: defaultModel,
    max_tokens: 2,
    stream: i % 4 === 0,
    messages: [{ role: "user", content: `conversation ${i % 50}: ${"words of a prompt ".repeat(i % 40)}` }],
  });

interface ConfigState {
  readonly loads: number;
  readonly faults: readonly string[];
  readonly schedulingProfiles: readonly { readonly plugins: readonly { readonly pluginRef: string }[] }[];
}

describe("under load", () => {
  let folder: string;
  let stack: Stack;
  let load: Load | undefined;
  const configFile = (): string => join(folder, "config.yaml");
  const endpointsFile = (): string => join(folder, "endpoints.yaml");
  /** As editors and Kubernetes do: a reader never sees half of it. */
  const replaceFile = async (path: string, text: string): Promise<void> => {
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
  };
  const endpointsText = (addresses: readonly string[]): string =>
    JSON.stringify({
      endpoints: addresses.map((hostPort) => {
        const { hostname, port } = new URL(`http://${hostPort}`);
        return { name: `worker-${port}`, address: hostname, port };
      }),
    });
  const workers = (): string[] => stack.workers.ready.map(({ hostPort }) => hostPort);
  const config = (): Promise<ConfigState> => stack.debug<ConfigState>("/debug/config");

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "signalbox-reload-"));
    await writeFile(endpointsFile(), endpointsText([]));
    await writeFile(configFile(), configWith(endpointsFile(), ["queue-scorer", "prefix-cache-scorer"]));
    stack = await startStack({
      workerArgs: fastWorker,
      listEndpoints: false,
      eppArgs: [`--config-file=${configFile()}`],
    });
    await replaceFile(endpointsFile(), endpointsText(workers()));
    await eventually("the endpoints", async () => (await shownEndpoints()).length === 4);
  }, 60_000);
  afterEach(async () => {
    await load?.stop();
    load = undefined;
  });
  afterAll(async () => {
    await stack.close();
    await rm(folder, { recursive: true, force: true });
  });

  const shownEndpoints = async (): Promise<string[]> =>
    (await stack.debug<{ address: string }[]>("/debug/endpoints")).map(({ address }) => address).sort();
  const startTraffic = (total?: number): Load => {
    load = startLoad({
      url: `${stack.url}/v1/chat/completions`,
      concurrency: 16,
      body: requestBody,
      ...(total === undefined ? {} : { total }),
    });
    return load;
  };
  const answered = (traffic: Load, count: number): Promise<unknown> => {
    const target = traffic.outcomes.length + count;
    return eventually(`${count} more answers`, () => Promise.resolve(traffic.outcomes.length >= target));
  };

  it("answers 10,000 requests without one error and keeps nothing", async () => {
    const traffic = startTraffic(10_000);
    await traffic.done;
    expect(tally(traffic.outcomes)).toEqual({ 200: 10_000 });
    await eventually(
      "no open exchange",
      async () => (await stack.debug<{ open: number }>("/debug/exchanges")).open === 0,
    );
    expect(await stack.debug("/debug/exchanges")).toMatchObject({ open: 0, pending: 0, reaped: 0 });
    const endpoints = await stack.debug<{ load: { requests: number; tokens: number } }[]>("/debug/endpoints");
    expect(endpoints.map((endpoint) => endpoint.load)).toEqual(Array(4).fill({ requests: 0, tokens: 0 }));
  }, 60_000);

  it("follows good edits of the configuration without one error", async () => {
    const traffic = startTraffic();
    for (const scorers of [
      ["kv-cache-utilization-scorer"],
      ["queue-scorer", "prefix-cache-scorer", "active-request-scorer"],
    ]) {
      const { loads } = await config();
      await replaceFile(configFile(), configWith(endpointsFile(), scorers));
      await eventually("the edit is applied", async () => (await config()).loads === loads + 1);
      const shown = (await config()).schedulingProfiles[0]?.plugins.map(({ pluginRef }) => pluginRef);
      expect(shown).toEqual(expect.arrayContaining(scorers));
      await answered(traffic, 200);
    }
    await traffic.stop();
    expect(Object.keys(tally(traffic.outcomes))).toEqual(["200"]);
  }, 30_000);

  it.each([
    ["no YAML", "plugins: [:"],
    [
      "an unknown plugin",
      '{"apiVersion":"llm-d.ai/v1alpha1","kind":"EndpointPickerConfig","plugins":[{"type":"no-such-scorer"}]}',
    ],
    ["an unknown key", '{"apiVersion":"llm-d.ai/v1alpha1","kind":"EndpointPickerConfig","plugin":[]}'],
  ])(
    "a bad edit of the configuration (%s) changes nothing and says why",
    async (_what, text) => {
      const traffic = startTraffic();
      const before = await config();
      await replaceFile(configFile(), text);
      await eventually("the edit is refused", async () => (await config()).faults.length > 0);
      await answered(traffic, 100);
      await traffic.stop();
      const now = await config();
      expect(now.loads).toBe(before.loads);
      expect(now.schedulingProfiles).toEqual(before.schedulingProfiles);
      expect(Object.keys(tally(traffic.outcomes))).toEqual(["200"]);
      await replaceFile(configFile(), configWith(endpointsFile(), ["queue-scorer"]));
      await eventually("a good edit is applied", async () => (await config()).faults.length === 0);
    },
    30_000,
  );

  it("follows edits of the endpoint list without one error, and sends nothing to what has left", async () => {
    const traffic = startTraffic();
    for (const kept of [workers().slice(0, 1), workers().slice(1, 3), workers()]) {
      await replaceFile(endpointsFile(), endpointsText(kept));
      await eventually("the new list", async () => String(await shownEndpoints()) === String([...kept].sort()));
      await answered(traffic, 100);
      const destinations = await stack.debug<{ outcome: { destinations: string[] } }[]>("/debug/decisions?limit=20");
      for (const { outcome } of destinations) expect(kept).toEqual(expect.arrayContaining(outcome.destinations));
    }
    await traffic.stop();
    expect(Object.keys(tally(traffic.outcomes))).toEqual(["200"]);
  }, 30_000);

  it("a bad edit of the endpoint list changes nothing", async () => {
    const traffic = startTraffic();
    await replaceFile(endpointsFile(), '{"endpoints":[{"name":"a","address":"not-an-ip","port":"1"}]}');
    await eventually("the edit is refused", () =>
      Promise.resolve(stack.picker.lines.some((line) => line.includes("expected an IPv4 or IPv6 address"))),
    );
    await answered(traffic, 100);
    await traffic.stop();
    expect(await shownEndpoints()).toEqual(workers().sort());
    expect(Object.keys(tally(traffic.outcomes))).toEqual(["200"]);
  }, 30_000);

  it("an emptied endpoint list is 503 for every request, and the pool comes back", async () => {
    await replaceFile(endpointsFile(), endpointsText([]));
    await eventually("the empty list", async () => (await shownEndpoints()).length === 0);
    for (const init of [{ method: "POST", body: requestBody(1) }, { method: "GET" }]) {
      const response = await fetch(`${stack.url}/v1/chat/completions`, init);
      expect(response.status).toBe(503);
      expect(response.headers.get("x-llm-d-request-dropped-reason")).toBe("rejected-no-endpoints");
      expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
      expect(await response.json()).toMatchObject({
        error: { message: expect.stringContaining("failed to find endpoint candidates"), param: null },
      });
    }
    await replaceFile(endpointsFile(), endpointsText(workers()));
    await eventually("the list again", async () => (await shownEndpoints()).length === 4);
    const response = await fetch(`${stack.url}/v1/chat/completions`, { method: "POST", body: requestBody(1) });
    expect(response.status).toBe(200);
    await response.arrayBuffer();
  });
});
