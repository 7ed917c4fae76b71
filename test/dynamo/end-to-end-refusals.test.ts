/** What a client of Envoy is told when the picker cannot send its request to a worker, and that nothing of it stays booked or reaches one. */
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { eventually } from "../stack.ts";
import { type Answer, send } from "./client.ts";
import { sendLoad } from "./load.ts";
import { type Gateway, type GatewayOptions, startGateway } from "./picker.ts";
import { type DynamoOptions, type DynamoStack, startDynamo } from "./stack.ts";

const chat = "/v1/chat/completions";
const completions = "/v1/completions";
const contextLength = 4_096;

interface OpenAiError {
  readonly error: { readonly message: string; readonly type: string; readonly code: string; readonly param: string };
}

function errorOf({ text }: Answer): OpenAiError["error"] {
  return (JSON.parse(text) as OpenAiError).error;
}

function ask({ url }: Gateway, body: Readonly<Record<string, unknown>>, path = chat): Promise<Answer> {
  return send(`${url}${path}`, { body: { model: "tiny", max_tokens: 2, ...body } });
}

const hello = { messages: [{ role: "user", content: "hello" }] };

/** A stack and a gateway of one test. */
async function within(
  options: DynamoOptions & { readonly gateway?: GatewayOptions },
  test: (stack: DynamoStack, gateway: Gateway) => Promise<void>,
): Promise<void> {
  const stack = await startDynamo(options);
  try {
    const gateway = await startGateway(stack, { layout: options.layout ?? "aggregated", ...options.gateway });
    try {
      await test(stack, gateway);
      await gateway.idle();
    } finally {
      await gateway.close();
    }
  } finally {
    await stack.close();
  }
}

describe("with workers that serve", () => {
  let stack: DynamoStack;
  let gateway: Gateway;
  beforeAll(async () => {
    stack = await startDynamo({ workers: 1, workerArgs: [`--max-model-len=${contextLength}`] });
    gateway = await startGateway(stack, { router: { tokenizerTimeoutMs: 40 } });
  });
  afterAll(async () => {
    await gateway?.close();
    await stack?.close();
  });
  afterEach(async () => {
    await gateway.idle();
    expect([...(await stack.served()).values()]).toEqual([0]);
  });

  it("answers 404 to a model that nobody serves", async () => {
    const answer = await ask(gateway, { ...hello, model: "no-such-model" });
    expect([answer.status, errorOf(answer).code]).toEqual([404, "model_not_found"]);
  });

  it.each([
    ["tokens", completions, { prompt: Array.from({ length: contextLength + 1 }, (_, index) => index % 500) }],
    ["chat", chat, { messages: [{ role: "user", content: "word ".repeat(contextLength) }] }],
  ])("answers 400 to %s longer than the model's context", async (_, path, body) => {
    const answer = await ask(gateway, body, path);
    expect([answer.status, errorOf(answer).code]).toEqual([400, "context_length_exceeded"]);
    expect(errorOf(answer).message).toContain(String(contextLength));
  });

  it("answers 504 to a prompt that takes too long to tokenize", async () => {
    const content = randomBytes(1_500_000).toString("base64");
    const answer = await ask(gateway, { messages: [{ role: "user", content }] });
    expect([answer.status, errorOf(answer).code]).toEqual([504, "tokenizer_timeout"]);
  });

  it("answers 400 to a prompt that is none", async () => {
    const answer = await ask(gateway, { prompt: { not: "a prompt" } }, completions);
    expect(answer.status).toBe(400);
  });
});

it("answers 503 with Retry-After while a worker set has no prefill workers, and serves once they come", async () => {
  await within({ layout: "disaggregated", prefill: 0, decode: 1, routerMode: "direct" }, async (stack, gateway) => {
    const answer = await ask(gateway, hello);
    expect([answer.status, answer.headers["retry-after"]]).toEqual([503, "1"]);
    expect(answer.headers["x-llm-d-request-dropped-reason"]).toBe("rejected-no-endpoints");
    expect([...(await stack.served()).values()]).toEqual([0]);
    await stack.addWorker("prefill");
    await eventually("it serves", async () => (await ask(gateway, hello)).status === 200);
  });
});

it("answers 503 with Retry-After when every worker has died, before and after their records expire", async () => {
  await within({ workers: 2 }, async (stack, gateway) => {
    expect((await ask(gateway, hello)).status).toBe(200);
    await Promise.all(stack.workers.map((worker) => stack.killWorker(worker)));
    await eventually("the picker refuses", async () => {
      const answer = await ask(gateway, hello);
      return answer.headers["x-llm-d-request-dropped-reason"] === "rejected-no-endpoints";
    });
    const answer = await ask(gateway, hello);
    expect([answer.status, answer.headers["retry-after"]]).toEqual([503, "1"]);
    const expired = await eventually(
      "the records have expired",
      async () =>
        (await gateway.sets()).every(({ router }) => router.workers.length === 0) ? ask(gateway, hello) : undefined,
      20_000,
    );
    expect([503, 404]).toContain(expired.status);
    await stack.addWorker();
    await eventually("it serves", async () => (await ask(gateway, hello)).status === 200);
  });
});

describe("a full queue", () => {
  const policy = (directory: string): string => {
    const file = join(directory, "policy.yaml");
    writeFileSync(
      file,
      `default_policy_family: only
uncached_isl_buckets: [{ min_tokens: 0, bucket: all }]
policy_classes:
  - { name: only, policy_family: only, cache_bucket: all, quantum: 1000, prefill_busy_threshold: 1, request_queue_limit_per_worker: 2 }
`,
    );
    return file;
  };

  it.each([
    [429, undefined],
    [529, 529],
  ])("is refused with %i and Retry-After", async (status, overloadStatus) => {
    const router = overloadStatus === undefined ? {} : { overloadStatus };
    const stack = await startDynamo({ workers: 1, speedup: 1 });
    try {
      const routerPolicyConfig = policy(stack.storePath);
      const gateway = await startGateway(stack, { router: { ...router, routerPolicyConfig } });
      try {
        const content = (index: number): string => `${index} ${"word ".repeat(800)}`;
        const load = await sendLoad({ url: gateway.url, requests: 12, concurrency: 12, prompt: content });
        expect(load.statuses.get(status)).toBeGreaterThan(0);
        expect((load.statuses.get(status) ?? 0) + (load.statuses.get(200) ?? 0)).toBe(12);
        expect(load.statuses.get(200)).toBeGreaterThanOrEqual(3);
        await gateway.idle();
      } finally {
        await gateway.close();
      }
    } finally {
      await stack.close();
    }
  });
});
