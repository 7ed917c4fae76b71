/**
 * What the real frontend in direct mode makes of the hints it is given: which status and message, and which workers served. The picker's
 * output, and what it refuses to let out, rest on these facts.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../stack.ts";
import { type Answer, send } from "./client.ts";
import {
  chat,
  completions,
  full,
  fullBut,
  type Ids,
  none,
  nvext,
  type Outcome,
  type Row,
  type Served,
  tables,
  worker,
} from "./direct-hints.ts";
import { type DynamoOptions, type DynamoStack, startDynamo } from "./stack.ts";

/** Asks as a row says. */
function ask(stack: DynamoStack, ids: Ids, row: Omit<Row, "aggregated" | "disaggregated">): Promise<Answer> {
  const path = row.path ?? chat;
  const extra = row.body?.(ids) ?? {};
  const prompt =
    path === completions
      ? { prompt: "hello direct world" }
      : { messages: [{ role: "user", content: "hello direct world" }] };
  return send(`${stack.frontend.url}${path}`, {
    headers: row.headers(ids),
    ...(row.method === "GET"
      ? { method: "GET" }
      : { body: typeof extra === "string" ? extra : { model: stack.model, max_tokens: 4, ...prompt, ...extra } }),
  });
}

function messageOf({ text }: Answer): unknown {
  return text.startsWith("{") ? (JSON.parse(text) as { message?: unknown }).message : undefined;
}

function idsOf(stack: DynamoStack): Ids {
  const serving = stack.workers.filter(({ role }) => role !== "prefill");
  return {
    first: serving[0]?.instanceId ?? 0n,
    last: serving.at(-1)?.instanceId ?? 0n,
    prefill: stack.workersOf("prefill")[0]?.instanceId ?? 1_234_567n,
  };
}

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

describe("a worker with two ranks", () => {
  let stack: DynamoStack;
  let ids: Ids;
  beforeAll(async () => {
    stack = await startDynamo({ workers: 1, dataParallel: 2 });
    ids = idsOf(stack);
  });
  afterAll(() => stack.close());
  const askRank = (headers: Readonly<Record<string, string>>): Promise<Answer> =>
    ask(stack, ids, {
      name: "",
      headers: ({ first }) => ({ [worker]: String(first), ...headers }),
      body: nvext(() => ({ extra_fields: ["worker_id"] })),
    });

  it.each([
    ["0", 0],
    ["1", 1],
  ])("serves rank %s", async (rank, expected) => {
    const answer = await askRank({ "x-dynamo-dp-rank": rank });
    expect(answer.status).toBe(200);
    const { nvext: told } = JSON.parse(answer.text) as { nvext: { worker_id: Record<string, unknown> } };
    expect(told.worker_id).toMatchObject({ decode_dp_rank: expected });
    expect(answer.text).toContain(`"decode_worker_id":${ids.first},`);
  });

  it("serves without a rank", async () => {
    expect((await askRank({})).status).toBe(200);
  });

  it("refuses a third rank", async () => {
    const answer = await askRank({ "x-dynamo-dp-rank": "2" });
    expect([answer.status, messageOf(answer)]).toEqual([400, "dp_rank 2 is out of bounds for dp_size 2"]);
  });
});

it("ignores every hint with DYN_DISABLE_FRONTEND_NVEXT", async () => {
  const stack = await startDynamo({ workers: 1, frontendEnvironment: { DYN_DISABLE_FRONTEND_NVEXT: "1" } });
  try {
    const ids = idsOf(stack);
    const inHeader = await ask(stack, ids, { name: "", headers: full });
    const inBody = await ask(stack, ids, {
      name: "",
      headers: none,
      body: nvext(({ first }) => ({ decode_worker_id: first })),
    });
    expect([inHeader.status, messageOf(inHeader)]).toEqual([400, "Invalid request"]);
    expect([inBody.status, messageOf(inBody)]).toEqual([400, "Invalid request"]);
    expect([...(await stack.served()).values()]).toEqual([0]);
  } finally {
    await stack.close();
  }
});

describe("a worker that was killed", () => {
  it.each([
    ["aggregated", { workers: 2 }],
    ["disaggregated", { layout: "disaggregated", prefill: 1, decode: 2 }],
  ] as const)("is a 503 until its record expires, then a 400 (%s)", async (_, options) => {
    const stack = await startDynamo(options);
    try {
      const ids = idsOf(stack);
      const row = { name: "", headers: fullBut(({ last }) => ({ [worker]: String(last) })) };
      const last = stack.workers.at(-1);
      if (last === undefined) throw new Error("no worker");
      await stack.killWorker(last);
      const answer = await ask(stack, ids, row);
      expect([answer.status, messageOf(answer)]).toEqual([503, "Service temporarily unavailable"]);
      const after = await eventually(
        "another answer than 503",
        async () => {
          const next = await ask(stack, ids, row);
          return next.status === 503 ? undefined : next;
        },
        15_000,
      );
      expect([after.status, messageOf(after)]).toEqual([400, "Invalid request"]);
      expect((await ask(stack, ids, { name: "", headers: full })).status).toBe(200);
    } finally {
      await stack.close();
    }
  });

  it("is a 503 as the prefill worker too", async () => {
    const stack = await startDynamo({ layout: "disaggregated", prefill: 2, decode: 1 });
    try {
      const [killed] = stack.workersOf("prefill");
      if (killed === undefined) throw new Error("no worker");
      const ids = idsOf(stack);
      await stack.killWorker(killed);
      const answer = await ask(stack, ids, { name: "", headers: full });
      expect([answer.status, messageOf(answer)]).toEqual([503, "Service temporarily unavailable"]);
    } finally {
      await stack.close();
    }
  });
});
