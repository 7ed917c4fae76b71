/**
 * The workers of one endpoint and role that registered one model. The card that came first holds the group: workers with another one are kept
 * out until all of the first have gone (Dynamo 1.6.1: dynamo-llm, src/discovery/controller.rs), so a rollout that forgot to change the
 * namespace never mixes two block sizes.
 */
import type { ModelRecord } from "../records.ts";

export class CardGroup {
  readonly key: string;
  /** Cards by fingerprint in the order in which they were first seen, by path. */
  readonly #cohorts = new Map<string, Map<string, ModelRecord>>();
  #isSettled = false;

  constructor(key: string) {
    this.key = key;
  }

  get isEmpty(): boolean {
    return this.#cohorts.size === 0;
  }

  /** Cards of the cohort that holds the group, by path. */
  get admitted(): ReadonlyMap<string, ModelRecord> {
    const [first] = this.#cohorts.values();
    return first ?? none;
  }

  /** The cohorts that are kept out. */
  get rejected(): readonly (readonly [fingerprint: string, cards: ReadonlyMap<string, ModelRecord>])[] {
    return [...this.#cohorts].slice(1);
  }

  /** True when the card is of a cohort that is kept out and was not known before. */
  put(path: string, record: ModelRecord): boolean {
    const { fingerprint } = record.card;
    const cohort = this.#cohorts.get(fingerprint);
    if (cohort !== undefined) {
      cohort.set(path, record);
      return false;
    }
    this.#cohorts.set(fingerprint, new Map([[path, record]]));
    return this.#cohorts.size > 1;
  }

  remove(path: string, fingerprint: string): void {
    const cohort = this.#cohorts.get(fingerprint);
    cohort?.delete(path);
    if (cohort?.size === 0) this.#cohorts.delete(fingerprint);
  }

  /**
   * Before it is called the first time, nothing tells which of the cards came first, as one list brought them all: then the one most workers have
   * holds the group, which whoever else looks is likely to have seen first too.
   */
  settle(): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    const bySize = [...this.#cohorts].toSorted((a, b) => b[1].size - a[1].size);
    this.#cohorts.clear();
    for (const [fingerprint, cohort] of bySize) this.#cohorts.set(fingerprint, cohort);
  }
}

const none: ReadonlyMap<string, ModelRecord> = new Map();
