/** What is read of many answers in one turn of the event loop is bounded, and every answer is read on. */
import { setImmediate as turn } from "node:timers/promises";
import { afterEach, describe, expect, it } from "@jest/globals";
import { ReadTurns, type TurnReader, type TurnSocket } from "../../../../src/dynamo/request-plane/read-turns.ts";

const pieceBytes = 64 * 1024;
const turns = new Set<ReadTurns>();

afterEach(() => {
  for (const each of turns) each.close();
  turns.clear();
});

interface Answer extends TurnSocket {
  destroyed: boolean;
  isReading: boolean;
  readonly reader: { isPaused: boolean } & TurnReader;
}

function answer(): Answer {
  return {
    destroyed: false,
    isReading: true,
    reader: { isPaused: false },
    pause() {
      this.isReading = false;
    },
    resume() {
      this.isReading = true;
    },
  };
}

function readTurns(): ReadTurns {
  const created = new ReadTurns();
  turns.add(created);
  return created;
}

/** One piece of each that is read; returns the bytes. */
function read(bounded: ReadTurns, answers: readonly Answer[]): number {
  const reading = answers.filter(({ isReading }) => isReading);
  for (const each of reading) bounded.took(each, each.reader, pieceBytes);
  return reading.length * pieceBytes;
}

describe("turns of reading", () => {
  it("stop whoever is read beyond the bound, and go on with a few at a time in turn", async () => {
    const bounded = readTurns();
    const answers = Array.from({ length: 32 }, answer);
    expect(read(bounded, answers)).toBe(32 * pieceBytes);
    const counts = new Map(answers.map((each) => [each, 0]));
    let most = 0;
    for (let round = 0; round < 64; round++) {
      await turn();
      let bytes = 0;
      // As the stream does: whoever may go on delivers until it is stopped, or has nothing more for now.
      for (let piece = 0; piece < 32; piece++) {
        for (const each of answers) if (each.isReading) counts.set(each, (counts.get(each) ?? 0) + 1);
        bytes += read(bounded, answers);
      }
      most = Math.max(most, bytes);
    }
    expect(most).toBeLessThanOrEqual(2 * 1024 * 1024);
    expect(Math.min(...counts.values())).toBeGreaterThan(0);
  });

  it("leave small answers alone", async () => {
    const bounded = readTurns();
    const small = answer();
    for (let round = 0; round < 20; round++) {
      for (let piece = 0; piece < 7; piece++) bounded.took(small, small.reader, pieceBytes);
      expect(small.isReading).toBe(true);
      await turn();
    }
  });

  it.each(["paused by its user", "destroyed"])("resume none that was %s meanwhile", async (what) => {
    const bounded = readTurns();
    const large = answer();
    bounded.took(large, large.reader, 16 * pieceBytes);
    expect(large.isReading).toBe(false);
    if (what === "destroyed") large.destroyed = true;
    else large.reader.isPaused = true;
    for (let round = 0; round < 3; round++) await turn();
    expect(large.isReading).toBe(false);
  });

  it("resume nothing once closed", async () => {
    const bounded = readTurns();
    const large = answer();
    bounded.took(large, large.reader, 16 * pieceBytes);
    bounded.close();
    for (let round = 0; round < 3; round++) await turn();
    expect(large.isReading).toBe(false);
  });
});
