/**
 * The index of KV blocks on one core, in CPU time: stored events of 64 workers that hold the same blocks and of 64 that hold each its own, by how
 * the engine names blocks and on which tier; matches of a 128-block prompt; memory; 1,000 workers. Beside it Dynamo's radix tree from the wheel,
 * where DYNAMO_PYTHON names an interpreter that has it.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { createKvIndex } from "../src/data/prefix-index/exact-kv-index.ts";
import type { KvIndex, StorageTier } from "../src/data/prefix-index/kv-index.ts";
import { tokenHasher } from "../src/tokens/block-hash.ts";
import { startOracle } from "../test/dynamo/oracle.ts";
import { interpreterWithWheels } from "./dynamo-wheels.ts";
import { type Measurement, type Run, repeat } from "./measurement.ts";

const workers = 64;
const chainBlocks = 128;
const chainsPerWorker = 400;
const manyWorkers = 1_000;
/** 9,984 blocks a worker. */
const chainsOfMany = 78;
const rounds = 3;
const matchesPerRound = 2_000;
const peerChains = 40;

interface Chain {
  readonly tokens: Uint32Array;
  readonly sequence: Uint32Array;
  readonly opaque: Uint32Array;
}

interface Load {
  readonly workers: number;
  readonly chains: number;
  /** Every worker holds the same chains. */
  readonly isShared: boolean;
  readonly isOpaque?: boolean;
  readonly tier?: StorageTier;
  readonly blocksPerEvent?: number;
}

function chainsOf(count: number, salt: number): Chain[] {
  return Array.from({ length: count }, (_, chain) => {
    const words = 2 * chainBlocks;
    const tokens = Uint32Array.from(
      { length: words },
      (_, i) => (Math.imul(i + 1 + chain * 7919 + salt * 104_729, 0x9e3779b1) ^ Math.imul(chain + salt, 40_503)) >>> 0,
    );
    const sequence = new Uint32Array(words);
    tokenHasher().chain(0, 0, false, tokens, 0, chainBlocks, sequence, 0);
    return { tokens, sequence, opaque: sequence.map((word) => (Math.imul(word, 0x85ebca6b) ^ 0x5bd1e995) >>> 0) };
  });
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

interface Loaded {
  readonly index: KvIndex;
  readonly chains: readonly (readonly Chain[])[];
  readonly insertsPerSecond: number;
}

/** The index with everything stored. */
function load({ workers, chains, isShared, isOpaque = false, tier = 0, blocksPerEvent = chainBlocks }: Load): Loaded {
  const index = createKvIndex({ random: Math.random });
  const shared = chainsOf(chains, 0);
  const all = Array.from({ length: workers }, (_, worker) => (isShared ? shared : chainsOf(chains, worker + 1)));
  const holders = all.map(() => index.attach());
  const start = cpuSeconds();
  for (const holder of holders) {
    for (const chain of all[holder] ?? []) {
      const names = isOpaque ? chain.opaque : chain.sequence;
      for (let first = 0; first < chainBlocks; first += blocksPerEvent) {
        const [low, high] = [names[2 * first - 2] ?? 0, names[2 * first - 1] ?? 0];
        const outcome = index.stored(holder, tier, low, high, first > 0, names, chain.tokens, first, blocksPerEvent);
        if (outcome !== "applied") throw new Error(outcome);
      }
    }
  }
  const seconds = cpuSeconds() - start;
  return { index, chains: all, insertsPerSecond: index.heldBlocks / seconds };
}

/** Microseconds of one match. */
function matchMicros({ index, chains }: Loaded): number {
  const flat = chains.flat();
  const matches = index.createMatches();
  const start = cpuSeconds();
  for (let i = 0; i < matchesPerRound; i++) {
    index.match((flat[(i * 7919) % flat.length] as Chain).sequence, matches);
  }
  return ((cpuSeconds() - start) / matchesPerRound) * 1e6;
}

/** Inserts a second in millions, and microseconds a match: the best of the rounds, since others share the machine. */
function best(what: Load): { readonly millions: number; readonly micros: number; readonly bytes: number } {
  let millions = 0;
  let micros = Number.POSITIVE_INFINITY;
  let bytes = 0;
  for (let round = 0; round < rounds; round++) {
    const loaded = load(what);
    millions = Math.max(millions, loaded.insertsPerSecond / 1e6);
    micros = Math.min(micros, matchMicros(loaded));
    bytes = loaded.index.sizeBytes / loaded.index.blocks;
  }
  return { millions, micros, bytes };
}

function once(): Run {
  const base = { workers, chains: chainsPerWorker };
  const shared = best({ ...base, isShared: true });
  const own = best({ ...base, isShared: false });
  const few = best({ workers, chains: peerChains, isShared: false });
  const opaque = best({ ...base, isShared: false, isOpaque: true });
  const host = best({ ...base, isShared: true, tier: 1 });
  const single = best({ ...base, isShared: true, blocksPerEvent: 1 });
  const many = load({ workers: manyWorkers, chains: chainsOfMany, isShared: false });
  return {
    "kv-insert-shared": shared.millions,
    "kv-insert-own": own.millions,
    "kv-insert-own-few": few.millions,
    "kv-insert-opaque": opaque.millions,
    "kv-insert-host": host.millions,
    "kv-insert-single": single.millions,
    "kv-match-shared": shared.micros,
    "kv-match-own": own.micros,
    "kv-match-host": host.micros,
    "kv-block-bytes": Math.max(shared.bytes, own.bytes),
    "kv-opaque-bytes": opaque.bytes - own.bytes,
    "kv-tier-bytes": tierBytes(),
    "kv-thousand-load": many.index.heldBlocks / many.insertsPerSecond,
    "kv-thousand-match": matchMicros(many),
    "kv-thousand-bytes": many.index.sizeBytes / 2 ** 20,
  };
}

/**
 * The same as `own` in a process whose large allocations are asked for in huge pages (glibc 2.35 and newer, where the kernel allows it): what is left
 * when the processor finds the pages of a table at once.
 */
async function onHugePages(): Promise<Run> {
  const { stdout } = await promisify(execFile)(process.execPath, [import.meta.filename], {
    env: { ...process.env, GLIBC_TUNABLES: "glibc.malloc.hugetlb=1" },
  });
  const { millions, micros } = JSON.parse(stdout) as { readonly millions: number; readonly micros: number };
  return { "kv-insert-own-huge": millions, "kv-match-own-huge": micros };
}

/** What a block more costs that 64 workers hold on a second tier. */
function tierBytes(): number {
  const { index, chains } = load({ workers, chains: chainsPerWorker, isShared: true });
  const before = index.sizeBytes;
  for (const [holder, held] of chains.entries()) {
    for (const { tokens, sequence } of held) index.stored(holder, 1, 0, 0, false, sequence, tokens, 0, chainBlocks);
  }
  return (index.sizeBytes - before) / (chainsPerWorker * chainBlocks);
}

/** The same events and queries into Dynamo's radix tree, its Python binding and JSON events included. */
async function peer(): Promise<Run> {
  if (interpreterWithWheels() === undefined) return {};
  const oracle = startOracle("indexer.py");
  try {
    const decimals = (hashes: Uint32Array, block: number) =>
      String((BigInt(hashes[2 * block + 1] ?? 0) << 32n) | BigInt(hashes[2 * block] ?? 0));
    const chains = (salt: number) =>
      chainsOf(peerChains, salt).map(({ tokens, sequence }) =>
        Array.from({ length: chainBlocks }, (_, block) => [decimals(sequence, block), decimals(tokens, block)]),
      );
    const ask = (blocks: readonly (readonly (readonly string[][])[])[]) =>
      oracle.ask<{ readonly store: number; readonly query: number }>("time", { rounds, chains: blocks });
    const shared = chains(0);
    const same = await ask(Array.from({ length: workers }, () => shared));
    const own = await ask(Array.from({ length: workers }, (_, worker) => chains(worker + 1)));
    const inserts = workers * peerChains * chainBlocks;
    return {
      "radix-insert-shared": inserts / same.store / 1e6,
      "radix-insert-own": inserts / own.store / 1e6,
      "radix-match-shared": (same.query / peerChains) * 1e6,
    };
  } finally {
    await oracle.close();
  }
}

export const kvIndex: Measurement = {
  name: "kv-index",
  what: "CPU and memory of the index of KV blocks, 64 workers",
  isLatency: false,
  figures: [
    {
      name: "kv-insert-shared",
      title: "Block inserts, all workers hold the same blocks",
      unit: "M/s",
      digits: 1,
      dynamo: "radix-insert-shared",
      isRate: true,
    },
    {
      name: "kv-insert-own",
      title: "Block inserts, each worker holds its own, to 3.3 million",
      unit: "M/s",
      digits: 1,
      isRate: true,
    },
    { name: "kv-insert-own-huge", title: "… the same on huge pages", unit: "M/s", digits: 1, isRate: true },
    {
      name: "kv-insert-own-few",
      title: "… to 0.3 million",
      unit: "M/s",
      digits: 1,
      dynamo: "radix-insert-own",
      isRate: true,
    },
    { name: "kv-insert-opaque", title: "… to 3.3 million, engine hashes opaque", unit: "M/s", digits: 1 },
    { name: "kv-insert-host", title: "Block inserts on host memory, shared", unit: "M/s", digits: 1 },
    { name: "kv-insert-single", title: "Block inserts, one block an event, shared", unit: "M/s", digits: 1 },
    {
      name: "kv-match-shared",
      title: "Match of 128 blocks, held by 64 workers",
      unit: "µs",
      digits: 1,
      dynamo: "radix-match-shared",
    },
    { name: "kv-match-own", title: "Match of 128 blocks among 3 million of single workers", unit: "µs", digits: 1 },
    { name: "kv-match-own-huge", title: "… the same on huge pages", unit: "µs", digits: 1 },
    { name: "kv-match-host", title: "Match of 128 blocks on host memory of 64 workers", unit: "µs", digits: 1 },
    { name: "kv-block-bytes", title: "Memory a block with up to 64 workers", unit: "bytes", digits: 0 },
    {
      name: "kv-opaque-bytes",
      title: "Added by opaque engine hashes, a block of one worker",
      unit: "bytes",
      digits: 0,
    },
    { name: "kv-tier-bytes", title: "Added by being on host memory, too, a block", unit: "bytes", digits: 0 },
    { name: "kv-thousand-load", title: "1,000 workers × 10,000 blocks loaded", unit: "s", digits: 1 },
    { name: "kv-thousand-match", title: "Match of 128 blocks over 1,000 workers", unit: "µs", digits: 1 },
    { name: "kv-thousand-bytes", title: "Memory of those", unit: "MiB", digits: 0 },
  ],
  measure: (context) => repeat(context, async () => ({ ...once(), ...(await onHugePages()), ...(await peer()) })),
};

if (import.meta.main) {
  process.stdout.write(JSON.stringify(best({ workers, chains: chainsPerWorker, isShared: false })));
}
