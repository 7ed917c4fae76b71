/**
 * Keeps the files of the models that somebody wants: loads them once for all who want them, tries again with growing pauses and from the next
 * worker's card, and forgets them with the last claim.
 */
import { dirname } from "node:path";
import type { Logger } from "../../telemetry/log.ts";
import { limitCache } from "./cache-limit.ts";
import type { ModelCard } from "./model-card.ts";
import {
  defaultCacheDir,
  type LoadOutcome,
  loadModelFiles,
  type ModelFilesOptions,
  type ModelFilesState,
} from "./model-files.ts";

export interface ModelFiles {
  /** State of the files of these cards, which have one fingerprint; the first claim begins the loading. Called again with every change of the cards. */
  want(cards: readonly ModelCard[], owner: object): ModelFilesState;
  drop(fingerprint: string, owner: object): void;
  close(): Promise<void>;
}

export interface ModelFilesKeeperOptions extends ModelFilesOptions {
  /** Called after a state changed, never from within `want`. */
  readonly changed: (fingerprint: string) => void;
  /** Default 1 s and 30 s. */
  readonly firstRetryMs?: number;
  readonly longestRetryMs?: number;
}

interface Claim {
  readonly fingerprint: string;
  readonly owners: Set<object>;
  readonly closing: AbortController;
  cards: readonly ModelCard[];
  state: ModelFilesState;
  attempt: number;
  retryMs: number;
  timer: NodeJS.Timeout | undefined;
}

/** Where files can be had from: enough to survive the workers that cannot hand them out. */
const maxCards = 16;

/** Models whose files are read or fetched at one time; the others wait in order. */
const maxLoads = 4;

export function createModelFiles(options: ModelFilesKeeperOptions): ModelFiles {
  return new ModelFilesKeeper(options);
}

class ModelFilesKeeper implements ModelFiles {
  readonly #options: ModelFilesKeeperOptions;
  readonly #log: Logger;
  readonly #claims = new Map<string, Claim>();
  readonly #loads = new Set<Promise<void>>();
  readonly #waiting: Claim[] = [];

  constructor(options: ModelFilesKeeperOptions) {
    this.#options = options;
    this.#log = options.log;
  }

  want(cards: readonly ModelCard[], owner: object): ModelFilesState {
    const fingerprint = cards[0]?.fingerprint ?? "";
    let claim = this.#claims.get(fingerprint);
    if (claim === undefined) {
      claim = {
        fingerprint,
        owners: new Set(),
        closing: new AbortController(),
        cards: distinctSources(cards),
        state: { kind: "loading" },
        attempt: 0,
        retryMs: this.#options.firstRetryMs ?? 1000,
        timer: undefined,
      };
      this.#claims.set(fingerprint, claim);
      this.#load(claim);
    }
    claim.owners.add(owner);
    if (claim.state.kind !== "ready") this.#offer(claim, cards);
    return claim.state;
  }

  drop(fingerprint: string, owner: object): void {
    const claim = this.#claims.get(fingerprint);
    if (claim === undefined) return;
    claim.owners.delete(owner);
    if (claim.owners.size === 0) this.#end(claim);
  }

  async close(): Promise<void> {
    for (const claim of this.#claims.values()) this.#end(claim);
    await Promise.all(this.#loads);
  }

  #end(claim: Claim): void {
    this.#claims.delete(claim.fingerprint);
    clearTimeout(claim.timer);
    claim.closing.abort();
  }

  /** A worker that hands them out from elsewhere is tried at once. */
  #offer(claim: Claim, cards: readonly ModelCard[]): void {
    const known = new Set(claim.cards.map(sourceOf));
    const offered = distinctSources(cards);
    const fresh = offered.findIndex((card) => !known.has(sourceOf(card)));
    claim.cards = offered;
    if (fresh < 0 || claim.timer === undefined) return;
    clearTimeout(claim.timer);
    claim.timer = undefined;
    claim.attempt = fresh;
    this.#load(claim);
  }

  #load(claim: Claim): void {
    if (this.#loads.size < maxLoads) this.#begin(claim);
    else this.#waiting.push(claim);
  }

  #begin(claim: Claim): void {
    const card = claim.cards[claim.attempt % claim.cards.length];
    if (card === undefined) return;
    const load = loadModelFiles(card, this.#options, claim.closing.signal)
      .catch((error: unknown): LoadOutcome => ({ kind: "failed", reason: String(error) }))
      .then((outcome) => {
        this.#loaded(claim, outcome);
        return outcome.kind === "ready" ? this.#limitCache() : undefined;
      })
      .finally(() => {
        this.#loads.delete(load);
        this.#beginNext();
      });
    this.#loads.add(load);
  }

  #beginNext(): void {
    for (let claim = this.#waiting.shift(); claim !== undefined; claim = this.#waiting.shift()) {
      if (claim.closing.signal.aborted) continue;
      this.#begin(claim);
      return;
    }
  }

  async #limitCache(): Promise<void> {
    const inUse = new Set<string>();
    for (const { state } of this.#claims.values()) {
      if (state.kind !== "ready") continue;
      for (const path of Object.values(state.files)) if (typeof path === "string") inUse.add(dirname(path));
    }
    await limitCache(this.#options.cacheDir ?? defaultCacheDir(), inUse);
  }

  #loaded(claim: Claim, outcome: LoadOutcome): void {
    if (claim.closing.signal.aborted) return;
    const isNew =
      outcome.kind !== claim.state.kind || (outcome.kind === "failed" && !isSameFailure(outcome, claim.state));
    claim.state = outcome;
    if (outcome.kind === "failed") {
      claim.attempt++;
      if (isNew)
        this.#log.warn({ reason: outcome.reason, retryMs: claim.retryMs }, "a model's files cannot be had now");
      claim.timer = setTimeout(() => {
        claim.timer = undefined;
        this.#load(claim);
      }, claim.retryMs);
      claim.retryMs = Math.min(claim.retryMs * 2, this.#options.longestRetryMs ?? 30_000);
    }
    if (isNew) this.#options.changed(claim.fingerprint);
  }
}

function isSameFailure(outcome: { readonly reason: string }, state: ModelFilesState): boolean {
  return state.kind === "failed" && state.reason === outcome.reason;
}

function sourceOf(card: ModelCard): string {
  return [card.tokenizer, card.tokenizerConfig, card.chatTemplate, card.config]
    .map((file) => file?.path ?? "")
    .join("\n");
}

function distinctSources(cards: readonly ModelCard[]): readonly ModelCard[] {
  const bySource = new Map<string, ModelCard>();
  for (const card of cards) {
    if (bySource.size < maxCards) bySource.set(sourceOf(card), card);
  }
  return [...bySource.values()];
}
