/**
 * One request's way to a plan: tokens, length check, hashes, plan, endpoint. Runs through in one call unless the tokens come from a worker
 * thread, another process is asked for what is cached, or the request waits in a queue.
 */
import type { MediaSpan } from "../../data/attributes.ts";
import type { Endpoint } from "../../data/endpoint.ts";
import type { RankOverlap } from "../../dynamo/kv-index/index-answer.ts";
import type { InferenceRequest } from "../../request/inference-request.ts";
import {
  isRejection,
  type PendingPlanning,
  type PlannerOutcome,
  type PlanOffer,
  type Rejection,
} from "../../scheduling/contracts.ts";
import type { PendingPlan, Plan, PlanExplanation, PlanOutcome, PlanRefusal, PlanRequest } from "../contracts.ts";
import type { PromptHashes, RequestTokens, SetRoute } from "../fleet/route-table.ts";
import { allowedWorkers, type StageProfiles } from "./allowed-workers.ts";
import { type Considered, consideredOf, explainPlan } from "./explain-plan.ts";
import type { InflightPlace } from "./inflight-limit.ts";
import { placementOf } from "./placement.ts";
import { notReady, promptTooLong, refusalOfPlan, refusalOfTokens } from "./refusals.ts";
import { type RequestHints, requestHints } from "./request-hints.ts";

/** What a planned request is known by until it ends. */
export interface Planned {
  readonly plan: Plan;
  readonly route: SetRoute;
  readonly place: InflightPlace;
  readonly hints: RequestHints;
  /** The prompt's ids, where they may stand in for it. */
  readonly tokenData: Uint32Array | undefined;
  /** Prompt tokens, exact or estimated. */
  readonly isl: number;
  /** "ip:port" that the destination asks to compute the prompt; undefined where it does so itself, or finds it by the worker's id. */
  readonly prefillServer: string | undefined;
  /** Monotonic; undefined until it is there. */
  firstByteAtMs: number | undefined;
}

export interface PlanningInit {
  readonly request: InferenceRequest;
  readonly offer: PlanOffer;
  readonly route: SetRoute;
  /** Held from now on: left when nothing comes of the request, else whoever has what was planned leaves it. */
  readonly place: InflightPlace;
  readonly profiles: StageProfiles;
  readonly overloadStatus: number | undefined;
  /** Keeps what was planned for the observers. */
  readonly planned: (planned: Planned) => void;
  readonly refused: (refusal: PlanRefusal) => void;
  /** The prompt's tokens could not be had: the request goes on without. */
  readonly untokenized: (reason: string) => void;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** What every rank would have cost is to be kept with the decision; about as dear as the plan itself. */
  readonly isExplained: boolean;
  /** Time of the hashes, and from them to the plan or its refusal, waiting included. */
  readonly timed: (hashingMs: number, totalMs: number) => void;
  readonly done: (outcome: PlannerOutcome) => void;
}

const noHashes = { blockHashes: new Uint32Array(0), sequenceHashes: new Uint32Array(0) };
/** For dialects whose tokens are not known. */
const bytesPerToken = 4;

export class Planning implements PendingPlanning {
  readonly #init: PlanningInit;
  readonly #hints: RequestHints;
  /** As it was when workers were last chosen from. */
  #offer: PlanOffer;
  #allowedOfOffer: NonNullable<PlanRequest["allowed"]> | undefined;
  #pending: { cancel(): void } | undefined;
  #considered: Considered | undefined;
  #isOver = false;

  constructor(init: PlanningInit) {
    this.#init = init;
    this.#offer = init.offer;
    this.#hints = requestHints(init.request);
  }

  start(): this {
    const { request, route } = this.#init;
    let isWaiting = true;
    const pending = route.tokenize(request, (outcome) => {
      isWaiting = false;
      this.#pending = undefined;
      if (!this.#isOver) this.#tokenized(outcome);
    });
    if (isWaiting) this.#pending = pending;
    return this;
  }

  cancel(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#pending?.cancel();
    this.#init.place.leave();
  }

  #tokenized(outcome: RequestTokens): void {
    const { request } = this.#init;
    switch (outcome.kind) {
      case "tokens": {
        const [first, ...others] = outcome.prompts;
        if (first === undefined) {
          this.#plan(undefined, undefined, 0);
          return;
        }
        const media = outcome.media?.[0];
        // A batch is routed by its first prompt, and weighs what all of them weigh.
        const isl = others.reduce((sum, prompt) => sum + prompt.length, first.length);
        const longest = others.reduce((most, prompt) => Math.max(most, prompt.length), first.length);
        const { contextLength } = this.#init.route;
        if (contextLength > 0 && longest > contextLength) {
          this.#finish(promptTooLong(longest, contextLength));
          return;
        }
        request.promptTokens = isl;
        this.#plan(first, outcome.isAuthoritative ? first : undefined, isl, media);
        return;
      }
      case "none":
        this.#plan(undefined, undefined, Math.ceil(request.body.length / bytesPerToken));
        return;
      case "failed":
        // Not the client's fault, and the frontend tokenizes by itself: routed by load alone rather than refused.
        this.#init.untokenized(outcome.message);
        this.#plan(undefined, undefined, Math.ceil(request.body.length / bytesPerToken));
        return;
      case "invalid":
      case "timeout":
        this.#finish(refusalOfTokens(outcome.kind, outcome.message));
        return;
      default:
        outcome satisfies never;
    }
  }

  #plan(
    tokens: Uint32Array | undefined,
    tokenData: Uint32Array | undefined,
    isl: number,
    media?: readonly MediaSpan[],
  ): void {
    const { route } = this.#init;
    const startedAtMs = this.#init.now();
    const hashes: PromptHashes = tokens === undefined ? noHashes : route.hash(tokens, this.#hints.cacheSalt, media);
    const hashedAtMs = this.#init.now();
    const { askIndex } = route;
    if (askIndex === undefined || hashes.blockHashes.length === 0) {
      this.#planHashed(hashes, undefined, tokenData, isl, startedAtMs, hashedAtMs);
      return;
    }
    // The plan itself is one step and waits for nothing: what another process knows of the prompt is fetched before.
    let isWaiting = true;
    const pending = askIndex(hashes.blockHashes, (overlaps) => {
      isWaiting = false;
      this.#pending = undefined;
      if (!this.#isOver) this.#planHashed(hashes, overlaps, tokenData, isl, startedAtMs, hashedAtMs);
    });
    if (isWaiting) this.#pending = pending;
  }

  #planHashed(
    hashes: PromptHashes,
    overlaps: readonly RankOverlap[] | undefined,
    tokenData: Uint32Array | undefined,
    isl: number,
    startedAtMs: number,
    hashedAtMs: number,
  ): void {
    const { request, route } = this.#init;
    const hints = this.#hints;
    const allowed = (): NonNullable<PlanRequest["allowed"]> => this.#allowed();
    let isWaiting = true;
    const pending: PendingPlan = route.router.plan(
      {
        requestId: request.id,
        isl,
        blockHashes: hashes.blockHashes,
        sequenceHashes: hashes.sequenceHashes,
        overlaps,
        trackingHashes: hashes.trackingHashes,
        sharedHits: hashes.sharedHits,
        loraName: route.loraName,
        expectedOutputTokens: hints.expectedOutputTokens,
        priorityJump: hints.priorityJump,
        strictPriority: hints.strictPriority,
        policyClass: hints.policyClass,
        doNotQueue: hints.doNotQueue,
        // Asked anew each time a waiting request is looked at: workers that have joined meanwhile may serve it.
        get allowed() {
          return allowed();
        },
        sessionId: hints.sessionId,
        isSessionFinal: hints.isSessionFinal,
        ...(hints.constraints === undefined ? {} : { constraints: hints.constraints }),
        ...(this.#init.isExplained ? { explain: this.#explained } : {}),
      },
      (outcome) => {
        isWaiting = false;
        this.#pending = undefined;
        this.#init.timed(hashedAtMs - startedAtMs, this.#init.now() - startedAtMs);
        this.#planned(outcome, tokenData, isl);
      },
    );
    if (isWaiting) this.#pending = pending;
  }

  readonly #explained = (explanation: PlanExplanation): void => {
    this.#considered = consideredOf(explanation);
  };

  #allowed(): NonNullable<PlanRequest["allowed"]> {
    const offer = this.#offer.latest();
    if (offer !== this.#offer || this.#allowedOfOffer === undefined) {
      const { profiles, route } = this.#init;
      this.#offer = offer;
      this.#allowedOfOffer = allowedWorkers(offer, profiles, route.isPrefillWorker);
    }
    return this.#allowedOfOffer;
  }

  #planned(outcome: PlanOutcome, tokenData: Uint32Array | undefined, isl: number): void {
    if (this.#isOver) {
      if (outcome.kind === "planned") outcome.plan.booking.free();
      return;
    }
    const { route, place, overloadStatus } = this.#init;
    if (outcome.kind === "refused") {
      this.#init.refused(outcome.refusal);
      this.#finish(refusalOfPlan(outcome.refusal, overloadStatus));
      return;
    }
    const { plan } = outcome;
    const destination: Endpoint | undefined = placementOf(this.#offer.candidates).get(plan.decode.worker.id);
    if (destination === undefined) {
      plan.booking.free();
      this.#finish(notReady("nothing that serves stands beside the chosen worker"));
      return;
    }
    const { priorityJump, strictPriority, policyClass, sessionId } = this.#hints;
    const hintsShown = { priorityJump, strictPriority, policyClass, sessionId };
    const considered = this.#considered;
    const prefillServer = plan.prefill === undefined ? undefined : route.prefillServerOf?.(plan.prefill.worker.id);
    const planned = { plan, route, place, hints: this.#hints, tokenData, isl, prefillServer };
    this.#init.planned({ ...planned, firstByteAtMs: undefined });
    this.#finish({
      kind: "planned",
      destinations: [destination],
      explain: () => explainPlan(plan, isl, hintsShown, considered),
      abandoned: () => {
        plan.booking.free();
        place.leave();
      },
    });
  }

  #finish(outcome: PlannerOutcome | Rejection): void {
    this.#isOver = true;
    if (isRejection(outcome)) this.#init.place.leave();
    this.#init.done(outcome);
  }
}
