import { describe, expect, it } from "@jest/globals";
import type { PolicyClass, PolicyProfile, QueuePolicy } from "../../../../src/prefill-router/policy/policy-class.ts";
import { type Arrival, PolicyQueue } from "../../../../src/prefill-router/queue/policy-queue.ts";
import { QueueEntry } from "../../../../src/prefill-router/queue/queue-entry.ts";
import fc from "../../../properties.ts";
import { QueueModel } from "./queue-model.ts";

function policyClass(name: string, changes: Partial<PolicyClass> = {}): PolicyClass {
  return {
    name,
    queuePolicy: "fcfs",
    quantum: 100,
    busyTokens: undefined,
    busyFraction: 1,
    requestLimit: undefined,
    rawTokenLimit: undefined,
    cachedTokenLimit: undefined,
    ...changes,
  };
}

function profileOf(classes: readonly PolicyClass[]): PolicyProfile {
  return { classes, classIndex: () => 0 };
}

function arrival(changes: Partial<Arrival> = {}): Arrival {
  return {
    classIndex: 0,
    weight: { rawTokens: 100, cachedTokens: 0 },
    arrivalSeconds: 0,
    priorityJump: 0,
    strictPriority: 0,
    lane: undefined,
    ...changes,
  };
}

function orderOf(queue: PolicyQueue<string>): string[] {
  const order: string[] = [];
  for (;;) {
    const entry = queue.popNext(() => true);
    if (entry === undefined) return order;
    order.push(entry.payload);
  }
}

describe("PolicyQueue", () => {
  const at = (arrivalSeconds: number, changes: Partial<Arrival> = {}) => arrival({ arrivalSeconds, ...changes });
  const sized = (rawTokens: number, cachedTokens: number, changes: Partial<Arrival> = {}) =>
    arrival({ weight: { rawTokens, cachedTokens }, ...changes });

  it.each<[string, QueuePolicy, readonly [string, Arrival][], string[]]>([
    [
      "fcfs serves who came first",
      "fcfs",
      [
        ["b", at(2)],
        ["a", at(1)],
      ],
      ["a", "b"],
    ],
    [
      "a priority jump is a head start in seconds",
      "fcfs",
      [
        ["a", at(1)],
        ["b", at(6, { priorityJump: 50 })],
      ],
      ["b", "a"],
    ],
    [
      "a head start too short does not overtake",
      "fcfs",
      [
        ["a", at(1)],
        ["b", at(6, { priorityJump: 4 })],
      ],
      ["a", "b"],
    ],
    [
      "a negative jump counts as none",
      "fcfs",
      [
        ["a", at(1, { priorityJump: -9 })],
        ["b", at(2)],
      ],
      ["a", "b"],
    ],
    [
      "a strict priority beats any jump",
      "fcfs",
      [
        ["a", at(1, { priorityJump: 1e6 })],
        ["b", at(9, { strictPriority: 1 })],
      ],
      ["b", "a"],
    ],
    [
      "wspt serves the least tokens to compute first",
      "wspt",
      [
        ["a", sized(900, 0)],
        ["b", sized(1000, 950)],
      ],
      ["b", "a"],
    ],
    [
      "wspt weighs by the jump",
      "wspt",
      [
        ["a", sized(100, 0)],
        ["b", sized(300, 0, { priorityJump: 5 })],
      ],
      ["b", "a"],
    ],
    [
      "wspt counts a prompt that is cached whole as one token",
      "wspt",
      [
        ["a", sized(2, 0)],
        ["b", sized(500, 500)],
      ],
      ["b", "a"],
    ],
    [
      "lcfs serves who came last",
      "lcfs",
      [
        ["a", at(1)],
        ["b", at(2)],
      ],
      ["b", "a"],
    ],
    [
      "ties go to who was queued first",
      "wspt",
      [
        ["a", sized(64, 0)],
        ["b", sized(64, 0)],
      ],
      ["a", "b"],
    ],
  ])("%s", (_name, queuePolicy, arrivals, expected) => {
    const queue = new PolicyQueue<string>(profileOf([policyClass("only", { queuePolicy })]));
    for (const [name, each] of arrivals) queue.push(each, name, 1);
    expect(orderOf(queue)).toEqual(expected);
  });

  it("shares by tokens, in proportion to the quanta, whatever the sizes of the requests", () => {
    const queue = new PolicyQueue<string>(
      profileOf([policyClass("large", { quantum: 300 }), policyClass("small", { quantum: 100 })]),
    );
    for (let index = 0; index < 300; index++) {
      queue.push(sized(400, 0, { classIndex: 0 }), "large", 1);
      for (let each = 0; each < 8; each++) queue.push(sized(50, 0, { classIndex: 1 }), "small", 1);
    }
    const tokens = { large: 0, small: 0 };
    while (tokens.large + tokens.small < 40_000) {
      const entry = queue.popNext(() => true);
      if (entry?.payload === "large") tokens.large += 400;
      else tokens.small += 50;
    }
    expect(tokens.large / tokens.small).toBeGreaterThan(2.8);
    expect(tokens.large / tokens.small).toBeLessThan(3.2);
  });

  it("lets a request that may go elsewhere pass one that waits for its worker", () => {
    const queue = new PolicyQueue<string>(profileOf([policyClass("only")]));
    queue.push(at(1, { lane: "7:0" }), "pinned", 1);
    queue.push(at(2), "free", 1);
    expect(queue.popNext((_, payload) => payload !== "pinned")?.payload).toBe("free");
    expect(queue.popNext(() => true)?.payload).toBe("pinned");
  });

  it("holds the shared lane behind its first request while that may not go", () => {
    const queue = new PolicyQueue<string>(profileOf([policyClass("only")]));
    queue.push(at(1), "first", 1);
    queue.push(at(2), "second", 1);
    expect(queue.popNext((_, payload) => payload === "second")).toBeUndefined();
    expect(queue.size).toBe(2);
  });

  it.each<[string, Partial<PolicyClass>, object]>([
    ["requests", { requestLimit: 2 }, { limitKind: "requests", current: 4, limit: 4 }],
    ["prompt tokens", { rawTokenLimit: 100 }, { limitKind: "raw_isl_tokens", current: 200, limit: 200 }],
    ["cached tokens", { cachedTokenLimit: 40 }, { limitKind: "cached_tokens", current: 80, limit: 80 }],
  ])(
    "refuses beyond the limit of %s times the workers, and takes the one that crosses it",
    (_name, limits, expected) => {
      const queue = new PolicyQueue<string>(profileOf([policyClass("limited", limits)]));
      const workers = 2;
      let rejection: unknown;
      for (let index = 0; index < 10 && rejection === undefined; index++) {
        const pushed = queue.push(sized(100, 40), "request", workers);
        if (!(pushed instanceof QueueEntry)) rejection = pushed;
      }
      expect(rejection).toEqual({ policyClass: "limited", ...expected });
      queue.popNext(() => true);
      expect(queue.push(sized(100, 40), "again", workers)).toBeInstanceOf(QueueEntry);
    },
  );

  it("counts what waits by class", () => {
    const queue = new PolicyQueue<string>(profileOf([policyClass("a"), policyClass("b")]));
    queue.push(sized(100, 30), "x", 1);
    const entry = queue.push(sized(50, 0, { classIndex: 1, lane: "1:0" }), "y", 1);
    expect(queue.stats()).toEqual([
      { policyClass: "a", requests: 1, rawTokens: 100, cachedTokens: 30 },
      { policyClass: "b", requests: 1, rawTokens: 50, cachedTokens: 0 },
    ]);
    expect(entry instanceof QueueEntry && queue.remove(entry)).toBe(true);
    expect(entry instanceof QueueEntry && queue.remove(entry)).toBe(false);
    expect(queue.stats()[1]).toEqual({ policyClass: "b", requests: 0, rawTokens: 0, cachedTokens: 0 });
  });

  const operations = fc.array(
    fc.oneof(
      {
        weight: 3,
        arbitrary: fc.record({
          kind: fc.constant("push" as const),
          classIndex: fc.nat({ max: 2 }),
          raw: fc.integer({ min: 0, max: 2000 }),
          cached: fc.nat({ max: 500 }),
          jump: fc.constantFrom(0, 0, 3, 40),
          strict: fc.constantFrom(0, 0, 0, 2),
          lane: fc.constantFrom(undefined, undefined, "1:0", "2:1"),
        }),
      },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant("remove" as const), at: fc.nat({ max: 30 }) }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant("pop" as const), mask: fc.nat({ max: 15 }) }) },
    ),
    { maxLength: 150, size: "max" },
  );

  it("serves in the order of a naive model, under any pushes, cancellations and refusals to go", () => {
    const classes = [
      policyClass("a", { quantum: 128 }),
      policyClass("b", { quantum: 700, queuePolicy: "wspt" }),
      policyClass("c", { quantum: 1, queuePolicy: "lcfs" }),
    ];
    fc.assert(
      fc.property(operations, (steps) => {
        const queue = new PolicyQueue<number>(profileOf(classes));
        const model = new QueueModel(classes);
        const entries: QueueEntry<number>[] = [];
        let time = 0;
        for (const step of steps) {
          time += 1;
          if (step.kind === "push") {
            const each = arrival({
              classIndex: step.classIndex,
              weight: { rawTokens: step.raw, cachedTokens: Math.min(step.raw, step.cached) },
              arrivalSeconds: time,
              priorityJump: step.jump,
              strictPriority: step.strict,
              lane: step.lane,
            });
            const entry = queue.push(each, time, 1);
            if (!(entry instanceof QueueEntry)) throw new Error("no limit is set");
            entries.push(entry);
            model.push(time, each);
          } else if (step.kind === "remove") {
            const entry = entries[step.at];
            if (entry !== undefined && queue.remove(entry)) model.remove(entry.payload);
          } else {
            // Which requests may go: a different part of them at every step.
            const isReady = (id: number) => ((step.mask >> (id & 3)) & 1) === 1;
            expect(queue.popNext((_, id) => isReady(id))?.payload).toBe(model.pop(isReady));
          }
          expect(queue.size).toBe(model.size);
        }
        for (let left = model.size; left > 0; left--)
          expect(queue.popNext(() => true)?.payload).toBe(model.pop(() => true));
        expect(queue.stats().every((each) => each.requests === 0 && each.rawTokens === 0)).toBe(true);
      }),
      { numRuns: 200 },
    );
  });
});
