/** The engine as a state machine: batching, prefix reuse, eviction, preemption, adapters, and what never breaks whatever arrives. */
import { describe, expect, it } from "@jest/globals";
import { answerToken } from "../../../src/sim/engine/answer-tokens.ts";
import { hashesOfTokens } from "../../../src/sim/engine/block-hash.ts";
import type { Sequence } from "../../../src/sim/engine/sequence.ts";
import fc from "../../properties.ts";
import { recordEngine, requestOf, run, runToIdle } from "./engine-harness.ts";

function submitted(sequence: Sequence<string> | undefined): Sequence<string> {
  if (sequence === undefined) throw new Error("refused");
  return sequence;
}

describe("the simulated engine", () => {
  it("answers with the tokens of the seed, one a step, and comes to rest", () => {
    const { engine, lines } = recordEngine();
    engine.submit(requestOf(run(1, 10), { answerTokens: 3 }), 100);
    expect(engine.nextEventMs()).toBe(100);
    runToIdle(engine);
    expect(lines.map((line) => line.replace(/^\S+ /, ""))).toEqual([
      "admitted a",
      `token a ${answerToken(3, 0)}`,
      `token a ${answerToken(3, 1)}`,
      `token a ${answerToken(3, 2)}`,
      "finished a stop",
    ]);
    expect([engine.running, engine.waiting, engine.usedBlocks]).toEqual([0, 0, 0]);
  });

  it("ends at the client's limit with reason length", () => {
    const { engine, lines } = recordEngine();
    engine.submit(requestOf(run(1, 10), { answerTokens: 9, maxTokens: 2 }), 0);
    runToIdle(engine);
    expect(lines.at(-1)).toMatch(/finished a length$/);
    expect(engine.counters.answerTokens).toBe(2);
  });

  it("finishes a request without an answer once its prompt is computed", () => {
    const { engine, lines } = recordEngine();
    engine.submit(requestOf(run(1, 10), { answerTokens: 0 }), 0);
    runToIdle(engine);
    expect(lines.map((line) => line.split(" ")[1])).toEqual(["admitted", "finished"]);
  });

  it.each([
    ["a prompt that leaves no room for an answer", requestOf(run(1, 32))],
    ["an empty prompt", requestOf([])],
  ])("refuses %s", (_, request) => {
    const { engine } = recordEngine({ maxModelLen: 32 });
    expect(engine.submit(request, 0)).toBeUndefined();
    expect(engine.nextEventMs()).toBe(Number.POSITIVE_INFINITY);
  });

  it("cuts the answer where the model's length ends", () => {
    const { engine } = recordEngine({ maxModelLen: 32 });
    engine.submit(requestOf(run(1, 30), { answerTokens: 100 }), 0);
    runToIdle(engine);
    expect(engine.counters.answerTokens).toBe(2);
  });

  it("never promises a length that the cache cannot hold", () => {
    const { engine } = recordEngine({ numBlocks: 4, maxModelLen: 1000 });
    expect(engine.config.maxModelLen).toBe(16);
  });

  it("prefills a long prompt in chunks of the step's token budget", () => {
    const { engine } = recordEngine({ maxNumBatchedTokens: 16, maxNumSeqs: 4 });
    engine.submit(requestOf(run(1, 40), { answerTokens: 1 }), 0);
    // 16 + 16 + 8 tokens: three steps of 10 ms and about 40 ms of prompt.
    const endedAt = runToIdle(engine);
    expect(endedAt).toBeGreaterThan(70);
    expect(endedAt).toBeLessThan(70.2);
  });

  it("lets decodes go on beside the chunks of a long prompt", () => {
    const { engine, lines } = recordEngine({ maxNumBatchedTokens: 16, maxNumSeqs: 4 });
    engine.submit(requestOf(run(1, 4), { answerTokens: 20, owner: "short" }), 0);
    engine.advance(15);
    engine.submit(requestOf(run(100, 100), { answerTokens: 1, owner: "long" }), 15);
    runToIdle(engine);
    const firstOfLong = lines.findIndex((line) => line.includes("token long"));
    const shortBefore = lines.slice(0, firstOfLong).filter((line) => line.includes("token short"));
    expect(shortBefore.length).toBeGreaterThanOrEqual(7);
  });

  it("finds a prefix again, leaves one block to compute, and is faster for it", () => {
    const { engine } = recordEngine();
    const first = submitted(engine.submit(requestOf(run(1, 40)), 0));
    const idleAt = runToIdle(engine);
    const second = submitted(engine.submit(requestOf(run(1, 40)), idleAt));
    runToIdle(engine);
    expect(first.cachedTokens).toBe(0);
    expect(second.cachedTokens).toBe(36);
    expect(second.firstTokenMs - idleAt).toBeLessThan((first.firstTokenMs - 0) / 2);
    expect(engine.counters).toMatchObject({ prefixQueries: 80, prefixHits: 36 });
  });

  it("finds an answer again when the next turn repeats it", () => {
    const { engine } = recordEngine();
    engine.submit(requestOf(run(1, 10), { answerTokens: 10 }), 0);
    const idleAt = runToIdle(engine);
    const answer = Array.from({ length: 10 }, (_, position) => answerToken(3, position));
    const next = submitted(engine.submit(requestOf([...run(1, 10), ...answer, 77, 78, 79, 80]), idleAt));
    runToIdle(engine);
    // 20 tokens were there, the last of them never had its KV computed: four full blocks.
    expect(next.cachedTokens).toBe(16);
  });

  it("shares nothing between roots (models, adapters, salts)", () => {
    const { engine } = recordEngine();
    engine.submit(requestOf(run(1, 40), { root: 1 }), 0);
    const idleAt = runToIdle(engine);
    const other = submitted(engine.submit(requestOf(run(1, 40), { root: 2 }), idleAt));
    runToIdle(engine);
    expect(other.cachedTokens).toBe(0);
  });

  it("computes the prefix of a burst once", () => {
    const { engine } = recordEngine({ maxNumBatchedTokens: 1000 });
    const burst = ["a", "b", "c"].map((owner) => submitted(engine.submit(requestOf(run(1, 40), { owner }), 0)));
    runToIdle(engine);
    expect(burst.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 36, 36]);
  });

  it("reuses nothing when prefix caching is off", () => {
    const { engine, reusable } = recordEngine({ prefixCaching: false });
    engine.submit(requestOf(run(1, 40)), 0);
    const idleAt = runToIdle(engine);
    const second = submitted(engine.submit(requestOf(run(1, 40)), idleAt));
    runToIdle(engine);
    expect([second.cachedTokens, reusable.size, engine.cachedBlocks]).toEqual([0, 0, 0]);
  });

  it("evicts the least recently used prefix, its tail first", () => {
    const { engine } = recordEngine({ numBlocks: 16 });
    let now = 0;
    const ask = (from: number, count: number): number => {
      const sequence = submitted(engine.submit(requestOf(run(from, count), { answerTokens: 1 }), now));
      now = runToIdle(engine);
      return sequence.cachedTokens;
    };
    ask(1000, 24);
    ask(2000, 24);
    ask(1000, 24);
    // Six of sixteen blocks are needed; four were never used, two are the tail of 2000.
    ask(3000, 24);
    expect(ask(1000, 24)).toBe(20);
    expect(ask(2000, 24)).toBe(16);
  });

  it("forgets every prefix when told, but not while requests run", () => {
    const { engine, reusable } = recordEngine();
    const running = submitted(engine.submit(requestOf(run(1, 40), { answerTokens: 50 }), 0));
    engine.advance(60);
    expect(engine.resetPrefixCache()).toBe(false);
    engine.abort(running);
    expect(reusable.size).toBeGreaterThan(0);
    expect(engine.resetPrefixCache()).toBe(true);
    expect([reusable.size, engine.cachedBlocks]).toEqual([0, 0]);
    const again = submitted(engine.submit(requestOf(run(1, 40)), 100));
    runToIdle(engine);
    expect(again.cachedTokens).toBe(0);
  });

  it("preempts the youngest when blocks run out, and both still finish", () => {
    const { engine, lines } = recordEngine({ numBlocks: 12 });
    engine.submit(requestOf(run(1, 20), { answerTokens: 16, owner: "old" }), 0);
    engine.submit(requestOf(run(100, 16), { answerTokens: 16, owner: "young" }), 0);
    runToIdle(engine);
    expect(engine.counters.preemptions).toBeGreaterThan(0);
    expect(lines.filter((line) => line.includes("preempted")).every((line) => line.endsWith("young"))).toBe(true);
    expect(lines.filter((line) => line.includes("finished")).map((line) => line.split(" ")[2])).toEqual([
      "old",
      "young",
    ]);
    expect(lines.filter((line) => line.includes("token young"))).toHaveLength(16);
  });

  it("serves waiting requests in order", () => {
    const { engine, lines } = recordEngine({ maxNumSeqs: 1 });
    for (const owner of ["a", "b", "c"]) engine.submit(requestOf(run(1, 8), { owner }), 0);
    runToIdle(engine);
    const finished = lines.filter((line) => line.includes("finished")).map((line) => line.split(" ")[2]);
    expect(finished).toEqual(["a", "b", "c"]);
  });

  it("runs no more adapters than it has slots, and lets the base model pass those that wait", () => {
    const { engine, lines } = recordEngine({ maxLoras: 1 });
    engine.submit(requestOf(run(1, 8), { adapter: 0, owner: "first" }), 0);
    engine.submit(requestOf(run(1, 8), { adapter: 1, owner: "second" }), 0);
    engine.submit(requestOf(run(1, 8), { owner: "base" }), 0);
    runToIdle(engine);
    const order = lines.filter((line) => line.includes("admitted")).map((line) => line.split(" ")[2]);
    expect(order).toEqual(["first", "base", "second"]);
    const at = (text: string): number => lines.findIndex((line) => line.includes(text));
    expect(at("admitted second")).toBeGreaterThan(at("finished first"));
  });

  it("refuses an adapter when it has no slots", () => {
    const { engine } = recordEngine({ maxLoras: 0 });
    expect(engine.submit(requestOf(run(1, 8), { adapter: 0 }), 0)).toBeUndefined();
  });

  it("takes the loading of an adapter into a step, once while it stays in its slot", () => {
    const { engine } = recordEngine();
    const first = submitted(engine.submit(requestOf(run(1, 4), { adapter: 0, answerTokens: 1 }), 0));
    const idleAt = runToIdle(engine);
    const second = submitted(engine.submit(requestOf(run(50, 4), { adapter: 0, answerTokens: 1 }), idleAt));
    runToIdle(engine);
    expect(first.firstTokenMs - (second.firstTokenMs - idleAt)).toBeCloseTo(5);
  });

  it("frees everything at an abort: waiting, running, or from within the token's own event", () => {
    const recording = recordEngine({ maxNumSeqs: 1 });
    const { engine } = recording;
    const running = submitted(engine.submit(requestOf(run(1, 8), { answerTokens: 100 }), 0));
    const waiting = submitted(engine.submit(requestOf(run(1, 8), { owner: "b" }), 0));
    engine.advance(30);
    expect(engine.abort(waiting)).toBe(true);
    expect(engine.abort(waiting)).toBe(false);
    recording.onToken = (sequence) => engine.abort(sequence);
    runToIdle(engine);
    expect([running.phase, engine.running, engine.waiting, engine.usedBlocks]).toEqual(["ended", 0, 0, 0]);
    expect(engine.counters).toMatchObject({ aborted: 2, finished: 0 });
  });

  it("says the same, at the same times, when the same is asked, however coarsely time passes", () => {
    const play = (stepMs: number): string[] => {
      const { engine, lines } = recordEngine({ numBlocks: 20, speeds: { ...fast, jitter: 0.3 } });
      for (let index = 0; index < 6; index++) engine.submit(requestOf(run(index * 3, 24), { owner: `r${index}` }), 0);
      for (let now = 0; now < 2000; now += stepMs) engine.advance(now);
      return lines;
    };
    expect(play(1)).toEqual(play(1));
    expect(play(1)).toEqual(play(500));
  });
});

const fast = { prefillTokensPerSecond: 1000, decodeStepMs: 10, attentionTokens: 50_000, adapterLoadMs: 5, jitter: 0 };

describe("whatever arrives, the engine", () => {
  const arrival = fc.record({
    afterMs: fc.nat(40),
    family: fc.nat(3),
    promptTokens: fc.integer({ min: 1, max: 60 }),
    answerTokens: fc.nat(24),
    adapter: fc.integer({ min: -1, max: 3 }),
    abortAfterMs: fc.option(fc.nat(200), { nil: undefined }),
  });

  it("loses no request and no block, and finds no more than was asked", () => {
    fc.assert(
      fc.property(
        fc.array(arrival, { minLength: 1, maxLength: 30 }),
        fc.integer({ min: 21, max: 64 }),
        fc.integer({ min: 1, max: 6 }),
        (arrivals, numBlocks, maxNumSeqs) => {
          const { engine, reusable } = recordEngine({ numBlocks, maxNumSeqs, maxNumBatchedTokens: 16 });
          const aborts: { readonly atMs: number; readonly sequence: Sequence<string> }[] = [];
          const sequences: Sequence<string>[] = [];
          let now = 0;
          const passTo = (time: number): void => {
            for (const { atMs, sequence } of aborts.filter(({ atMs }) => atMs <= time)) {
              if (atMs < now) continue;
              engine.advance(atMs);
              engine.abort(sequence);
            }
            now = time;
            engine.advance(now);
          };
          for (const [
            index,
            { afterMs, family, promptTokens, answerTokens, adapter, abortAfterMs },
          ] of arrivals.entries()) {
            passTo(now + afterMs);
            const request = requestOf(run(family * 1000, promptTokens), { answerTokens, adapter, owner: `${index}` });
            const sequence = submitted(engine.submit(request, now));
            sequences.push(sequence);
            if (abortAfterMs !== undefined) aborts.push({ atMs: now + abortAfterMs, sequence });
            expect(engine.usedBlocks).toBeLessThanOrEqual(numBlocks);
            expect(engine.running).toBeLessThanOrEqual(maxNumSeqs);
          }
          passTo(now + 200);
          runToIdle(engine);
          expect([engine.running, engine.waiting, engine.usedBlocks]).toEqual([0, 0, 0]);
          expect(engine.counters.finished + engine.counters.aborted).toBe(sequences.length);
          expect(engine.cachedBlocks).toBe(reusable.size);
          for (const sequence of sequences) {
            expect(sequence.phase).toBe("ended");
            expect(sequence.cachedTokens).toBeLessThan(sequence.request.promptTokens);
            expect(sequence.cachedTokens % 4).toBe(0);
          }
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe("block hashes", () => {
  it("are equal exactly for equal prefixes", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(5), { minLength: 8, maxLength: 24 }),
        fc.array(fc.nat(5), { minLength: 8, maxLength: 24 }),
        (left, right) => {
          const a = hashesOfTokens(Uint32Array.from(left), 2, 9);
          const b = hashesOfTokens(Uint32Array.from(right), 2, 9);
          for (let block = 0; block * 2 < Math.min(a.length, b.length); block++) {
            const isSamePrefix = left.slice(0, block * 2 + 2).join() === right.slice(0, block * 2 + 2).join();
            const isSameHash = a[block * 2] === b[block * 2] && a[block * 2 + 1] === b[block * 2 + 1];
            expect(isSameHash).toBe(isSamePrefix);
          }
        },
      ),
    );
  });
});
