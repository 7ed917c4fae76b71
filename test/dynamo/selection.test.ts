/** The stage's selection and books against those of Dynamo's own selection service, on random states under many settings. */
import { afterEach, describe, expect, it } from "@jest/globals";
import { routerConfigFromEnvironment, stageSettings } from "../../src/prefill-router/config.ts";
import type { RouterWorker, WorkerRank } from "../../src/prefill-router/contracts.ts";
import { createWorkerStage } from "../../src/prefill-router/stage/worker-stage.ts";
import type { StageBooking, StageRequest, WorkerStage } from "../../src/prefill-router/stage.ts";
import { hashTokens } from "../../src/tokens/block-hash.ts";
import { type Oracle, startOracle } from "./oracle.ts";

const statesPerVariant = 160;

/** DYN_ROUTER_ variables, by what they show. */
const variants: readonly (readonly [name: string, environment: Readonly<Record<string, string>>])[] = [
  ["Dynamo's defaults", {}],
  ["no overlap credit", { KV_OVERLAP_SCORE_CREDIT: "0" }],
  ["half an overlap credit", { KV_OVERLAP_SCORE_CREDIT: "0.5" }],
  ["more than a whole credit", { KV_OVERLAP_SCORE_CREDIT: "1.7", HOST_CACHE_HIT_WEIGHT: "0.9" }],
  ["a decaying credit", { KV_OVERLAP_SCORE_CREDIT_DECAY: "1" }],
  ["a fast decaying, partial credit", { KV_OVERLAP_SCORE_CREDIT_DECAY: "3.7", KV_OVERLAP_SCORE_CREDIT: "0.8" }],
  ["a doubled prefill cost", { PREFILL_LOAD_SCALE: "2" }],
  ["no prefill cost", { PREFILL_LOAD_SCALE: "0" }],
  ["the deprecated weight", { KV_OVERLAP_SCORE_WEIGHT: "0" }],
  ["costly requests", { DECODE_ACTIVE_REQUEST_WEIGHT: "3.3" }],
  ["tier weights that are no binary fractions", { HOST_CACHE_HIT_WEIGHT: "0.3", DISK_CACHE_HIT_WEIGHT: "0.1" }],
  ["no reuse between requests", { ASSUME_KV_REUSE: "false" }],
  ["prefill tokens untracked", { TRACK_PREFILL_TOKENS: "no", DECODE_ACTIVE_REQUEST_WEIGHT: "0.5" }],
  ["a decode leg", { KV_OVERLAP_SCORE_CREDIT: "0", ASSUME_KV_REUSE: "0", TRACK_PREFILL_TOKENS: "off" }],
];

interface Choice {
  readonly worker_id: number;
  readonly dp_rank: number;
  readonly effective_prefill_tokens: number;
  readonly potential_decode_blocks: number;
  readonly cost: number;
}

interface Overlap {
  readonly worker_id: number;
  readonly dp_rank: number;
  readonly device_blocks: number;
  readonly host_pinned_extension_blocks: number;
  readonly disk_extension_blocks: number;
}

interface Load {
  readonly worker_id: number;
  readonly dp_rank: number;
  readonly potential_prefill_tokens: number;
  readonly potential_decode_blocks: number;
  readonly active_requests: number;
}

type Random = (below: number) => number;

function seeded(seed: number): Random {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 0x1_0000_0000) * below);
  };
}

/** The same workers, blocks and requests on both sides. */
class Pair {
  readonly #oracle: Oracle;
  readonly #stage: WorkerStage;
  readonly #random: Random;
  readonly #blockSize: number;
  readonly #ranks: WorkerRank[] = [];
  readonly #prompts: number[][] = [];
  readonly #overlaps: Overlap[][] = [];
  readonly #settings: StageRequest["settings"];
  readonly #bookings = new Map<string, StageBooking>();
  #nextId = 0;

  constructor(oracle: Oracle, random: Random, blockSize: number, settings: StageRequest["settings"]) {
    this.#oracle = oracle;
    this.#random = random;
    this.#blockSize = blockSize;
    this.#settings = settings;
    this.#stage = createWorkerStage({ stage: "decode", blockSize });
  }

  async start(): Promise<void> {
    const workers: RouterWorker[] = Array.from({ length: 5 }, (_, index) => ({
      id: BigInt(index * 11 + 1),
      role: "aggregated",
      dataParallelStartRank: index === 3 ? 2 : 0,
      dataParallelSize: index >= 3 ? 2 : 1,
      totalKvBlocks: 1000,
      maxNumBatchedTokens: 8192,
      taints: index % 2 === 0 ? ["even", "any"] : ["any"],
      stableRoutingId: undefined,
      topologyDomains: new Map(),
      kvTransferDomain: undefined,
      kvTransferEnforcement: undefined,
      kvTransferPreferredWeight: undefined,
      loras: new Set(),
    }));
    await this.#oracle.ask("workers", {
      block_size: this.#blockSize,
      workers: workers.map((worker) => ({
        worker_id: Number(worker.id),
        data_parallel_start_rank: worker.dataParallelStartRank,
        data_parallel_size: worker.dataParallelSize,
        total_kv_blocks: worker.totalKvBlocks,
        max_num_batched_tokens: worker.maxNumBatchedTokens,
        taints: worker.taints,
      })),
    });
    for (const worker of workers) {
      this.#stage.upsertWorker(worker);
      for (let rank = 0; rank < worker.dataParallelSize; rank++) {
        const of = { workerId: worker.id, dpRank: worker.dataParallelStartRank + rank };
        this.#stage.setHolder(of, this.#ranks.length);
        this.#ranks.push(of);
      }
    }
    const expected: object[][] = [];
    for (let prompt = 0; prompt < 6; prompt++) expected.push(await this.#storePrompt(prompt));
    // Prompts with a common prefix add to each other's: all is stored before any is asked for.
    for (const [prompt, of] of expected.entries()) {
      const token_ids = this.#prompts[prompt];
      this.#overlaps.push(await this.#oracle.ask<Overlap[]>("overlaps", { token_ids, expected: of }));
    }
  }

  /** A prompt of whole blocks and a tail, and a part of it in the tiers of some ranks. */
  async #storePrompt(prompt: number): Promise<object[]> {
    const blocks = 3 + this.#random(22);
    const length = blocks * this.#blockSize + this.#random(this.#blockSize);
    const tokens = Array.from({ length }, () => this.#random(50_000));
    const shared = this.#prompts[prompt - 1];
    if (prompt % 2 === 1 && shared !== undefined)
      tokens.splice(0, 2 * this.#blockSize, ...shared.slice(0, 2 * this.#blockSize));
    this.#prompts.push(tokens);
    const expected: object[] = [];
    for (const { workerId, dpRank } of this.#ranks) {
      let from = 0;
      for (const medium of ["GPU", "CPU", "DISK"]) {
        const to = Math.min(blocks, from + (this.#random(3) === 0 ? 0 : this.#random(blocks)));
        if (to > from) {
          await this.#oracle.ask("store", {
            worker_id: Number(workerId),
            dp_rank: dpRank,
            medium,
            token_ids: tokens.slice(from * this.#blockSize, to * this.#blockSize),
            block_hashes: Array.from({ length: to - from }, (_, block) => this.#engineHash(prompt, from + block)),
            ...(from === 0 ? {} : { parent: this.#engineHash(prompt, from - 1) }),
          });
        }
        from = to;
      }
      expected.push({ worker_id: Number(workerId), dp_rank: dpRank, total: from });
    }
    return expected;
  }

  #engineHash(prompt: number, block: number): number {
    return 1 + (prompt % 2 === 1 && block < 2 ? prompt - 1 : prompt) * 1000 + block;
  }

  /** A few changes of what runs, then one selection, compared. */
  async state(): Promise<void> {
    for (let change = this.#random(4); change > 0; change--) await this.#change();
    const prompt = this.#random(this.#prompts.length);
    const tokens = this.#prompts[prompt] ?? [];
    const restriction = this.#restriction();
    const ours = this.#request(tokens, this.#overlaps[prompt] ?? [], restriction);
    await this.#compare("select", { token_ids: tokens, ...restriction.theirs }, ours);
    await this.#compareLoads();
  }

  async #change(): Promise<void> {
    const ids = [...this.#bookings.keys()];
    const id = ids[this.#random(ids.length)];
    const booking = id === undefined ? undefined : this.#bookings.get(id);
    const kind = this.#random(6);
    if (booking === undefined || kind >= 3) {
      await this.#book();
    } else if (kind === 0) {
      await this.#oracle.ask("complete", { id });
      booking.prefillCompleted();
    } else if (kind === 1) {
      // Eighths add up exactly in any order: elsewhere a sum near half a block may round differently there and here.
      const decay = this.#random(2) === 0 ? undefined : this.#random(9) / 8;
      await this.#oracle.ask("output", { id, decay });
      booking.outputBlock(decay);
    } else {
      await this.#oracle.ask("free", { id });
      booking.free();
      this.#bookings.delete(booking.id);
    }
  }

  /** Books a prompt, or a part of one with an end of its own, where Dynamo wants it. */
  async #book(): Promise<void> {
    const prompt = this.#random(this.#prompts.length);
    const tokens = this.#prompts[prompt] ?? [];
    const isWhole = this.#random(3) === 0;
    const own = Array.from({ length: this.#random(40 * this.#blockSize) }, () => this.#random(50_000));
    const of = isWhole ? tokens : [...tokens.slice(0, this.#random(4) * this.#blockSize), ...own];
    if (of.length === 0) return;
    const overlaps = await this.#oracle.ask<Overlap[]>("overlaps", { token_ids: of, expected: [] });
    const restriction = this.#restriction();
    const ours = this.#request(of, overlaps, restriction);
    const id = `booking-${this.#nextId++}`;
    const choice = await this.#compare("reserve", { token_ids: of, selection_id: id, ...restriction.theirs }, ours);
    if (choice === undefined) return;
    const pinned = { workerId: BigInt(choice.worker_id), dpRank: choice.dp_rank };
    const selection = this.#stage.select(
      { ...ours, pinned, preferred: undefined, allowedWorkerIds: undefined, constraints: undefined },
      0,
      Math.random,
    );
    if (selection.kind === "none") throw new Error(selection.message);
    this.#bookings.set(id, this.#stage.book(id, selection, ours, 0));
  }

  #request(
    tokens: readonly number[],
    overlaps: readonly Overlap[],
    restriction: { readonly ours: Partial<StageRequest> },
  ): StageRequest {
    const column = (name: "device_blocks" | "host_pinned_extension_blocks" | "disk_extension_blocks") =>
      Int32Array.from(
        this.#ranks,
        ({ workerId, dpRank }) =>
          overlaps.find((overlap) => BigInt(overlap.worker_id) === workerId && overlap.dp_rank === dpRank)?.[name] ?? 0,
      );
    const { sequenceHashes } = hashTokens(Uint32Array.from(tokens), { blockSize: this.#blockSize });
    return {
      isl: tokens.length,
      sequenceHashes: sequenceHashes.slice(),
      matches: {
        device: column("device_blocks"),
        host: column("host_pinned_extension_blocks"),
        disk: column("disk_extension_blocks"),
      },
      loraName: undefined,
      expectedOutputTokens: undefined,
      allowedWorkerIds: undefined,
      pinned: undefined,
      preferred: undefined,
      constraints: undefined,
      settings: this.#settings,
      ...restriction.ours,
    };
  }

  /** The same limits on who may be chosen, in both spellings; often none. */
  #restriction(): { readonly theirs: object; readonly ours: Partial<StageRequest> } {
    const rank = this.#ranks[this.#random(this.#ranks.length)] ?? { workerId: 0n, dpRank: 0 };
    const theirRank = { worker_id: Number(rank.workerId), dp_rank: rank.dpRank };
    switch (this.#random(10)) {
      case 0:
        return { theirs: { pinned_worker: theirRank }, ours: { pinned: rank } };
      case 1:
        return { theirs: { affinity_target: theirRank }, ours: { preferred: rank } };
      case 2: {
        const ids = [1, 12, 23, 34, 45, 99].filter(() => this.#random(2) === 0);
        return { theirs: { allowed_worker_ids: ids }, ours: { allowedWorkerIds: new Set(ids.map(BigInt)) } };
      }
      case 3: {
        const taint = ["even", "any", "none"][this.#random(3)] ?? "";
        return {
          theirs: { routing_constraints: { required_taints: [taint] } },
          ours: { constraints: { requiredTaints: [taint], preferredTaints: new Map() } },
        };
      }
      case 4: {
        const weight = (this.#random(40) - 20) / 7;
        return {
          theirs: { routing_constraints: { preferred_taints: { even: weight, any: 0.3 } } },
          ours: {
            constraints: {
              requiredTaints: [],
              preferredTaints: new Map([
                ["even", weight],
                ["any", 0.3],
              ]),
            },
          },
        };
      }
      default:
        return { theirs: {}, ours: {} };
    }
  }

  async #compare(command: "select" | "reserve", request: object, ours: StageRequest): Promise<Choice | undefined> {
    let choice: Choice;
    try {
      choice = await this.#oracle.ask<Choice>(command, { request });
    } catch (error) {
      if (!String(error).includes("no endpoints available")) throw error;
      expect(this.#stage.select(ours, 0, Math.random).kind).toBe("none");
      return undefined;
    }
    const costs = this.#stage.explain(ours, 0).filter(({ excluded }) => excluded === undefined);
    const theirs = costs.find(
      ({ workerId, dpRank }) => workerId === BigInt(choice.worker_id) && dpRank === choice.dp_rank,
    );
    const least = Math.min(...costs.map(({ cost }) => cost ?? Number.POSITIVE_INFINITY));
    const isExact = ours.constraints === undefined && ours.pinned === undefined;
    // A pin is logged with three decimals; tanh and exp may differ in their last bit from one library to another.
    const tolerance = ours.pinned === undefined ? least * 1e-14 : 0.00051;
    const shown = { choice, costs, settings: ours.settings };
    if (theirs?.cost === undefined) throw new Error(`not eligible here: ${JSON.stringify(shown, bigintAsText)}`);
    const isSame = isExact ? theirs.cost === choice.cost : Math.abs(theirs.cost - choice.cost) <= tolerance;
    if (!isSame) throw new Error(`another cost: ${JSON.stringify(shown, bigintAsText)}`);
    if (theirs.cost > least + (isExact ? 0 : tolerance))
      throw new Error(`not the least: ${JSON.stringify(shown, bigintAsText)}`);
    const selection = this.#stage.select(ours, 0, Math.random);
    if (selection.kind === "none") throw new Error(selection.message);
    expect(selection.cost).toBe(least);
    const there = {
      ...ours,
      pinned: { workerId: BigInt(choice.worker_id), dpRank: choice.dp_rank },
      preferred: undefined,
      constraints: undefined,
      allowedWorkerIds: undefined,
    };
    const pinned = this.#stage.select(there, 0, Math.random);
    if (pinned.kind === "none") throw new Error(pinned.message);
    expect(ours.isl - Math.min(ours.isl, pinned.cachedTokens)).toBe(choice.effective_prefill_tokens);
    expect(pinned.potentialDecodeBlocks).toBe(choice.potential_decode_blocks);
    return choice;
  }

  async #compareLoads(): Promise<void> {
    const theirs = await this.#oracle.ask<Load[]>("loads");
    const line = (load: Load) => [
      load.worker_id,
      load.dp_rank,
      load.potential_prefill_tokens,
      load.potential_decode_blocks,
      load.active_requests,
    ];
    const ours = this.#stage
      .loads()
      .map((load) => [
        Number(load.workerId),
        load.dpRank,
        load.activePrefillTokens,
        load.activeDecodeBlocks,
        load.activeRequests,
      ]);
    const byRank = (a: readonly (number | undefined)[], b: readonly (number | undefined)[]) =>
      (a[0] ?? 0) - (b[0] ?? 0) || (a[1] ?? 0) - (b[1] ?? 0);
    expect(ours.toSorted(byRank)).toEqual(theirs.map(line).toSorted(byRank));
  }
}

function bigintAsText(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value;
}

describe("selection", () => {
  let oracle: Oracle | undefined;
  afterEach(async () => {
    await oracle?.close();
    oracle = undefined;
  });

  it.each(variants)("costs and chooses as Dynamo does with %s", async (name, variables) => {
    const environment = Object.fromEntries(
      Object.entries(variables).map(([key, value]) => [`DYN_ROUTER_${key}`, value]),
    );
    const { config, faults } = routerConfigFromEnvironment(environment);
    expect(faults).toEqual([]);
    const index = variants.findIndex((variant) => variant[0] === name);
    oracle = startOracle("selection.py", environment);
    const pair = new Pair(oracle, seeded(index + 1), [4, 16, 7][index % 3] ?? 4, stageSettings(config));
    await pair.start();
    for (let state = 0; state < statesPerVariant; state++) await pair.state();
  });

  it("is compared on at least a thousand states", () => {
    expect(variants.length * statesPerVariant).toBeGreaterThanOrEqual(1000);
  });
});
