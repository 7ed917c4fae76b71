/** Engine events as Dynamo's own worker normalises them: recorded batches in, and what the index is told out. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "@jest/globals";
import { EngineFeed } from "../../../../src/data/kv-events/engine-feed.ts";
import { createEventCounters } from "../../../../src/data/kv-events/event-counters.ts";
import { createTokenHasher } from "../../../../src/tokens/block-hash.ts";
import { createRecordingIndex, type Told } from "./recording-index.ts";

interface RecordedEvent {
  readonly tier: string;
  readonly rank: number;
  readonly parent?: string | null;
  readonly stored?: readonly (readonly [string, string])[];
  readonly removed?: readonly string[];
  readonly cleared?: true;
}

interface RecordedCase {
  readonly case: string;
  readonly payload: string;
  readonly events: readonly RecordedEvent[];
}

const path = new URL("../../../fixtures/dynamo/normalised-engine-events.json", import.meta.url);
const { cases } = JSON.parse(readFileSync(path, "utf8")) as { readonly cases: readonly RecordedCase[] };

/** Where we differ from Dynamo's worker on purpose, and what we do instead. */
const deliberate: Readonly<Record<string, readonly Omit<RecordedEvent, "rank">[]>> = {
  // Digests are taken by their last eight bytes; Dynamo's worker drops the whole batch.
  "bytes hashes (32)": [
    {
      tier: "device",
      parent: null,
      stored: [
        [String(0x18191a1b1c1d1e1fn), "14643705804678351452"],
        [String(0x191a1b1c1d1e1f20n), "16777012769546811212"],
      ],
    },
  ],
  "bytes hashes (8)": [{ tier: "device", parent: null, stored: [["9", "14643705804678351452"]] }],
  // A batch that names no rank is rank 0's.
  "batch without rank": [{ tier: "device", parent: null, stored: [["93", "14643705804678351452"]] }],
  // An engine beside no Dynamo worker does not mark its salts.
  "extra_keys salt": [
    {
      tier: "device",
      parent: null,
      stored: [
        ["45", "5738685477468498325"],
        ["46", "11202231085456067787"],
      ],
    },
  ],
};

/** Events that change nothing are told to Dynamo's routers, for their ids, and not to an index of ours. */
function changesNothing({ stored }: RecordedEvent): boolean {
  return stored?.length === 0;
}

/** Dynamo joins stores that follow each other; the index is told each by itself. */
function joined(told: readonly Told[]): readonly Told[] {
  const events: Told[] = [];
  for (const event of told) {
    const last = events.at(-1);
    if (last?.stored !== undefined && event.stored !== undefined && last.stored.at(-1)?.[0] === event.parent) {
      events[events.length - 1] = { ...last, stored: [...last.stored, ...event.stored] };
    } else events.push(event);
  }
  return events;
}

describe("engine events", () => {
  const index = createRecordingIndex();
  const ranks = new Map<number, number>();
  const feed = new EngineFeed({
    index,
    hasher: createTokenHasher(),
    blockSize: 4,
    maxBlocksPerRank: 1000,
    counters: createEventCounters(),
    adapters: new Set(),
    replayEndpoint: undefined,
    now: () => 0,
    onBlockSize: () => {},
    onRank: (rank, holder) => ranks.set(holder, rank),
  });

  // In the order of the recording: each builds on what the engine said before.
  it.each(cases.map((recorded, sequence) => ({ ...recorded, sequence })))(
    "are normalised as Dynamo's worker does, or better on purpose: $case",
    ({ case: name, payload, events, sequence }) => {
      index.told.length = 0;
      feed.message(sequence, Buffer.from(payload, "hex"));
      const expected = deliberate[name]?.map((event) => ({ ...event, rank: 0 })) ?? events;
      const told = joined(index.told).map(({ holder, ...event }) =>
        event.cleared === true
          ? { tier: "device", rank: ranks.get(holder), cleared: true }
          : { ...event, rank: ranks.get(holder) },
      );
      expect(told).toEqual(expected.filter((event) => !changesNothing(event)));
    },
  );

  it("differ from Dynamo's worker nowhere else", () => {
    const names = new Set(cases.map((recorded) => recorded.case));
    expect(Object.keys(deliberate).filter((name) => !names.has(name))).toEqual([]);
    expect(cases.length).toBe(42);
  });
});
