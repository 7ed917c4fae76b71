/**
 * The real frontend in direct mode when workers have ranks, die, leave or are not all there, what it tells its log alone, and when the first
 * sign of an answer comes.
 */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../stack.ts";
import type { Answer } from "./client.ts";
import { ask, full, fullBut, type Ids, idsOf, messageOf, none, nvext, worker } from "./direct-hints.ts";
import { type DynamoOptions, type DynamoStack, startDynamo } from "./stack.ts";

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

it("is a 503 without the prefill workers a decode worker needs, and a bare 404 when the last worker leaves", async () => {
  const stack = await startDynamo({ layout: "disaggregated", prefill: 0, decode: 1 });
  try {
    const ids = idsOf(stack);
    const row = { name: "", headers: full };
    const answer = await ask(stack, ids, row);
    expect([answer.status, messageOf(answer)]).toEqual([
      503,
      "Model `tiny` is not ready to serve requests yet. The deployment may still be starting up or is not fully provisioned. Please retry shortly.",
    ]);
    const [only] = stack.workers;
    if (only === undefined) throw new Error("no worker");
    await stack.stopWorker(only);
    const after = await eventually("another answer than 503", async () => {
      const next = await ask(stack, ids, row);
      return next.status === 503 ? undefined : next;
    });
    expect([after.status, after.text]).toEqual([404, ""]);
  } finally {
    await stack.close();
  }
});

describe("what the frontend says in its log alone", () => {
  it.each([
    [
      "that a prefill id is missing",
      { layout: "disaggregated" },
      none,
      /Prefill worker ID required in Direct routing mode/,
    ],
    ["that it tokenises itself", { layout: "aggregated" }, full, /backend_instance_id provided but no token_data/],
  ] as const)("%s", async (_, options, headers, text) => {
    const stack = await startDynamo({ ...options, workers: 1, prefill: 1, decode: 1 });
    try {
      const answer = await ask(stack, idsOf(stack), { name: "", headers });
      expect(answer.text).not.toMatch(text);
      await eventually("the log", async () => text.test(stack.frontend.process.log()));
    } finally {
      await stack.close();
    }
  });
});

/** A prefill of about 450 ms: 2,000 words at a fifth of an engine's speed. */
describe("the first sign of a stream", () => {
  const askSlowly = async (options: DynamoOptions): Promise<Answer> => {
    const stack = await startDynamo({ ...options, workers: 1, prefill: 1, decode: 1, speedup: 0.2 });
    try {
      const content = "word ".repeat(2_000);
      return await ask(stack, idsOf(stack), {
        name: "",
        headers: full,
        body: () => ({ stream: true, messages: [{ role: "user", content }] }),
      });
    } finally {
      await stack.close();
    }
  };

  it("is its first byte when one worker does both: the headers come before prefill", async () => {
    const { headersMs, firstByteMs = 0 } = await askSlowly({ layout: "aggregated" });
    expect(firstByteMs - headersMs).toBeGreaterThan(150);
  });

  it("is its headers when a prefill worker hands over in its answer: they wait for it", async () => {
    const { headersMs } = await askSlowly({ layout: "disaggregated" });
    expect(headersMs).toBeGreaterThan(150);
  });
});
