/**
 * Prefill tokens that shrink with time: the vectors are those of dynamo-kv-router 1.6.1 (sequences/prefill_tracker.rs, sequences/multi_worker.rs), in
 * seconds as there; and the columns against a model that walks every prefill of its rank.
 */
import { describe, expect, it } from "@jest/globals";
import { type ActivePrefill, ActivePrefills } from "../../../../src/prefill-router/stage/active-prefills.ts";
import { RankColumns } from "../../../../src/prefill-router/stage/rank-columns.ts";
import fc from "../../../properties.ts";

/** Seconds; `undefined` is a prefill of which nobody knows how long it takes. */
type Step =
  | { readonly at: number; readonly add: string; readonly tokens: number; readonly takes: number | undefined }
  | { readonly at: number; readonly end: string };

const add = (name: string, tokens: number, takes: number | undefined, at = 0): Step => ({
  at,
  add: name,
  tokens,
  takes,
});
const end = (name: string, at: number): Step => ({ at, end: name });

interface Vector {
  readonly name: string;
  readonly steps: readonly Step[];
  /** Seconds and the tokens that count then, in order. */
  readonly active: readonly (readonly [at: number, tokens: number])[];
}

const vectors: readonly Vector[] = [
  { name: "a rank without prefills has none", steps: [], active: [[5, 0]] },
  {
    name: "all of a rank's tokens shrink at the speed of its oldest prefill",
    steps: [add("a", 100, 10), add("b", 60, 6, 2)],
    active: [
      [2, 140],
      [5, 110],
      [12, 40],
      [17, 0],
      [60, 0],
    ],
  },
  {
    name: "beside a prefill of unknown duration the oldest shrinks alone",
    steps: [add("a", 100, 10), add("b", 60, undefined)],
    active: [
      [5, 110],
      [12, 60],
    ],
  },
  {
    name: "an oldest prefill of unknown duration holds all",
    steps: [add("a", 100, undefined), add("b", 60, 6)],
    active: [[12, 160]],
  },
  {
    name: "an oldest prefill that takes no time has ended, and no other with it",
    steps: [add("a", 100, 0), add("b", 60, 6)],
    active: [
      [0, 60],
      [3, 60],
    ],
  },
  {
    name: "what is left does not jump when a later prefill ends first",
    steps: [add("a", 100, 10), add("b", 40, 4), end("b", 5)],
    active: [
      [5, 90],
      [6, 80],
    ],
  },
  {
    name: "a later prefill that ends early gives back no more than the time that went by",
    steps: [add("a", 100, 10), add("b", 40, 4), end("b", 2)],
    active: [
      [2, 100],
      [3, 90],
    ],
  },
  {
    name: "the same where both were short",
    steps: [add("a", 30, 6), add("b", 20, 4), end("b", 2)],
    active: [
      [2, 30],
      [4, 20],
    ],
  },
  {
    name: "a later prefill of unknown duration moves nothing when it ends",
    steps: [add("a", 100, 10), add("b", 40, undefined), end("b", 5)],
    active: [[5, 50]],
  },
  {
    name: "the next one begins when the oldest ends",
    steps: [add("a", 100, 10), add("b", 40, 8), end("a", 3)],
    active: [
      [3, 40],
      [5, 30],
    ],
  },
  {
    name: "so does one that waited behind a prefill of unknown duration",
    steps: [add("a", 100, undefined), add("b", 40, 8), end("a", 3)],
    active: [
      [3, 40],
      [5, 30],
    ],
  },
];

function prefill(prefillTokens: number, expectedPrefillMs: number | undefined): ActivePrefill {
  return { prefillTokens, expectedPrefillMs, older: undefined, newer: undefined };
}

describe("active prefills", () => {
  it.each(vectors)("$name", ({ steps, active }) => {
    const clock = { nowMs: 0 };
    const columns = new RankColumns();
    const slot = columns.take(0);
    const prefills = new ActivePrefills(columns, () => clock.nowMs);
    const known = new Map<string, ActivePrefill>();
    for (const step of steps) {
      clock.nowMs = step.at * 1000;
      if ("add" in step) {
        const one = prefill(step.tokens, step.takes === undefined ? undefined : step.takes * 1000);
        known.set(step.add, one);
        prefills.insert(slot, one, clock.nowMs);
      } else {
        const one = known.get(step.end);
        if (one !== undefined) prefills.remove(slot, one);
      }
    }
    for (const [at, tokens] of active) {
      prefills.refresh(at * 1000);
      expect([at, columns.prefillTokens[slot]]).toEqual([at, tokens]);
    }
  });

  it("ask for no time where no duration is known", () => {
    const columns = new RankColumns();
    const slot = columns.take(0);
    const prefills = new ActivePrefills(columns, () => {
      throw new Error("asked for the time");
    });
    const [a, b] = [prefill(10, undefined), prefill(20, undefined)];
    prefills.insert(slot, a, 0);
    prefills.insert(slot, b, 0);
    prefills.refresh(1e6);
    expect(columns.prefillTokens[slot]).toBe(30);
    prefills.remove(slot, a);
    prefills.remove(slot, b);
    expect(columns.prefillTokens[slot]).toBe(0);
  });

  it("count as a model does that walks every prefill of a rank, whatever ends in whatever order", () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
        const clock = { nowMs: 0 };
        const columns = new RankColumns();
        const prefills = new ActivePrefills(columns, () => clock.nowMs);
        const slots = [0, 1, 2].map((rank) => columns.take(rank));
        const models = slots.map(() => new Model());
        const open: { readonly slot: number; readonly one: ActivePrefill }[] = [];
        for (const { slot: pick, tokens, takesMs, afterMs, ends } of operations) {
          clock.nowMs += afterMs;
          if (ends === undefined) {
            const one = prefill(tokens, takesMs);
            prefills.insert(slots[pick] ?? 0, one, clock.nowMs);
            models[pick]?.add(one, clock.nowMs);
            open.push({ slot: pick, one });
          } else {
            const [ended] = open.length === 0 ? [] : open.splice(ends % open.length, 1);
            if (ended === undefined) continue;
            prefills.remove(slots[ended.slot] ?? 0, ended.one);
            models[ended.slot]?.end(ended.one, clock.nowMs);
          }
          prefills.refresh(clock.nowMs);
          const counted = slots.map((slot) => columns.prefillTokens[slot] ?? -1);
          expect(counted).toEqual(models.map((model) => model.activeAt(clock.nowMs)));
          expect(Math.min(...counted)).toBeGreaterThanOrEqual(0);
          for (const [index, model] of models.entries()) {
            expect(counted[index]).toBeLessThanOrEqual(model.tokens);
            if (!model.hasDurations) expect(counted[index]).toBe(model.tokens);
          }
        }
      }),
    );
  });
});

/** Whole milliseconds and few, so that ends and anchors meet. */
const operation = fc.record({
  slot: fc.nat(2),
  tokens: fc.integer({ min: 1, max: 5000 }),
  takesMs: fc.option(fc.oneof(fc.constant(0), fc.nat(400)), { nil: undefined }),
  afterMs: fc.nat(150),
  ends: fc.option(fc.nat(), { nil: undefined }),
});

/** One rank: prefills in order, and since when the first of them is taken to run. */
class Model {
  readonly #prefills: ActivePrefill[] = [];
  #sinceMs: number | undefined;

  get tokens(): number {
    return this.#prefills.reduce((sum, { prefillTokens }) => sum + prefillTokens, 0);
  }

  get hasDurations(): boolean {
    return this.#prefills.some(({ expectedPrefillMs }) => expectedPrefillMs !== undefined);
  }

  add(one: ActivePrefill, nowMs: number): void {
    this.#prefills.push(one);
    this.#sinceMs ??= nowMs;
  }

  end(one: ActivePrefill, nowMs: number): void {
    const index = this.#prefills.indexOf(one);
    this.#prefills.splice(index, 1);
    if (index === 0) this.#sinceMs = this.#prefills.length === 0 ? undefined : nowMs;
    else if (one.expectedPrefillMs !== undefined)
      this.#sinceMs = Math.min(nowMs, (this.#sinceMs ?? 0) + one.expectedPrefillMs);
  }

  activeAt(nowMs: number): number {
    const [first] = this.#prefills;
    if (first === undefined) return 0;
    const { prefillTokens: own, expectedPrefillMs: takesMs } = first;
    if (takesMs === undefined) return this.tokens;
    const elapsedMs = Math.max(0, nowMs - (this.#sinceMs ?? 0));
    if (this.#prefills.every(({ expectedPrefillMs }) => expectedPrefillMs !== undefined)) {
      if (takesMs === 0) return Math.max(0, this.tokens - own);
      return Math.max(0, this.tokens - Math.floor((own * elapsedMs) / takesMs));
    }
    const left = takesMs === 0 ? 0 : Math.min(1, Math.max(0, 1 - elapsedMs / takesMs));
    return this.tokens - own + Math.ceil(own * left);
  }
}
