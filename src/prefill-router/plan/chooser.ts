/**
 * Chooses the ranks of one request, all in one turn: index match, sessions, conditional disaggregation, then one selection a leg. Books
 * nothing; what it returns is valid until the turn ends, for the matches are the router's own scratch.
 */
import type { KvMatches } from "../../data/prefix-index/kv-index.ts";
import type { SessionTable } from "../affinity/session-table.ts";
import type { PlacedLeg, PlanRefusal, PlanRequest, RankExplanation, Stage, WorkerRank } from "../contracts.ts";
import { mergeConstraints, transferConstraints } from "../stage/taints.ts";
import type { Selected, Selection, StageRequest } from "../stage.ts";
import { type BypassDecision, decideBypass, needsPrefillLoad } from "./conditional-disaggregation.ts";
import type { LegKind, PlannedStage, PrefillRouterOptions, RouterIndex } from "./contracts.ts";
import type { Roster } from "./roster.ts";

export interface ChosenLeg {
  readonly stage: PlannedStage;
  readonly request: StageRequest;
  readonly selected: Selected;
}

export interface Chosen {
  readonly kind: "chosen";
  readonly prefill: ChosenLeg | undefined;
  readonly decode: ChosenLeg;
  readonly bypass: BypassDecision | undefined;
}

export type Choice = Chosen | { readonly kind: "refused"; readonly refusal: PlanRefusal };

export interface StageSessions {
  readonly prefill: SessionTable;
  readonly decode: SessionTable;
}

/** Dynamo's stand-in for a worker that does not say how many tokens it batches. */
const unboundedBatchTokens = 10_000_000;

export class Chooser {
  readonly #options: PrefillRouterOptions;
  readonly #roster: Roster;
  readonly #sessions: StageSessions | undefined;
  readonly #index: RouterIndex | undefined;
  #matches: KvMatches | undefined;
  #matchesVersion = -1;

  constructor(options: PrefillRouterOptions, roster: Roster, sessions: StageSessions | undefined) {
    this.#options = options;
    this.#roster = roster;
    this.#sessions = sessions;
    this.#index = options.index;
  }

  /** Undefined where the set is ready for requests. */
  unready(): PlanRefusal | undefined {
    switch (this.#roster.topology) {
      case "empty":
        return { kind: "no-workers", stage: "decode", message: "no workers are registered" };
      case "waiting":
        return this.#options.decode.workers.size === 0
          ? { kind: "no-workers", stage: "decode", message: "no decode workers are registered" }
          : { kind: "not-ready", message: "no prefill workers are registered yet" };
      case "aggregated":
      case "disaggregated":
        return undefined;
      default:
        return this.#roster.topology satisfies never;
    }
  }

  get isDisaggregated(): boolean {
    return this.#roster.topology === "disaggregated";
  }

  /** What is known of the prompt's blocks now. Overwritten by the next call. */
  match(request: PlanRequest, nowMs: number): KvMatches | undefined {
    if (this.#index === undefined || request.sequenceHashes.length === 0) return undefined;
    let matches = this.#matches;
    if (matches === undefined || this.#matchesVersion !== this.#roster.version) {
      matches = this.#index.createMatches();
      this.#matches = matches;
      this.#matchesVersion = this.#roster.version;
    }
    this.#index.match(request.sequenceHashes, matches, nowMs, request.overlaps);
    return matches;
  }

  legRequest(
    request: PlanRequest,
    leg: LegKind,
    matches: KvMatches | undefined,
    preferred: WorkerRank | undefined,
  ): StageRequest {
    const isPrefill = leg === "prefill";
    const settings = this.#options.settingsOf(leg, request.override);
    return {
      isl: request.isl,
      sequenceHashes: request.trackingHashes ?? request.sequenceHashes,
      // Dynamo does not ask its index for a leg in which an overlap counts nothing.
      matches: settings.overlapScoreCredit === 0 ? undefined : matches,
      sharedHits:
        settings.overlapScoreCredit === 0 ? undefined : request.sharedHits?.of(isPrefill ? "prefill" : "decode"),
      loraName: request.loraName,
      expectedOutputTokens: request.expectedOutputTokens,
      allowedWorkerIds: isPrefill ? request.allowed?.prefill : request.allowed?.decode,
      pinned: isPrefill ? request.pinned?.prefill : request.pinned?.decode,
      preferred: preferred ?? (isPrefill ? request.preferred?.prefill : request.preferred?.decode),
      constraints: request.constraints,
      settings,
    };
  }

  /** The decode leg must lie where the chosen prefill worker can hand its blocks over. */
  #afterPrefill(leg: StageRequest, prefill: Selected): StageRequest | PlanRefusal {
    const transfer = transferConstraints(prefill.worker);
    switch (transfer.kind) {
      case "none":
        return leg;
      case "constraints":
        return { ...leg, constraints: mergeConstraints(leg.constraints, transfer.constraints) };
      case "invalid":
        return { kind: "no-workers", stage: "decode", message: transfer.message };
      default:
        return transfer satisfies never;
    }
  }

  /** The rank a session is bound to in a stage. */
  boundTo(request: PlanRequest, stage: Stage, nowMs: number): WorkerRank | undefined {
    if (this.#sessions === undefined || request.sessionId === undefined) return undefined;
    const workers = stage === "prefill" ? this.#options.prefill : this.#options.decode;
    return this.#sessions[stage].target(
      request.sessionId,
      (workerId, stableRoutingId) => this.#roster.workerOf(workers, workerId, stableRoutingId),
      nowMs,
    );
  }

  /** `isPreview`: nothing is to change, not even a session that a refusal would forget. */
  choose(request: PlanRequest, nowMs: number, isPreview: boolean): Choice {
    const unready = this.unready();
    if (unready !== undefined) return { kind: "refused", refusal: unready };
    const { decode, random } = this.#options;
    const matches = this.match(request, nowMs);
    const decodeBound = this.boundTo(request, "decode", nowMs);
    if (!this.isDisaggregated) return this.#wholeOnDecode(request, matches, decodeBound, nowMs, isPreview);
    const prefillBound = this.boundTo(request, "prefill", nowMs);
    const prefillRequest = this.legRequest(request, "prefill", matches, prefillBound);
    const prefillSelection = this.#options.prefill.select(prefillRequest, nowMs, random);
    const bypass = this.#bypass(request, matches, decodeBound, prefillSelection, nowMs);
    if (bypass?.decision === "bypassed") {
      return this.#decodeAlone(request, bypass.leg, bypass.selection, decodeBound, bypass.decision, isPreview);
    }
    if (prefillSelection.kind === "none") {
      return this.mayGoWithoutPrefill(request)
        ? this.#wholeOnDecode(request, matches, decodeBound, nowMs, isPreview)
        : refused(refusalOf("prefill", prefillSelection));
    }
    const decodeRequest = this.#afterPrefill(
      this.legRequest(request, "decode", matches, decodeBound),
      prefillSelection,
    );
    if ("kind" in decodeRequest) return refused(decodeRequest);
    const decodeSelection = decode.select(decodeRequest, nowMs, random);
    if (decodeSelection.kind === "none") return refused(refusalOf("decode", decodeSelection));
    const moved =
      this.#movedSession(request, "prefill", prefillSelection, prefillBound, isPreview) ??
      this.#movedSession(request, "decode", decodeSelection, decodeBound, isPreview);
    if (moved !== undefined) return refused(moved);
    return {
      kind: "chosen",
      prefill: { stage: this.#options.prefill, request: prefillRequest, selected: prefillSelection },
      decode: { stage: decode, request: decodeRequest, selected: decodeSelection },
      bypass: bypass?.decision,
    };
  }

  /** Whether the decode worker may compute the prompt where no prefill worker can. */
  mayGoWithoutPrefill(request: PlanRequest): boolean {
    return this.#options.config.servesWithoutPrefill === true && request.pinned?.prefill === undefined;
  }

  /** As `choose`, but the decode worker computes the prompt. */
  chooseWithoutPrefill(request: PlanRequest, nowMs: number, isPreview: boolean): Choice {
    const matches = this.match(request, nowMs);
    return this.#wholeOnDecode(request, matches, this.boundTo(request, "decode", nowMs), nowMs, isPreview);
  }

  /** A choice made before, if its ranks are still there: who waits, what is cached and who is allowed count no more. */
  placed(request: PlanRequest, decode: PlacedLeg, prefill: PlacedLeg | undefined, nowMs: number): Choice {
    const computes = prefill ?? decode;
    const first = this.#placedLeg(request, computes, prefill === undefined ? "aggregated" : "prefill", nowMs);
    if ("refusal" in first) return refused(first.refusal);
    if (prefill === undefined) return { kind: "chosen", prefill: undefined, decode: first, bypass: undefined };
    const second = this.#placedLeg(request, decode, "decode", nowMs);
    if ("refusal" in second) return refused(second.refusal);
    return { kind: "chosen", prefill: first, decode: second, bypass: undefined };
  }

  #placedLeg(
    request: PlanRequest,
    placed: PlacedLeg,
    kind: LegKind,
    nowMs: number,
  ): ChosenLeg | { readonly refusal: PlanRefusal } {
    const { prefill, decode, random } = this.#options;
    const stage = prefill.workers.has(placed.workerId) ? prefill : decode;
    const leg: StageRequest = {
      ...this.legRequest(request, kind, undefined, undefined),
      allowedWorkerIds: undefined,
      constraints: undefined,
      preferred: undefined,
      pinned: { workerId: placed.workerId, dpRank: placed.dpRank },
    };
    const selection = stage.select(leg, nowMs, random);
    if (selection.kind === "none") return { refusal: refusalOf(stage.stage, selection) };
    const bound = this.boundTo(request, stage.stage, nowMs);
    const moved = this.#movedSession(request, stage.stage, selection, bound, false);
    if (moved !== undefined) return { refusal: moved };
    const cachedTokens = Math.max(0, request.isl - placed.prefillTokens);
    return { stage, request: leg, selected: { ...selection, cachedTokens } };
  }

  /** What conditional disaggregation says of the request at this moment; undefined where it does not apply. */
  bypassDecision(request: PlanRequest, matches: KvMatches | undefined, nowMs: number): BypassDecision | undefined {
    if (this.#options.config.conditional === undefined || !this.isDisaggregated) return undefined;
    const prefillRequest = this.legRequest(request, "prefill", matches, this.boundTo(request, "prefill", nowMs));
    const prefillSelection = this.#options.prefill.select(prefillRequest, nowMs, this.#options.random);
    const bound = this.boundTo(request, "decode", nowMs);
    return this.#bypass(request, matches, bound, prefillSelection, nowMs)?.decision;
  }

  explain(
    request: PlanRequest,
    stage: Stage,
    matches: KvMatches | undefined,
    bound: WorkerRank | undefined,
    nowMs: number,
  ): readonly RankExplanation[] {
    const leg: LegKind = this.isDisaggregated ? stage : "aggregated";
    return this.#options[stage].explain(this.legRequest(request, leg, matches, bound), nowMs);
  }

  #wholeOnDecode(
    request: PlanRequest,
    matches: KvMatches | undefined,
    bound: WorkerRank | undefined,
    nowMs: number,
    isPreview: boolean,
  ): Choice {
    const { decode, random } = this.#options;
    const leg = this.legRequest(request, "aggregated", matches, bound);
    return this.#decodeAlone(request, leg, decode.select(leg, nowMs, random), bound, undefined, isPreview);
  }

  #decodeAlone(
    request: PlanRequest,
    leg: StageRequest,
    selection: Selection,
    bound: WorkerRank | undefined,
    bypass: BypassDecision | undefined,
    isPreview: boolean,
  ): Choice {
    if (selection.kind === "none") return refused(refusalOf("decode", selection));
    const moved = this.#movedSession(request, "decode", selection, bound, isPreview);
    if (moved !== undefined) return refused(moved);
    return {
      kind: "chosen",
      prefill: undefined,
      decode: { stage: this.#options.decode, request: leg, selected: selection },
      bypass,
    };
  }

  #bypass(
    request: PlanRequest,
    matches: KvMatches | undefined,
    bound: WorkerRank | undefined,
    prefillSelection: Selection,
    nowMs: number,
  ) {
    const { config, decode, random } = this.#options;
    const { conditional } = config;
    // A pinned prefill worker is wanted; and without tokens nothing is known of the prompt.
    if (conditional === undefined || request.pinned?.prefill !== undefined || matches === undefined) return undefined;
    const leg = this.legRequest(request, "aggregated", matches, bound);
    const selection = decode.select(leg, nowMs, random);
    if (selection.kind === "none") return undefined;
    const { totalKvBlocks } = selection.worker;
    const decision = decideBypass(conditional, {
      promptTokens: request.isl,
      cachedTokens: selection.cachedTokens,
      isPrefillBusy:
        needsPrefillLoad(conditional) && prefillSelection.kind === "selected"
          ? prefillSelection.activePrefillTokens >
            (conditional.prefillBusyThreshold ?? Number.POSITIVE_INFINITY) *
              (prefillSelection.worker.maxNumBatchedTokens ?? unboundedBatchTokens)
          : undefined,
      isDecodeBusy:
        totalKvBlocks === undefined || conditional.decodeBusyThreshold === undefined
          ? undefined
          : selection.potentialDecodeBlocks > conditional.decodeBusyThreshold * totalKvBlocks,
    });
    return { decision, selection, leg };
  }

  /** A hard session whose rank could not be chosen: refused once, and free to bind anew with its next request. */
  #movedSession(
    request: PlanRequest,
    stage: Stage,
    selected: Selected,
    bound: WorkerRank | undefined,
    isPreview: boolean,
  ): PlanRefusal | undefined {
    if (bound === undefined || request.sessionId === undefined || this.#options.config.affinity?.mode !== "hard")
      return undefined;
    if (selected.worker.id === bound.workerId && selected.dpRank === bound.dpRank) return undefined;
    if (!isPreview) this.#sessions?.[stage].forget(request.sessionId);
    const message = `the session is bound to worker ${bound.workerId} rank ${bound.dpRank}, which cannot be chosen`;
    return { kind: "pinned-unavailable", stage, message };
  }
}

function refused(refusal: PlanRefusal): Choice {
  return { kind: "refused", refusal };
}

function refusalOf(stage: Stage, selection: Exclude<Selection, Selected>): PlanRefusal {
  const { message } = selection;
  switch (selection.why) {
    case "no-workers":
    case "filtered":
      return { kind: "no-workers", stage, message };
    case "overloaded":
    case "pinned-unavailable":
      return { kind: selection.why, stage, message };
    default:
      return selection.why satisfies never;
  }
}
