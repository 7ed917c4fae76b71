/** Events beside a pool in a real API server: an edited configuration that is refused, and requests for objectives that are not there. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { startWorkersChild } from "../../src/app/child.ts";
import { findEnvoy, startEnvoy } from "../../src/app/envoy.ts";
import { chat, eventually } from "../stack.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { installDefinitions } from "./definitions.ts";
import { grantPickerRights, pickerAccount, startPickerPod } from "./picker-pod.ts";
import { createPoolNamespace, poolSpec } from "./pool-namespace.ts";

let plane: ControlPlane;
let folder: string;
let count = 0;
const open: { close(): Promise<void> }[] = [];
/** Each takes less than a minute where nothing else runs. */
const limitMs = 300_000;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "signalbox-events-"));
  plane = await startControlPlane();
  await installDefinitions(plane.api, "inference-extension", "llm-d-objectives");
}, 120_000);
afterAll(async () => {
  await plane?.close();
  await rm(folder, { recursive: true, force: true });
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
}, 60_000);

interface EventObject {
  readonly reason: string;
  readonly message: string;
  readonly count: number;
  readonly involvedObject: { readonly kind: string; readonly name: string; readonly uid?: string };
}

const good = `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{ type: queue-scorer }]
schedulingProfiles: [{ name: default, plugins: [{ pluginRef: queue-scorer }] }]
`;

async function site(args: readonly string[] = []) {
  const its = await createPoolNamespace(plane, `events-${++count}`);
  const { namespace } = its;
  await grantPickerRights(plane, namespace);
  const workers = await startWorkersChild(1, ["--time-scale=1000"]);
  open.push(workers);
  await its.putPool("pool", poolSpec({ app: "vllm" }, Number(workers.ready[0]?.hostPort.split(":")[1])));
  await its.createPod("engine", { labels: { app: "vllm" }, ips: ["127.0.0.1"] });
  const file = join(folder, `${namespace}.yaml`);
  await writeFile(file, good);
  const picker = await startPickerPod({
    plane,
    namespace,
    podName: "picker-0",
    account: await plane.accountFolder(namespace, pickerAccount),
    args: [
      "--pool-name=pool",
      `--config-file=${file}`,
      "--secure-serving=false",
      "--metrics-endpoint-auth=false",
      ...args,
    ],
  });
  open.push(picker);
  const envoy = await startEnvoy({
    mode: "full-duplex",
    binary: findEnvoy(process.env),
    picker: { port: picker.ready.grpcPort, tls: false },
    listenPort: 0,
  });
  open.push(envoy);
  await eventually(
    "the picker is ready",
    async () => (await fetch(`http://127.0.0.1:${picker.ready.metricsPort}/readyz`)).ok,
    30_000,
  );
  const events = async (): Promise<readonly EventObject[]> =>
    (
      JSON.parse(await plane.api.request({ path: `/api/v1/namespaces/${namespace}/events` })) as {
        readonly items: readonly EventObject[];
      }
    ).items;
  const request = async (objective: string): Promise<number> => {
    const init = chat("hello");
    const headers = { ...(init.headers as object), "x-llm-d-inference-objective": objective };
    const answer = await fetch(`${envoy.url}/v1/chat/completions`, { ...init, headers });
    await answer.text();
    return answer.status;
  };
  const seen = (reason: string): Promise<EventObject> =>
    eventually(`the Event ${reason}`, async () => (await events()).find((event) => event.reason === reason), 60_000);
  return { namespace, file, events, request, seen, picker };
}

describe("Events beside the pool", () => {
  it(
    "tell of a configuration that is refused or taken and of unknown objectives, counted in one Event each",
    async () => {
      const { file, request, seen, events } = await site();
      for (const objective of ["premium", "standart", "premium"]) expect(await request(objective)).toBe(200);
      const unknown = await seen("UnknownObjective");
      expect(unknown.involvedObject).toMatchObject({ kind: "InferencePool", name: "pool", uid: expect.any(String) });
      expect(unknown.message).toContain('"premium"');
      await writeFile(file, `${good}unheardOf: true\n`);
      expect((await seen("ConfigurationRejected")).message).toContain("unheardOf");
      await writeFile(file, good.replaceAll("queue-scorer", "kv-cache-utilization-scorer"));
      expect((await seen("ConfigurationApplied")).count).toBe(1);
      await eventually(
        "all three requests are counted in one Event",
        async () =>
          (await events())
            .filter(({ reason }) => reason === "UnknownObjective")
            .map((event) => event.count)
            .join() === "3",
        60_000,
      );
      expect((await seen("UnknownObjective")).message).toContain('"premium", "standart"');
    },
    limitMs,
  );

  it(
    "are not written with --pool-events=false",
    async () => {
      const { file, request, events, picker } = await site(["--pool-events=false"]);
      expect(await request("premium")).toBe(200);
      await writeFile(file, `${good}unheardOf: true\n`);
      await eventually(
        "the edit is refused",
        () => Promise.resolve(picker.lines.some((line) => line.includes("the edited configuration is refused"))),
        30_000,
      );
      await picker.close(20_000);
      expect(await events()).toEqual([]);
    },
    limitMs,
  );
});
