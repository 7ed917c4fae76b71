/**
 * What the real frontend in direct mode makes of the hints it is given: which status and message, and which workers served. The picker's
 * output, and what it refuses to let out, rest on these facts.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../stack.ts";
import {
  ask,
  fullBut,
  type Ids,
  idsOf,
  messageOf,
  type Outcome,
  type Row,
  type Served,
  tables,
  worker,
} from "./direct-hints.ts";
import { type DynamoOptions, type DynamoStack, startDynamo } from "./stack.ts";

const layouts: readonly (readonly [name: string, options: DynamoOptions, outcome: (row: Row) => Outcome])[] = [
  ["aggregated", { workers: 2 }, (row) => row.aggregated],
  ["disaggregated", { layout: "disaggregated", prefill: 1, decode: 2 }, (row) => row.disaggregated],
  [
    "disaggregated with a bootstrap port",
    { layout: "disaggregated", prefill: 2, decode: 2, bootstrap: true },
    (row) => row.bootstrap ?? row.disaggregated,
  ],
];

describe.each(layouts)("the direct frontend, %s", (_, options, outcomeOf) => {
  let stack: DynamoStack;
  let ids: Ids;
  let before: ReadonlyMap<bigint, number>;
  beforeAll(async () => {
    stack = await startDynamo(options);
    ids = idsOf(stack);
    before = await stack.served();
  });
  afterEach(async () => {
    before = await stack.served();
  });
  afterAll(() => stack.close());

  /** Who has got how many requests since the last test. */
  const grown = async (): Promise<Served[]> => {
    const names = new Map<bigint, Served>([
      [ids.last, "last"],
      [ids.first, "first"],
      [ids.prefill, "prefill"],
    ]);
    const counts = [...(await stack.served())];
    return counts.flatMap(([id, count]) => {
      const name = names.get(id);
      const times = count - (before.get(id) ?? 0);
      if (name === undefined && times > 0) throw new Error(`a request went to ${id}, which nobody named`);
      return name === undefined ? [] : Array<Served>(times).fill(name);
    });
  };
  /** Workers count while the answer is on its way: waits for so many, or in a race until nothing more is counted. */
  const counted = async (times: number, isRace: boolean): Promise<void> => {
    let last = -1;
    let since = 0;
    await eventually("the workers have counted", async () => {
      const { length } = await grown();
      if (length !== last) since = performance.now();
      last = length;
      return isRace ? performance.now() - since > 200 : length >= times;
    });
  };

  describe.each(tables)("%s", (_what, rows) => {
    it.each(rows)("$name", async (row) => {
      const expected = outcomeOf(row);
      const answer = await ask(stack, ids, row);
      expect(answer.status).toBe(expected.status);
      if (typeof expected.message === "string") expect(messageOf(answer)).toBe(expected.message);
      if (expected.message instanceof RegExp) expect(messageOf(answer)).toMatch(expected.message);
      if (row.promptTokens !== undefined && expected.status === 200) {
        const { usage } = JSON.parse(answer.text) as { usage: { prompt_tokens: number } };
        expect(usage.prompt_tokens).toBe(row.promptTokens);
      }
      await counted(expected.served.length, expected.isRace === true);
      const served = (await grown()).sort();
      if (expected.isRace === true) expect(expected.served).toEqual(expect.arrayContaining(served));
      else expect(served).toEqual([...expected.served].sort());
    });
  });

  it("streams fail with a status, never inside the stream", async () => {
    const answer = await ask(stack, ids, {
      name: "",
      headers: fullBut(() => ({ [worker]: "1" })),
      body: () => ({ stream: true }),
    });
    expect(answer.status).toBe(400);
    expect(answer.headers["content-type"]).toBe("application/json");
  });

  it("takes a UUID in x-dynamo-request-id for the id of its answer, and ignores x-request-id", async () => {
    const id = "01234567-89ab-4def-8123-456789abcdef";
    const [named, other] = await Promise.all([
      ask(stack, ids, { name: "", headers: fullBut(() => ({ "x-dynamo-request-id": id })) }),
      ask(stack, ids, { name: "", headers: fullBut(() => ({ "x-request-id": id })) }),
    ]);
    expect((JSON.parse(named.text) as { id: string }).id).toBe(`chatcmpl-${id}`);
    expect((JSON.parse(other.text) as { id: string }).id).not.toBe(`chatcmpl-${id}`);
  });
});
