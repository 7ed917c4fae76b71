/** From records to worker sets: who serves whom, when, and what is said about the rest. */
import { describe, expect, it } from "@jest/globals";
import type { ModelCard } from "../../../../src/dynamo/model-card/model-card.ts";
import type { LocalModelFiles, ModelFilesState } from "../../../../src/dynamo/model-card/model-files.ts";
import type { ModelFiles } from "../../../../src/dynamo/model-card/model-files-keeper.ts";
import { keyOf } from "../../../../src/dynamo/record-keys.ts";
import type {
  DynamoRecord,
  EventChannelRecord,
  EventSourceRecord,
  InstanceRecord,
  ModelRecord,
} from "../../../../src/dynamo/records.ts";
import { chooseSet, type WorkerSet, type WorkerSetListener } from "../../../../src/dynamo/worker-sets/worker-set.ts";
import { WorkerSets, type WorkerSetsOptions } from "../../../../src/dynamo/worker-sets/worker-sets.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import fc from "../../../properties.ts";

const baseCard: ModelCard = {
  displayName: "m",
  slug: "m",
  sourcePath: undefined,
  aliases: [],
  config: undefined,
  tokenizer: undefined,
  tokenizerConfig: undefined,
  chatTemplate: undefined,
  generationConfig: undefined,
  contextLength: 0,
  kvCacheBlockSize: 16,
  modelTypes: ["Chat", "Completions"],
  modelInput: "Tokens",
  role: "aggregated",
  needs: [],
  lora: undefined,
  runtime: {
    totalKvBlocks: 100,
    maxNumSeqs: 1,
    maxNumBatchedTokens: 100,
    dataParallelStartRank: 0,
    dataParallelSize: 1,
    hasLocalIndexer: true,
    publishesKvEvents: true,
    isEagle: false,
    taints: [],
    stableRoutingId: undefined,
    topologyDomains: new Map(),
    kvTransferDomain: undefined,
    kvTransferEnforcement: undefined,
    kvTransferPreferredWeight: undefined,
  },
  fingerprint: "same",
};

const decode: Partial<ModelCard> = { role: "decode", needs: [["prefill"]], fingerprint: "d" };
const prefill: Partial<ModelCard> = { role: "prefill", needs: [["decode"]], modelTypes: [], fingerprint: "p" };

interface At {
  readonly namespace?: string;
  readonly component?: string;
}

function instance(id: number, { namespace = "ns", component = "backend" }: At = {}): InstanceRecord {
  return {
    type: "Endpoint",
    namespace,
    component,
    endpoint: "generate",
    instanceId: BigInt(id),
    transport: { kind: "tcp", address: `127.0.0.1:${4000 + id}`, path: "p" },
    codec: "json",
  };
}

function model(
  id: number,
  card: Partial<ModelCard> = {},
  { namespace = "ns", component = "backend" }: At = {},
): ModelRecord {
  return {
    type: "Model",
    namespace,
    component,
    endpoint: "generate",
    instanceId: BigInt(id),
    modelSuffix: card.lora === undefined ? undefined : card.lora.name,
    card: { ...baseCard, ...card },
  };
}

function source(id: number, publisherId: number, dpRank = 0, component = "backend"): EventSourceRecord {
  return {
    type: "EventSource",
    scope: { namespace: "ns", component, endpoint: "generate" },
    topic: "kv-events",
    publisherId: BigInt(publisherId),
    workerId: BigInt(id),
    dpRank,
    recovery: undefined,
  };
}

class Heard implements WorkerSetListener {
  events: string[] = [];
  setAdded(set: WorkerSet): void {
    this.events.push(`set+ ${set.key} ${set.state}`);
  }
  setRemoved(set: WorkerSet): void {
    this.events.push(`set- ${set.key} ${set.workers.size}`);
  }
  setChanged(set: WorkerSet): void {
    this.events.push(`set~ ${set.key} ${set.state}`);
  }
  workerAdded(set: WorkerSet, { id, role }: { id: bigint; role: string }): void {
    this.events.push(`+${id} ${role} ${set.key}`);
  }
  workerChanged(set: WorkerSet, { id, role }: { id: bigint; role: string }): void {
    this.events.push(`~${id} ${role} ${set.key}`);
  }
  workerRemoved(set: WorkerSet, { id, role }: { id: bigint; role: string }): void {
    this.events.push(`-${id} ${role} ${set.key}`);
  }
  channelOpened(channel: EventChannelRecord): void {
    this.events.push(`open ${channel.publisherId}`);
  }
  channelClosed(channel: EventChannelRecord): void {
    this.events.push(`close ${channel.publisherId}`);
  }
}

class World {
  readonly heard = new Heard();
  readonly sets: WorkerSets;
  constructor(options: Partial<WorkerSetsOptions> = {}) {
    this.sets = new WorkerSets({
      log: silentLogger,
      listener: this.heard,
      filter: { kind: "all" },
      enforceDisagg: false,
      ...options,
    });
  }
  put(...records: readonly DynamoRecord[]): this {
    for (const record of records) this.sets.put(keyOf(record), record);
    return this;
  }
  remove(...records: readonly DynamoRecord[]): this {
    for (const record of records) this.sets.removed(keyOf(record), record);
    return this;
  }
  /** Puts both records of a worker. */
  worker(id: number, card: Partial<ModelCard> = {}, at: At = {}): this {
    return this.put(instance(id, at), model(id, card, at));
  }
  leave(id: number, card: Partial<ModelCard> = {}, at: At = {}): this {
    return this.remove(instance(id, at), model(id, card, at));
  }
  state(): string[] {
    return this.sets.sets.map((set) => `${set.key} ${set.state} ${set.topology} ${[...set.workers.keys()].join(",")}`);
  }
  told(): string[] {
    expect(this.sets.sets).toBeDefined();
    const { events } = this.heard;
    this.heard.events = [];
    return events;
  }
}

describe("worker sets", () => {
  it("has a worker once both its endpoint and its card are registered, and no longer than both are", () => {
    const world = new World().put(model(1));
    expect(world.state()).toEqual(["ns/m incomplete aggregated "]);
    world.put(instance(1));
    expect(world.state()).toEqual(["ns/m ready aggregated 1"]);
    world.remove(instance(1));
    expect(world.state()).toEqual(["ns/m incomplete aggregated "]);
    world.put(instance(1)).remove(model(1));
    expect(world.state()).toEqual([]);
  });

  it("tells each change once, those who go before those who come", () => {
    const world = new World().worker(1).worker(2);
    expect(world.told()).toEqual(["set+ ns/m ready", "+1 aggregated ns/m", "+2 aggregated ns/m"]);
    world.put(instance(1), model(1));
    expect(world.told()).toEqual(["~1 aggregated ns/m"]);
    world.leave(1).worker(3);
    expect(world.told()).toEqual(["-1 aggregated ns/m", "+3 aggregated ns/m"]);
    world.leave(2).leave(3);
    expect(world.told()).toEqual(["-2 aggregated ns/m", "-3 aggregated ns/m", "set- ns/m 0"]);
  });

  it("tells by itself within the turn, without being asked", async () => {
    const world = new World().worker(1);
    await Promise.resolve();
    expect(world.heard.events).toEqual(["set+ ns/m ready", "+1 aggregated ns/m"]);
  });

  it("waits for prefill where decode workers need it, and is disaggregated with it", () => {
    const world = new World().worker(1, decode);
    expect(world.state()).toEqual(["ns/m waiting-for-prefill waiting-for-prefill 1"]);
    expect(world.sets.lookup("m")).toEqual({
      kind: "not-ready",
      reason: "ns: no live prefill worker: its decode workers need prefill workers",
    });
    world.worker(2, prefill, { component: "prefill" });
    expect(world.state()).toEqual(["ns/m ready disaggregated 1,2"]);
    world.remove(instance(2, { component: "prefill" }));
    expect(world.state()).toEqual(["ns/m waiting-for-prefill waiting-for-prefill 1"]);
  });

  it("is not ready with prefill workers alone, and keeps its key when decode workers come", () => {
    const world = new World().worker(2, prefill, { component: "prefill" });
    expect(world.sets.sets[0]).toMatchObject({
      key: "ns/m",
      state: "incomplete",
      reason: "missing worker types: decode",
    });
    expect(world.told()).toEqual(["set+ ns/m incomplete", "+2 prefill ns/m"]);
    world.worker(1, decode);
    expect(world.told()).toEqual(["+1 decode ns/m", "set~ ns/m ready"]);
  });

  it("serves with decode workers that need nobody, unless disaggregation is enforced", () => {
    const alone = { role: "decode", needs: [], fingerprint: "d" } as const;
    expect(new World().worker(1, alone).state()).toEqual(["ns/m ready aggregated 1"]);
    const enforced = new World({ enforceDisagg: true }).worker(1, alone);
    expect(enforced.state()).toEqual(["ns/m waiting-for-prefill waiting-for-prefill 1"]);
    expect(new World({ enforceDisagg: true }).worker(1).state()).toEqual([
      "ns/m waiting-for-prefill waiting-for-prefill 1",
    ]);
    enforced.worker(2, { ...prefill, needs: [] }, { component: "prefill" });
    expect(enforced.state()).toEqual(["ns/m ready disaggregated 1,2"]);
  });

  it("never joins prefill and decode of two namespaces", () => {
    const world = new World()
      .worker(1, decode, { namespace: "ns-aaaaaaaa" })
      .worker(2, prefill, { namespace: "ns-bbbbbbbb" });
    expect(world.state()).toEqual([
      "ns-aaaaaaaa/m waiting-for-prefill waiting-for-prefill 1",
      "ns-bbbbbbbb/m incomplete disaggregated 2",
    ]);
  });

  it("offers the ready namespaces of a rolling update in proportion to their serving workers", () => {
    const old = { namespace: "ns-aaaaaaaa" };
    const fresh = { namespace: "ns-bbbbbbbb" };
    const world = new World();
    for (const id of [1, 2, 3]) world.worker(id, decode, old);
    world.worker(4, decode, fresh).worker(5, prefill, { ...old, component: "p" });
    const before = world.sets.lookup("m");
    expect(before.kind === "ready" && before.choices.map(({ set, workers }) => [set.namespace, workers])).toEqual([
      ["ns-aaaaaaaa", 3],
    ]);
    world.worker(6, prefill, { ...fresh, component: "p" });
    const lookup = world.sets.lookup("m");
    if (lookup.kind !== "ready") throw new Error("not ready");
    expect([0, 0.7499, 0.75, 0.9999].map((random) => chooseSet(lookup.choices, random)?.namespace)).toEqual([
      "ns-aaaaaaaa",
      "ns-aaaaaaaa",
      "ns-bbbbbbbb",
      "ns-bbbbbbbb",
    ]);
    expect(chooseSet([], 0.5)).toBeUndefined();
  });

  it("keeps out workers whose card differs from the one that came first, until those have gone", () => {
    const world = new World().worker(1);
    expect(world.state()).toEqual(["ns/m ready aggregated 1"]);
    world
      .worker(2, { fingerprint: "other", kvCacheBlockSize: 32 })
      .worker(3, { fingerprint: "other", kvCacheBlockSize: 32 });
    const [set] = world.sets.sets;
    expect(set).toMatchObject({
      state: "ready",
      reason: "2 worker(s) left out: their cards differ from the first one's",
      rejected: [{ fingerprint: "other", instanceIds: [2n, 3n] }],
    });
    expect([...(set?.workers.keys() ?? [])]).toEqual([1n]);
    world.told();
    world.leave(1);
    expect(world.told()).toEqual(["-1 aggregated ns/m", "+2 aggregated ns/m", "+3 aggregated ns/m", "set~ ns/m ready"]);
    expect(world.sets.sets[0]?.card?.kvCacheBlockSize).toBe(32);
  });

  it("takes the card of the most workers when one list brought all", () => {
    const world = new World().worker(1).worker(2, { fingerprint: "other" }).worker(3, { fingerprint: "other" });
    expect(world.state()).toEqual(["ns/m ready aggregated 2,3"]);
  });

  it("refuses a card that changes under its key, but for its taints", () => {
    const world = new World().worker(1);
    world.told();
    world.put(model(1, { fingerprint: "changed", kvCacheBlockSize: 32 }));
    world.put(model(1, { runtime: { ...baseCard.runtime, totalKvBlocks: 7 } }));
    expect(world.told()).toEqual([]);
    expect([...world.sets.faults.keys()]).toEqual([keyOf(model(1))]);
    world.put(model(1, { runtime: { ...baseCard.runtime, taints: ["spot"] } }));
    expect(world.sets.faults.size).toBe(0);
    expect(world.told()).toEqual(["~1 aggregated ns/m"]);
    expect(world.sets.sets[0]?.workers.get(1n)?.card.runtime.taints).toEqual(["spot"]);
    // The removal names the card that was refused; the one that was accepted goes.
    world.remove(model(1, { fingerprint: "changed" }));
    expect(world.state()).toEqual([]);
  });

  it("does not guess which of two decode groups belongs to the prefill workers", () => {
    const world = new World().worker(1, decode).worker(2, { ...decode, fingerprint: "d2" }, { component: "other" });
    world.worker(3, prefill, { component: "prefill" });
    expect(world.sets.sets.map((set) => set.state)).toEqual(["conflict", "conflict"]);
    expect(world.sets.sets[0]?.reason).toContain("decode");
  });

  it("makes a set of each aggregated group, whose block sizes may differ", () => {
    const world = new World().worker(1).worker(2, { fingerprint: "x", kvCacheBlockSize: 64 }, { component: "big" });
    expect(world.state()).toEqual([
      "ns/m ready aggregated 1",
      "ns/m/big/generate/aggregated/Chat|Completions ready aggregated 2",
    ]);
    expect(world.sets.lookup("m")).toMatchObject({ choices: [{ workers: 1 }, { workers: 1 }] });
    world.leave(1);
    expect(world.state()).toEqual(["ns/m ready aggregated 2"]);
  });

  it("lets workers from before there were roles serve, whatever their needs", () => {
    const world = new World().worker(1, { role: undefined, needs: [["prefill"]] });
    expect(world.state()).toEqual(["ns/m ready aggregated 1"]);
    world.worker(2, prefill, { component: "p" });
    expect(world.state()).toEqual(["ns/m ready disaggregated 1,2"]);
  });

  it("finds a model by its name, an alias or an adapter of some of its workers", () => {
    const lora = { displayName: "m-lora", lora: { name: "m-lora", maxAdapters: 4 }, fingerprint: "l" } as const;
    const world = new World()
      .put(model(2, lora))
      .worker(1, { aliases: ["alias"] })
      .worker(2, { aliases: ["alias"] });
    expect(world.sets.lookup("alias")).toMatchObject({ kind: "ready", lora: undefined, choices: [{ workers: 2 }] });
    expect(world.sets.lookup("m-lora")).toMatchObject({ kind: "ready", lora: "m-lora", choices: [{ workers: 1 }] });
    expect(world.sets.lookup("nobody")).toEqual({ kind: "unknown" });
    expect(world.sets.readyNames().toSorted()).toEqual(["alias", "m", "m-lora"]);
    world.told();
    world.remove(model(2, lora));
    expect(world.told()).toEqual(["~2 aggregated ns/m"]);
    expect(world.sets.lookup("m-lora")).toEqual({ kind: "unknown" });
  });

  it("refuses a card whose key and content disagree about being an adapter's, and shows why while it is there", () => {
    const odd = { ...model(1), modelSuffix: "x" };
    const world = new World().put(instance(1), odd);
    expect(world.state()).toEqual([]);
    expect([...world.sets.faults]).toEqual([[keyOf(odd), "the card and its key disagree about being an adapter's"]]);
    world.remove(odd);
    expect(world.sets.faults.size).toBe(0);
  });

  it("knows the publishers of each worker by rank, the latest for a rank", () => {
    const world = new World().put(source(1, 10), source(1, 11, 1)).worker(1);
    const ranks = (): string[] =>
      [...(world.sets.sets[0]?.workers.get(1n)?.sources ?? [])].map(
        ([rank, { publisherId }]) => `${rank}:${publisherId}`,
      );
    expect(ranks().toSorted()).toEqual(["0:10", "1:11"]);
    world.told();
    world
      .put(source(1, 12))
      .put(source(9, 13))
      .put(source(1, 14, 0, "elsewhere"));
    expect(world.told()).toEqual(["~1 aggregated ns/m"]);
    expect(ranks().toSorted()).toEqual(["0:12", "1:11"]);
    world.remove(source(1, 12), source(1, 10), source(1, 11, 1));
    expect(ranks()).toEqual([]);
  });

  it("moves a publisher whose record is replaced by one of another worker", () => {
    const world = new World().worker(1).worker(2).put(source(1, 10)).put(source(2, 10));
    const [set] = world.sets.sets;
    expect([set?.workers.get(1n)?.sources.size, set?.workers.get(2n)?.sources.size]).toEqual([0, 1]);
  });

  it("hands on channels and finds them by exact scope", () => {
    const scope = { namespace: "ns", component: "backend", endpoint: "generate" };
    const channel: EventChannelRecord = {
      type: "EventChannel",
      scope,
      topic: "kv-events",
      publisherId: 5n,
      transport: { kind: "zmq", endpoint: "tcp://127.0.0.1:1" },
    };
    const world = new World().put(channel);
    expect(world.sets.channels(scope, "kv-events")).toEqual([channel]);
    expect(world.sets.channels({ ...scope, endpoint: undefined }, "kv-events")).toEqual([]);
    expect(world.sets.channels(scope, "kv-event")).toEqual([]);
    world.remove(channel);
    expect(world.told()).toEqual(["open 5", "close 5"]);
  });

  it("finds who serves an index by its endpoint, in one list until it changes", () => {
    const scope = { namespace: "ns", component: "backend", endpoint: "kv_indexer_query" };
    const [first, second] = [1, 2].map((id) => ({ ...instance(id), endpoint: scope.endpoint }));
    if (first === undefined || second === undefined) throw new Error("two instances");
    const world = new World().worker(1).put(first).put(second).put(second);
    const both = world.sets.servedIndices(scope);
    expect(both).toEqual([first, second]);
    expect(world.worker(2).sets.servedIndices(scope)).toBe(both);
    expect(world.sets.servedIndices({ ...scope, endpoint: "generate" })).toEqual([]);
    expect(world.sets.servedIndices({ ...scope, component: "prefill" })).toEqual([]);
    world.remove(first);
    expect(world.sets.servedIndices(scope)).toEqual([second]);
    world.remove(second);
    expect(world.sets.servedIndices(scope)).toEqual([]);
  });

  it("serves a thousand models and leaves out what is registered beyond, saying so", () => {
    const world = new World();
    for (let id = 0; id < 1100; id++) world.worker(id, { displayName: `m${id}` });
    expect(world.sets.sets).toHaveLength(1024);
    expect([...world.sets.faults.values()][0]).toMatch("more than 1024 models");
    expect(world.sets.faults.size).toBe(76);
    world.leave(0, { displayName: "m0" });
    expect(world.sets.sets).toHaveLength(1023);
    world.worker(0, { displayName: "other" });
    expect(world.sets.lookup("other").kind).toBe("ready");
  });

  it("looks only at the namespaces it was told to", () => {
    const world = new World({ filter: { kind: "prefix", prefix: "ns", isStrict: true } });
    for (const [index, namespace] of ["ns", "ns-0123abcd", "ns-other", "os"].entries())
      world.worker(index, {}, { namespace });
    expect(world.sets.sets.map((set) => set.namespace)).toEqual(["ns", "ns-0123abcd"]);
  });

  it("waits for the model's files, says why, and lets them go with the set", () => {
    const files = new FakeFiles();
    const world = new World({ files });
    world.worker(1);
    expect(world.sets.sets[0]).toMatchObject({
      state: "waiting-for-files",
      reason: "the model's files are being fetched",
    });
    files.tell({ kind: "failed", reason: "tokenizer http://x: answered with status 404" });
    world.sets.filesChanged("same");
    expect(world.sets.lookup("m")).toEqual({
      kind: "not-ready",
      reason: "ns: tokenizer http://x: answered with status 404",
    });
    world.told();
    files.tell({ kind: "ready", files: noFiles });
    world.sets.filesChanged("same");
    expect(world.told()).toEqual(["set~ ns/m ready"]);
    world.leave(1);
    expect(world.state()).toEqual([]);
    expect(files.claims).toBe(0);
  });

  it("is, after any sequence of changes, what the remaining records alone make, and its listener knows the same workers", () => {
    const pool: readonly DynamoRecord[] = [1, 2, 3].flatMap((id) => [
      instance(id),
      model(id, decode),
      instance(id + 10, { component: "prefill" }),
      model(id + 10, prefill, { component: "prefill" }),
      source(id, 100 + id),
    ]);
    fc.assert(
      fc.property(
        fc.array(fc.record({ index: fc.nat({ max: pool.length - 1 }), isPut: fc.boolean(), isTurn: fc.boolean() })),
        (steps) => {
          const world = new World();
          const known = new Set<string>();
          const present = new Map<string, DynamoRecord>();
          for (const { index, isPut, isTurn } of steps) {
            const record = pool[index];
            if (record === undefined) continue;
            const key = keyOf(record);
            if (isPut) {
              world.put(record);
              present.set(key, record);
            } else if (present.delete(key)) world.remove(record);
            if (isTurn) follow(known, world.told());
          }
          follow(known, world.told());
          const fresh = new World().put(...present.values());
          const seen = (w: World): string[] =>
            w.state().map((line) => line.replace(/[0-9,]+$/, (ids) => ids.split(",").toSorted().join(",")));
          expect(seen(world)).toEqual(seen(fresh));
          expect([...known].toSorted()).toEqual(
            world.sets.sets.flatMap((set) => [...set.workers.keys()].map(String)).toSorted(),
          );
        },
      ),
      { numRuns: 300 },
    );
  });
});

function follow(known: Set<string>, events: readonly string[]): void {
  for (const event of events) {
    const id = /^[+-](\d+)/.exec(event)?.[1];
    if (id === undefined) continue;
    if (event.startsWith("+")) {
      expect(known.has(id)).toBe(false);
      known.add(id);
    } else expect(known.delete(id)).toBe(true);
  }
}

const noFiles: LocalModelFiles = {
  tokenizer: undefined,
  tokenizerConfig: undefined,
  chatTemplate: undefined,
  config: undefined,
  generationConfig: undefined,
};

class FakeFiles implements ModelFiles {
  claims = 0;
  #owners = new Set<object>();
  #state: ModelFilesState = { kind: "loading" };
  tell(state: ModelFilesState): void {
    this.#state = state;
  }
  want(_cards: readonly ModelCard[], owner: object): ModelFilesState {
    this.#owners.add(owner);
    this.claims = this.#owners.size;
    return this.#state;
  }
  drop(_fingerprint: string, owner: object): void {
    this.#owners.delete(owner);
    this.claims = this.#owners.size;
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}
