/** Worker sets made of what real Dynamo workers register, in files and in etcd; and records of ours as Dynamo's frontend takes them. */
import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import { createEtcdDiscovery } from "../../src/dynamo/discovery/etcd/etcd-discovery.ts";
import { createEtcdRegistration } from "../../src/dynamo/discovery/etcd/etcd-registration.ts";
import { createFileDiscovery } from "../../src/dynamo/discovery/file/file-discovery.ts";
import { createFileRegistration } from "../../src/dynamo/discovery/file/file-registration.ts";
import type { DynamoRegistration } from "../../src/dynamo/discovery/registration.ts";
import { encodeModelRecord, encodeRecord } from "../../src/dynamo/encode-record.ts";
import { createModelFiles } from "../../src/dynamo/model-card/model-files-keeper.ts";
import type { DynamoDiscovery } from "../../src/dynamo/records.ts";
import type { WorkerSet, WorkerSetListener } from "../../src/dynamo/worker-sets/worker-set.ts";
import { WorkerSets } from "../../src/dynamo/worker-sets/worker-sets.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import { type RunningEtcd, startEtcd } from "../etcd.ts";
import { eventually } from "../stack.ts";
import { type DynamoStack, startDynamo } from "./stack.ts";

const log = silentLogger;
const nothing = (): void => {};
const deaf: WorkerSetListener = {
  setAdded: nothing,
  setRemoved: nothing,
  setChanged: nothing,
  workerAdded: nothing,
  workerChanged: nothing,
  workerRemoved: nothing,
  channelOpened: nothing,
  channelClosed: nothing,
};

describe.each(["file", "etcd"] as const)("discovery of real workers over %s", (backend) => {
  const open: { close(): Promise<void> }[] = [];
  let etcd: RunningEtcd | undefined;
  let stack: DynamoStack;
  let sets: WorkerSets;

  beforeEach(async () => {
    if (backend === "etcd") {
      etcd = await startEtcd();
      open.push(etcd);
    }
    stack = await startDynamo({
      layout: "disaggregated",
      adapters: ["ada"],
      backend: etcd === undefined ? "file" : { etcd: etcd.url },
    });
    open.push(stack);
    const files = createModelFiles({ log, changed: (fingerprint) => sets.filesChanged(fingerprint) });
    open.push(files);
    sets = new WorkerSets({
      log,
      listener: deaf,
      filter: { kind: "exact", namespace: stack.namespace },
      enforceDisagg: false,
      files,
    });
    const discovery: DynamoDiscovery =
      etcd === undefined
        ? createFileDiscovery({ root: stack.storePath, log })
        : createEtcdDiscovery({ endpoints: [etcd.url], log });
    open.push(discovery);
    await discovery.start(sets);
  });
  afterEach(async () => {
    for (let last = open.pop(); last !== undefined; last = open.pop()) await last.close();
    etcd = undefined;
  });

  const only = (): WorkerSet => {
    const [set, ...others] = sets.sets;
    if (set === undefined || others.length > 0) throw new Error(`${sets.sets.length} sets`);
    return set;
  };
  const ids = (): bigint[] => [...only().workers.keys()].toSorted((a, b) => (a < b ? -1 : 1));
  const expected = (): bigint[] =>
    stack.workers.map(({ instanceId }) => instanceId).toSorted((a, b) => (a < b ? -1 : 1));

  it("finds who serves what, follows workers that come and go, and forgets those that die", async () => {
    await eventually("the set is ready", async () => sets.sets.length === 1 && only().state === "ready");
    expect(only()).toMatchObject({
      topology: "disaggregated",
      servingWorkers: 2,
      rejected: [],
      files: { kind: "ready" },
    });
    expect(ids()).toEqual(expected());
    for (const worker of stack.workers) expect(only().workers.get(worker.instanceId)?.role).toBe(worker.role);
    const prefills = () => [...only().workers.values()].filter((worker) => worker.role === "prefill");
    // A worker says where its events are after it has said that it serves.
    await eventually("their events are known", async () => prefills().every(({ sources }) => sources.size === 1));
    const [prefill] = prefills();
    expect([...(prefill?.sources.keys() ?? [])]).toEqual([0]);
    expect(prefill?.sources.get(0)?.recovery?.transport.kind).toBe("tcp");
    const scope = prefill?.kvScope ?? { namespace: "", component: "", endpoint: "" };
    await eventually("their channel is known", async () => sets.channels(scope, "kv-events").length === 1);
    expect(sets.lookup("ada")).toMatchObject({ kind: "ready", lora: "ada" });

    const added = await stack.addWorker("decode");
    await eventually("the new worker is known", async () => ids().includes(added.instanceId));
    await stack.stopWorker(added);
    await eventually("the stopped worker is gone", async () => !ids().includes(added.instanceId));
    expect(ids()).toEqual(expected());

    const [victim] = stack.workersOf("prefill");
    if (victim === undefined) throw new Error("no prefill worker");
    if (backend === "file") {
      await stack.killWorker(victim);
      await eventually("prefill is missed", async () => only().state === "waiting-for-prefill", 15_000);
    } else {
      await etcd?.restart();
      expect(ids()).toEqual(expected());
      await stack.stopWorker(victim);
      await eventually("prefill is missed", async () => only().state === "waiting-for-prefill", 15_000);
    }
    expect(sets.lookup(stack.model)).toMatchObject({ kind: "not-ready" });
  }, 90_000);

  const offered = async (): Promise<string> => await (await fetch(`${stack.frontend.url}/v1/models`)).text();

  it("registers so that Dynamo's own frontend takes it for a worker", async () => {
    await eventually("the set is ready", async () => sets.sets.length === 1 && only().state === "ready");
    const registration: DynamoRegistration =
      etcd === undefined
        ? createFileRegistration({ root: stack.storePath, log })
        : await createEtcdRegistration({ endpoints: [etcd.url], log });
    open.push(registration);
    const { namespace } = stack;
    const id = { namespace, component: "ours", endpoint: "generate", instanceId: registration.instanceId };
    await registration.put(
      encodeRecord({
        ...id,
        type: "Endpoint",
        transport: {
          kind: "tcp",
          address: "127.0.0.1:1",
          path: `${id.instanceId.toString(16)}/${namespace}/ours/generate`,
        },
        codec: "json",
      }),
    );
    const tokenizer = only().card?.tokenizer;
    const config = only().card?.config;
    const wire = (file: typeof config): object => ({
      path: file?.path,
      checksum: file?.checksum,
      size: file?.sizeBytes,
    });
    await registration.put(
      encodeModelRecord(
        { ...id, modelSuffix: undefined },
        {
          display_name: "ours",
          slug: "ours",
          source_path: stack.modelPath,
          model_info: { hf_config_json: wire(config) },
          tokenizer: { hf_tokenizer_json: wire(tokenizer) },
          prompt_formatter: { hf_tokenizer_config_json: wire(only().card?.tokenizerConfig) },
          kv_cache_block_size: 16,
          migration_limit: 0,
          model_type: "Chat | Completions",
          model_input: "Tokens",
          worker_type: "aggregated",
          needs: [],
          runtime_config: {
            total_kv_blocks: null,
            max_num_seqs: null,
            max_num_batched_tokens: null,
            tool_call_parser: null,
            reasoning_parser: null,
          },
        },
      ),
    );
    await eventually("the frontend offers our model", async () => (await offered()).includes('"ours"'));
    await registration.close();
    await eventually("the frontend has let it go", async () => !(await offered()).includes('"ours"'));
  }, 90_000);
});
