import { describe, expect, it } from "@jest/globals";
import {
  type Cycle,
  type Endpoints,
  type Filter,
  type Named,
  type Picker,
  type Profile,
  type ProfileHandler,
  reject,
  type SchedulingPlan,
  type SchedulingResult,
  type Scorer,
} from "../../../src/scheduling/contracts.ts";
import { singleProfileHandler } from "../../../src/scheduling/plugins/handlers/single-profile-handler.ts";
import { maxScorePicker } from "../../../src/scheduling/plugins/pickers/max-score-picker.ts";
import { queueScorer } from "../../../src/scheduling/plugins/scorers/queue-scorer.ts";
import { schedule, scheduleScreened, screen } from "../../../src/scheduling/scheduler.ts";
import fc from "../../properties.ts";
import { create, cycle, endpointsOf, names, seeded } from "./cycle-fixtures.ts";

function named<Role>(name: string, plugin: Role): Named<Role> {
  return { name, type: `${name}-type`, plugin };
}

const maxScore = named("max-score-picker", create(maxScorePicker));
const single = named("single-profile-handler", create(singleProfileHandler));

function scorer(name: string, weight: number, values: (at: number) => number) {
  const plugin: Scorer = {
    score: (_cycle, endpoints, scores) => {
      for (let i = 0; i < endpoints.length; i++) scores[i] = values(endpoints[i]?.slot ?? -1);
    },
  };
  return { ...named(name, plugin), weight };
}

function filter(name: string, keeps: (slot: number) => boolean): Named<Filter> {
  return named(name, { filter: (_cycle, endpoints) => endpoints.filter(({ slot }) => keeps(slot)) });
}

function profile(parts: Partial<Profile> = {}): Profile {
  return { name: "default", filters: [], scorers: [], picker: maxScore, ...parts };
}

function plan(parts: Partial<SchedulingPlan> & { readonly profile?: Partial<Profile> } = {}): SchedulingPlan {
  const { profile: only, ...rest } = parts;
  const made = profile(only);
  return {
    handler: single,
    profiles: new Map([[made.name, made]]),
    screeners: [],
    admitters: [],
    headerProcessors: [],
    producers: [],
    observers: [],
    ...rest,
  };
}

function destinations(result: SchedulingResult): string[] {
  if (result.kind !== "scheduled") throw new Error(`rejected: ${result.rejection.message}`);
  return names(result.destinations);
}

function rejection(result: SchedulingResult) {
  if (result.kind !== "rejected") throw new Error("was scheduled");
  return result.rejection;
}

const three = endpointsOf({}, {}, {});

describe("schedule", () => {
  it("picks the endpoint with the highest weighted sum", () => {
    const result = schedule(
      plan({
        profile: {
          scorers: [scorer("a", 1, (i) => [1, 0, 0.9][i] ?? 0), scorer("b", 3, (i) => [0, 0.5, 0.4][i] ?? 0)],
        },
      }),
      cycle(),
      three,
    );
    expect(destinations(result)).toEqual(["pod-2"]);
    if (result.kind !== "scheduled") return;
    const outcome = result.outcomes.get("default");
    expect(outcome?.kind === "picked" ? [...outcome.totals.values()].map((total) => total.toFixed(3)) : []).toEqual([
      "1.000",
      "1.500",
      "2.100",
    ]);
  });

  it("runs each filter on what the one before left", () => {
    const seen: number[] = [];
    const counting = (name: string, keeps: (slot: number) => boolean): Named<Filter> =>
      named(name, {
        filter: (_cycle, endpoints) => {
          seen.push(endpoints.length);
          return endpoints.filter(({ slot }) => keeps(slot));
        },
      });
    const result = schedule(
      plan({ profile: { filters: [counting("first", (i) => i > 0), counting("second", (i) => i < 2)] } }),
      cycle(),
      three,
    );
    expect(seen).toEqual([3, 2]);
    expect(destinations(result)).toEqual(["pod-1"]);
  });

  it("Scheduling 22: filters that empty the candidates are 429 rejected-saturated", () => {
    const scored: string[] = [];
    const result = schedule(
      plan({
        profile: {
          filters: [filter("none", () => false), filter("unreached", () => true)],
          scorers: [scorer("a", 1, () => scored.push("ran"))],
        },
      }),
      cycle(),
      three,
    );
    expect(rejection(result)).toMatchObject({
      code: "ResourceExhausted",
      message: "no endpoints available for the given request",
      droppedReason: "rejected-saturated",
    });
    expect(scored).toEqual([]);
  });

  it("Scheduling 22: no candidates at all are 503 rejected-no-endpoints", () => {
    expect(rejection(schedule(plan(), cycle(), []))).toMatchObject({
      code: "ServiceUnavailable",
      droppedReason: "rejected-no-endpoints",
      message: "failed to find endpoint candidates for serving the request",
    });
  });

  it("Scheduling 22: screeners that empty the candidates are 503 rejected-no-endpoints", () => {
    const result = schedule(plan({ screeners: [named("none", { screen: () => [] })] }), cycle(), three);
    expect(rejection(result)).toMatchObject({
      code: "ServiceUnavailable",
      droppedReason: "rejected-no-endpoints",
      message: "screeners eliminated all endpoint candidates",
    });
  });

  it("screens before any profile and tells the trace what each screener left", () => {
    const steps: unknown[] = [];
    const screened = screen(
      plan({ screeners: [named("odd", { screen: (_cycle, all) => all.filter(({ slot }) => slot === 1) })] }),
      cycle(),
      three,
      { screened: (name, before, after) => steps.push([name, before.length, after.length]) },
    );
    expect(steps).toEqual([["odd", 3, 1]]);
    expect(Array.isArray(screened) ? names(screened as Endpoints) : screened).toEqual(["pod-1"]);
  });

  it("Scheduling 24: scores are clamped before weighting", () => {
    const raw = [5, -3, Number.NaN, Number.POSITIVE_INFINITY, 0.25];
    const result = schedule(
      plan({ profile: { scorers: [scorer("wild", 2, (i) => raw[i] ?? 0)] } }),
      cycle(),
      endpointsOf({}, {}, {}, {}, {}),
    );
    if (result.kind !== "scheduled") throw new Error("rejected");
    const outcome = result.outcomes.get("default");
    expect(outcome?.kind === "picked" ? [...outcome.totals.values()] : []).toEqual([2, 0, 0, 2, 0.5]);
  });

  it("Scheduling 24: a score a scorer does not write counts as 0", () => {
    const silent: Scorer = { score: () => {} };
    const result = schedule(
      plan({ profile: { scorers: [scorer("before", 1, () => 1), { ...named("silent", silent), weight: 7 }] } }),
      cycle(),
      three,
    );
    if (result.kind !== "scheduled") throw new Error("rejected");
    const outcome = result.outcomes.get("default");
    expect(outcome?.kind === "picked" ? [...outcome.totals.values()] : []).toEqual([1, 1, 1]);
  });

  it("Scheduling 24: ties are broken at random, evenly", () => {
    const random = seeded(7);
    const counts = [0, 0, 0];
    for (let i = 0; i < 3000; i++) {
      const result = schedule(plan({ profile: { scorers: [scorer("same", 1, () => 0.5)] } }), cycle({}, random), three);
      const slot = result.kind === "scheduled" ? (result.destinations[0]?.slot ?? 0) : 0;
      counts[slot] = (counts[slot] ?? 0) + 1;
    }
    for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(120);
  });

  it("Scheduling 27: a scorer without its producer's data gives 0 and the request goes on", () => {
    const needsData: Scorer = {
      score: ({ request }, endpoints, scores) => {
        if (request.headers.get("never") !== undefined) scores.fill(endpoints.length);
      },
    };
    const result = schedule(
      plan({ profile: { scorers: [{ ...named("blind", needsData), weight: 3 }, scorer("other", 1, (i) => i / 2)] } }),
      cycle(),
      three,
    );
    expect(destinations(result)).toEqual(["pod-2"]);
  });

  it("gives the same totals whatever the order of the candidates", () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ waiting: fc.nat(20), a: fc.double(), b: fc.double({ noNaN: true }) }), {
          minLength: 1,
          maxLength: 12,
        }),
        fc.integer(),
        fc.integer(),
        (inits, seed, weightSeed) => {
          const endpoints = endpointsOf(...inits);
          const weights = [seeded(weightSeed)() * 5, seeded(weightSeed + 1)() * 5];
          const made = plan({
            profile: {
              scorers: [
                { ...named("queue", create(queueScorer)), weight: 1.5 },
                scorer("a", weights[0] ?? 1, (slot) => inits[slot]?.a ?? 0),
                scorer("b", weights[1] ?? 1, (slot) => inits[slot]?.b ?? 0),
              ],
            },
          });
          const random = seeded(seed);
          const shuffled = [...endpoints].sort(() => random() - 0.5);
          const straight = totalsBySlot(schedule(made, cycle(), endpoints));
          expect(totalsBySlot(schedule(made, cycle(), shuffled))).toEqual(straight);
          for (const total of straight.values()) {
            expect(total).toBeGreaterThanOrEqual(0);
            expect(total).toBeLessThanOrEqual(1.5 + (weights[0] ?? 0) + (weights[1] ?? 0));
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  it("keeps an outcome's totals when the next decision reuses the scratch", () => {
    const made = plan({ profile: { scorers: [scorer("a", 1, (i) => i / 2)] } });
    const first = schedule(made, cycle(), three);
    schedule(plan({ profile: { scorers: [scorer("a", 1, () => 1)] } }), cycle(), three);
    expect([...totalsBySlot(first).values()]).toEqual([0, 0.5, 1]);
  });
});

function totalsBySlot(result: SchedulingResult): Map<number, number> {
  if (result.kind !== "scheduled") throw new Error("rejected");
  const outcome = result.outcomes.get(result.primary);
  if (outcome?.kind !== "picked") throw new Error("nothing picked");
  return new Map(
    [...outcome.totals].map(([{ slot }, total]): [number, number] => [slot, total]).sort(([a], [b]) => a - b),
  );
}

describe("a plugin that throws", () => {
  const boom = (): never => {
    throw new Error("boom");
  };
  const faulty: readonly [string, Partial<SchedulingPlan> & { profile?: Partial<Profile> }, string[]][] = [
    [
      "screener",
      { screeners: [named("bad", { screen: boom })], profile: { scorers: [scorer("s", 1, (i) => i)] } },
      ["Screener"],
    ],
    [
      "filter",
      { profile: { filters: [named("bad", { filter: boom })], scorers: [scorer("s", 1, (i) => i / 2)] } },
      ["Filter"],
    ],
    [
      "scorer",
      {
        profile: {
          scorers: [
            {
              ...named("bad", {
                score: (_cycle: Cycle, _endpoints: Endpoints, scores: Float64Array) => {
                  scores[0] = 1;
                  boom();
                },
              }),
              weight: 9,
            },
            scorer("s", 1, (i) => i / 2),
          ],
        },
      },
      ["Scorer"],
    ],
  ];

  it.each(faulty)("is skipped when it is a %s", (_kind, parts, points) => {
    const errors: string[] = [];
    const result = schedule(plan(parts), cycle(), endpointsOf({}, {}, {}), undefined, (point, plugin) =>
      errors.push(`${point} ${plugin.name}`),
    );
    expect(errors).toEqual(points.map((point) => `${point} bad`));
    expect(destinations(result).length).toBe(1);
    if (_kind !== "screener") expect(destinations(result)).toEqual(["pod-2"]);
  });

  it("is skipped without an error sink too", () => {
    expect(
      destinations(schedule(plan({ profile: { filters: [named("bad", { filter: boom })] } }), cycle(), three)).length,
    ).toBe(1);
  });

  const badPickers: readonly [string, Picker][] = [
    ["throws", { pick: boom }],
    ["returns nothing", { pick: () => [] }],
    ["returns no list", { pick: () => undefined as unknown as Endpoints }],
  ];
  it.each(badPickers)("is replaced by a random pick when it is a picker that %s", (_what, picker) => {
    const random = seeded(3);
    const errors: string[] = [];
    const seen = new Set<string>();
    for (let i = 0; i < 60; i++) {
      const result = schedule(
        plan({ profile: { picker: named("bad", picker) } }),
        cycle({}, random),
        three,
        undefined,
        (point) => errors.push(point),
      );
      for (const name of destinations(result)) seen.add(name);
    }
    expect(errors).toHaveLength(60);
    expect(errors[0]).toBe("Picker");
    expect([...seen].sort()).toEqual(["pod-0", "pod-1", "pod-2"]);
  });

  it("is replaced by the first profile when it is the handler", () => {
    const errors: string[] = [];
    const result = schedule(
      plan({ handler: named("bad", { nextProfiles: boom, primaryProfile: boom }) }),
      cycle(),
      three,
      undefined,
      (point) => errors.push(point),
    );
    expect(destinations(result)).toHaveLength(1);
    expect(new Set(errors)).toEqual(new Set(["ProfilePicker", "ProcessProfilesResults"]));
  });
});

describe("the profile handler", () => {
  const two = new Map([
    ["prefill", profile({ name: "prefill", filters: [filter("zero", (i) => i === 0)] })],
    ["decode", profile({ name: "decode", filters: [filter("two", (i) => i === 2)] })],
  ]);

  it("may run a second profile after it has seen the first's outcome", () => {
    const handler: ProfileHandler = {
      nextProfiles: (_cycle, _profiles, outcomes) =>
        outcomes.has("prefill") ? [] : outcomes.has("decode") ? ["prefill"] : ["decode"],
      primaryProfile: () => "decode",
    };
    const result = schedule(plan({ handler: named("h", handler), profiles: two }), cycle(), three);
    expect(destinations(result)).toEqual(["pod-2"]);
    expect(result.kind === "scheduled" ? [...result.outcomes.keys()] : []).toEqual(["decode", "prefill"]);
  });

  it("may refuse the request with a status of its own", () => {
    const handler: ProfileHandler = { nextProfiles: () => reject("BadRequest", "no"), primaryProfile: () => "" };
    expect(rejection(schedule(plan({ handler: named("h", handler) }), cycle(), three)).code).toBe("BadRequest");
    const late: ProfileHandler = {
      nextProfiles: (_cycle, profiles, outcomes) => (outcomes.size > 0 ? [] : profiles),
      primaryProfile: () => reject("PreconditionFailed", "no"),
    };
    expect(rejection(schedule(plan({ handler: named("h", late) }), cycle(), three)).code).toBe("PreconditionFailed");
  });

  it("that runs no profile is 429 without a dropped reason", () => {
    const handler: ProfileHandler = { nextProfiles: () => [], primaryProfile: () => "default" };
    expect(rejection(schedule(plan({ handler: named("h", handler) }), cycle({ id: "r7" }), three))).toMatchObject({
      code: "ResourceExhausted",
      message: "failed to find target endpoint: failed to run any scheduler profile for request r7",
      droppedReason: undefined,
    });
  });

  it("that never stops asking is stopped", () => {
    const errors: string[] = [];
    const handler: ProfileHandler = { nextProfiles: () => ["default"], primaryProfile: () => "default" };
    const result = schedule(plan({ handler: named("h", handler) }), cycle(), three, undefined, (point) =>
      errors.push(point),
    );
    expect(errors).toEqual(["ProfilePicker"]);
    expect(destinations(result)).toHaveLength(1);
  });

  it("that names an unknown profile is reported", () => {
    const errors: string[] = [];
    const handler: ProfileHandler = {
      nextProfiles: (_cycle, _profiles, outcomes) => (outcomes.size > 0 ? [] : ["ghost", "default"]),
      primaryProfile: () => "ghost",
    };
    const result = schedule(
      plan({ handler: named("h", handler) }),
      cycle(),
      three,
      undefined,
      (_point, _plugin, error) => errors.push(String(error)),
    );
    expect(errors).toEqual(["RangeError: no profile is named 'ghost'"]);
    expect(rejection(result).code).toBe("ResourceExhausted");
  });
});

describe("the decision trace and the plugin timer", () => {
  it("receive every step in order", () => {
    const steps: unknown[] = [];
    const timed: string[] = [];
    let nowMs = 0;
    const made = plan({
      screeners: [named("screener", { screen: (_cycle, all) => all })],
      profile: { filters: [filter("f", (i) => i > 0)], scorers: [scorer("s", 2, (i) => i)] },
    });
    scheduleScreened(
      made,
      cycle(),
      three,
      {
        filtered: (...[name, plugin, before, after]) =>
          steps.push(["filtered", name, plugin, before.length, after.length]),
        scored: (name, plugin, weight, endpoints, scores) =>
          steps.push(["scored", name, plugin, weight, endpoints.length, [...scores]]),
        picked: (name, plugin, _endpoints, totals, picked) =>
          steps.push(["picked", name, plugin, [...totals], picked.length]),
      },
      undefined,
      {
        now: () => (nowMs += 1),
        record: (point, { name }, durationMs) => timed.push(`${point} ${name} ${durationMs}`),
      },
    );
    expect(steps).toEqual([
      ["filtered", "default", "f", 3, 2],
      ["scored", "default", "s", 2, 2, [1, 1]],
      ["picked", "default", "max-score-picker", [2, 2], 1],
    ]);
    expect(timed).toEqual([
      "ProfilePicker single-profile-handler 1",
      "Filter f 1",
      "Scorer s 1",
      "Picker max-score-picker 1",
      "ProfilePicker single-profile-handler 1",
      "ProcessProfilesResults single-profile-handler 1",
    ]);
  });
});
