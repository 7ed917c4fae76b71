/** A routing stage of a few lines with exact books: the least loaded rank wins, ties go to the lower id. Throws on what no router may do. */
import type { RouterWorker, Stage } from "../../../../src/prefill-router/contracts.ts";
import type { PlannedStage } from "../../../../src/prefill-router/plan/contracts.ts";
import type { Selection, StageBooking, StageRequest } from "../../../../src/prefill-router/stage.ts";

interface FakeRank {
  readonly worker: RouterWorker;
  readonly dpRank: number;
  readonly open: Map<string, { tokens: number; request: StageRequest }>;
}

export interface FakeStage extends PlannedStage {
  /** Ranks whose matches give this many tokens, by "worker:rank". */
  readonly cached: Map<string, number>;
  /** Bookings open now, by "worker:rank". */
  open(): ReadonlyMap<string, readonly string[]>;
  /** Requests of every selection, in order. */
  readonly selections: StageRequest[];
  failNextBook: boolean;
}

export function fakeStage(stage: Stage): FakeStage {
  const ranks = new Map<string, FakeRank>();
  const workers = new Map<bigint, RouterWorker>();
  const suspects = new Set<bigint>();
  const cached = new Map<string, number>();
  const selections: StageRequest[] = [];
  const ids = new Set<string>();

  const tokensOf = (rank: FakeRank) => {
    let sum = 0;
    for (const { tokens } of rank.open.values()) sum += tokens;
    return sum;
  };
  const isEligible = (rank: FakeRank, request: StageRequest) =>
    !suspects.has(rank.worker.id) &&
    (request.allowedWorkerIds === undefined || request.allowedWorkerIds.has(rank.worker.id)) &&
    (request.pinned === undefined ||
      (request.pinned.workerId === rank.worker.id &&
        (request.pinned.dpRank === undefined || request.pinned.dpRank === rank.dpRank)));
  const eligible = (request: StageRequest) => [...ranks.values()].filter((rank) => isEligible(rank, request));
  const keyOf = (rank: FakeRank) => `${rank.worker.id}:${rank.dpRank}`;
  const cachedOf = (rank: FakeRank, request: StageRequest) =>
    request.matches === undefined ? 0 : Math.min(request.isl, cached.get(keyOf(rank)) ?? 0);

  const select = (request: StageRequest): Selection => {
    selections.push(request);
    if (workers.size === 0) return { kind: "none", why: "no-workers", message: `no ${stage} workers` };
    const candidates = eligible(request);
    const { preferred } = request;
    const wanted = candidates.find(
      (rank) => rank.worker.id === preferred?.workerId && rank.dpRank === preferred.dpRank,
    );
    const costOf = (rank: FakeRank) => tokensOf(rank) - cachedOf(rank, request) + rank.open.size;
    const best =
      wanted ??
      candidates.sort((a, b) => costOf(a) - costOf(b) || Number(a.worker.id - b.worker.id) || a.dpRank - b.dpRank)[0];
    if (best === undefined) {
      const why = request.pinned === undefined ? "filtered" : "pinned-unavailable";
      return { kind: "none", why, message: `no eligible ${stage} rank` };
    }
    return {
      kind: "selected",
      worker: best.worker,
      dpRank: best.dpRank,
      slot: 0,
      cost: costOf(best),
      deviceBlocks: 0,
      hostBlocks: 0,
      diskBlocks: 0,
      cachedTokens: cachedOf(best, request),
      potentialDecodeBlocks: best.open.size + 1,
      activePrefillTokens: tokensOf(best),
    };
  };

  const fake: FakeStage = {
    stage,
    workers,
    cached,
    selections,
    failNextBook: false,
    open: () => new Map(Array.from(ranks, ([key, rank]) => [key, [...rank.open.keys()]])),
    select,
    book(id, selected, request) {
      if (fake.failNextBook) {
        fake.failNextBook = false;
        throw new Error("book failed");
      }
      if (ids.has(id)) throw new Error(`${id} is booked twice`);
      ids.add(id);
      const rank = ranks.get(`${selected.worker.id}:${selected.dpRank}`);
      if (rank === undefined) throw new Error("booked on a rank that is not there");
      const tokens = request.settings.trackPrefillTokens ? request.isl - selected.cachedTokens : 0;
      rank.open.set(id, { tokens, request });
      const booking: StageBooking = {
        id,
        prefillCompleted: () => {
          const entry = rank.open.get(id);
          if (entry !== undefined) entry.tokens = 0;
        },
        outputBlock: () => {},
        free: () => {
          rank.open.delete(id);
        },
      };
      return booking;
    },
    isSaturated(request, threshold, thresholdTokens = Number.POSITIVE_INFINITY) {
      const candidates = eligible(request);
      return (
        candidates.length > 0 &&
        candidates.every((rank) => {
          const tokens = tokensOf(rank);
          return tokens > threshold * (rank.worker.maxNumBatchedTokens ?? 10_000_000) || tokens > thresholdTokens;
        })
      );
    },
    bestCachedTokens: (request) => Math.max(0, ...eligible(request).map((rank) => cachedOf(rank, request))),
    setSuspect(workerId, isSuspect) {
      if (isSuspect) suspects.add(workerId);
      else suspects.delete(workerId);
    },
    explain: (request) =>
      [...ranks.values()].map((rank) => ({
        workerId: rank.worker.id,
        dpRank: rank.dpRank,
        excluded: isEligible(rank, request) ? undefined : "not eligible",
        cost: tokensOf(rank),
        terms: {},
      })),
    upsertWorker(worker) {
      workers.set(worker.id, worker);
      for (let index = 0; index < worker.dataParallelSize; index++) {
        const dpRank = worker.dataParallelStartRank + index;
        const known = ranks.get(`${worker.id}:${dpRank}`);
        ranks.set(`${worker.id}:${dpRank}`, { worker, dpRank, open: known?.open ?? new Map() });
      }
    },
    removeWorker(workerId) {
      workers.delete(workerId);
      suspects.delete(workerId);
      for (const [key, rank] of ranks) {
        if (rank.worker.id !== workerId) continue;
        rank.open.clear();
        ranks.delete(key);
      }
    },
    setHolder: () => {},
    reap: () => 0,
    loads: () =>
      [...ranks.values()].map((rank) => ({
        workerId: rank.worker.id,
        dpRank: rank.dpRank,
        activePrefillTokens: tokensOf(rank),
        activeDecodeBlocks: 0,
        activeRequests: rank.open.size,
      })),
  };
  return fake;
}
