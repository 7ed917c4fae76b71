/** The simulated worker on HTTP, asked with fetch: vLLM's surface, its refusals, its metrics, and what happens when clients leave. */

import { request as httpRequest } from "node:http";
import { afterEach, describe, expect, it } from "@jest/globals";
import type { WorkerOptions } from "../../../src/sim/worker/options.ts";
import { type RunningWorker, startWorker } from "../../../src/sim/worker/start-worker.ts";

const running: RunningWorker[] = [];

async function start(options: Partial<WorkerOptions> = {}): Promise<RunningWorker> {
  const worker = await startWorker({ host: "127.0.0.1", port: 0, name: "w", timeScale: 50, ...options });
  running.push(worker);
  return worker;
}

afterEach(async () => {
  await Promise.all(running.splice(0).map((worker) => worker.close()));
});

async function until(isTrue: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!isTrue()) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

function post(worker: RunningWorker, path: string, body: unknown): Promise<Response> {
  return fetch(worker.url + path, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) });
}

function chat(content: string, more: Record<string, unknown> = {}): Record<string, unknown> {
  return { messages: [{ role: "user", content }], ...more };
}

interface Answer {
  readonly choices: readonly {
    readonly message?: { readonly content: string };
    readonly delta?: { readonly content?: string; readonly role?: string };
    readonly text?: string;
    readonly finish_reason: string | null;
  }[];
  readonly usage?: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly total_tokens: number;
    readonly prompt_tokens_details: { readonly cached_tokens: number };
  };
}

async function answerOf(response: Response): Promise<Answer> {
  expect(response.status).toBe(200);
  return (await response.json()) as Answer;
}

function eventsOf(text: string): string[] {
  return text
    .split("\n\n")
    .filter((event) => event !== "")
    .map((event) => event.replace(/^data: /, ""));
}

function metric(page: string, name: string): number {
  const line = page
    .split("\n")
    .find((candidate) => candidate.startsWith(`${name}{`) || candidate.startsWith(`${name} `));
  return line === undefined ? Number.NaN : Number(line.slice(line.lastIndexOf(" ") + 1));
}

describe("the worker's OpenAI surface", () => {
  it("answers a chat in one piece, the same for the same prompt and seed", async () => {
    const [one, other, reseeded] = await Promise.all([start(), start(), start({ seed: 9 })]);
    const texts = await Promise.all(
      [one, one, other, reseeded].map(async (worker) => {
        const response = await post(worker, "/v1/chat/completions", chat("hello", { max_tokens: 5 }));
        expect(response.headers.get("x-signalbox-worker")).toBe("w");
        const answer = await answerOf(response);
        expect(answer.usage).toMatchObject({ prompt_tokens: 6, completion_tokens: 5, total_tokens: 11 });
        expect(answer.choices[0]?.finish_reason).toBe("length");
        return answer.choices[0]?.message?.content;
      }),
    );
    expect(texts[0]).toMatch(/^([a-z]{3} ){5}$/);
    expect(texts[1]).toBe(texts[0]);
    expect(texts[2]).toBe(texts[0]);
    expect(texts[3]).not.toBe(texts[0]);
  });

  it("streams one event a token, then the reason, the usage that was asked for, and [DONE]", async () => {
    const worker = await start();
    const body = chat("hello", { max_tokens: 3, stream: true, stream_options: { include_usage: true } });
    const response = await post(worker, "/v1/chat/completions", body);
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const events = eventsOf(await response.text());
    expect(events.at(-1)).toBe("[DONE]");
    const chunks = events.slice(0, -1).map((event) => JSON.parse(event) as Answer);
    expect(chunks.map(({ choices }) => choices[0]?.delta?.role ?? choices[0]?.finish_reason ?? choices.length)).toEqual(
      ["assistant", 1, 1, 1, "length", 0],
    );
    expect(chunks.at(-1)?.usage).toMatchObject({ prompt_tokens: 6, completion_tokens: 3 });
    expect(chunks.slice(0, -1).every(({ usage }) => usage === undefined)).toBe(true);
    const whole = await answerOf(await post(worker, "/v1/chat/completions", chat("hello", { max_tokens: 3 })));
    expect(chunks.map(({ choices }) => choices[0]?.delta?.content ?? "").join("")).toBe(
      whole.choices[0]?.message?.content,
    );
  });

  it("sends a stream's headers when it accepts the request, before the first token", async () => {
    const worker = await start({ timeScale: 1, decodeStepMs: 100_000 });
    const abort = new AbortController();
    const response = await fetch(`${worker.url}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify(chat("hello", { stream: true })),
      signal: abort.signal,
    });
    expect([response.status, worker.stats().answerTokens]).toEqual([200, 0]);
    abort.abort();
    await until(() => worker.stats().aborted === 1, "the abort");
  });

  it("completes every prompt of a list, streamed and whole alike", async () => {
    const worker = await start();
    const whole = await answerOf(await post(worker, "/v1/completions", { prompt: ["abc", [1, 2, 3]], max_tokens: 2 }));
    expect(whole.choices.map(({ finish_reason }) => finish_reason)).toEqual(["length", "length"]);
    expect(whole.usage).toMatchObject({ prompt_tokens: 4, completion_tokens: 4 });
    const response = await post(worker, "/v1/completions", { prompt: "abc", max_tokens: 2, stream: true });
    const events = eventsOf(await response.text());
    const texts = events.slice(0, -1).map((event) => (JSON.parse(event) as Answer).choices[0]?.text);
    expect(texts.join("")).toBe(whole.choices[0]?.text);
    expect(events.at(-1)).toBe("[DONE]");
  });

  it("stops by itself when no limit is given", async () => {
    const worker = await start({ answerTokens: 7 });
    const answer = await answerOf(await post(worker, "/v1/chat/completions", chat("hello")));
    expect(answer.choices[0]?.finish_reason).toBe("stop");
    expect(answer.usage?.completion_tokens).toBe(7);
  });

  it("reports the tokens it found in its cache, the answer of the turn before included", async () => {
    const worker = await start();
    const question = { role: "user", content: "x".repeat(400) };
    const first = await answerOf(await post(worker, "/v1/chat/completions", { messages: [question], max_tokens: 64 }));
    const messages = [
      question,
      { role: "assistant", content: first.choices[0]?.message?.content },
      { role: "user", content: "and then?" },
    ];
    const second = await answerOf(await post(worker, "/v1/chat/completions", { messages, max_tokens: 1 }));
    expect(first.usage?.prompt_tokens_details.cached_tokens).toBe(0);
    // 104 tokens of prompt and 63 of the 64 answered: ten blocks of 16.
    expect(second.usage?.prompt_tokens_details.cached_tokens).toBe(160);
    const salted = await answerOf(
      await post(worker, "/v1/chat/completions", { messages, max_tokens: 1, cache_salt: "tenant" }),
    );
    expect(salted.usage?.prompt_tokens_details.cached_tokens).toBe(0);
  });

  it("gives the first byte of a repeated prompt sooner", async () => {
    const worker = await start({ timeScale: 10, prefillTokensPerSecond: 2000 });
    const timeOf = async (): Promise<number> => {
      const startedMs = performance.now();
      const response = await post(worker, "/v1/chat/completions", chat("y".repeat(16_000), { max_tokens: 1 }));
      await response.arrayBuffer();
      return performance.now() - startedMs;
    };
    const cold = await timeOf();
    const warm = await timeOf();
    expect(cold).toBeGreaterThan(200);
    expect(warm).toBeLessThan(cold / 2);
  });

  it("embeds a list of inputs, deterministically", async () => {
    const worker = await start({ embeddingDimensions: 4 });
    const embed = async (input: unknown): Promise<readonly (readonly number[])[]> => {
      const response = await post(worker, "/v1/embeddings", { input });
      const { data } = (await response.json()) as { data: readonly { embedding: readonly number[] }[] };
      return data.map(({ embedding }) => embedding);
    };
    const [both, one] = await Promise.all([embed(["abc", "def"]), embed("abc")]);
    expect(both).toHaveLength(2);
    expect(both[0]).toHaveLength(4);
    expect(one[0]).toEqual(both[0]);
    expect(both[1]).not.toEqual(both[0]);
  });

  it("lists the model, its aliases and its adapters, and serves each", async () => {
    const worker = await start({ servedModelNames: ["base", "alias"], loraModules: ["sql"] });
    const listed = (await (await fetch(`${worker.url}/v1/models`)).json()) as {
      data: readonly { id: string; parent: string | null }[];
    };
    expect(listed.data.map(({ id, parent }) => [id, parent])).toEqual([
      ["base", null],
      ["alias", null],
      ["sql", "base"],
    ]);
    for (const model of ["base", "alias", "sql"]) {
      const response = await post(worker, "/v1/chat/completions", chat("hi", { model, max_tokens: 1 }));
      expect(((await response.json()) as { model: string }).model).toBe(model);
    }
  });

  it("loads and unloads adapters while it runs", async () => {
    const worker = await start();
    const change = async (verb: string, name: string): Promise<number> =>
      (await post(worker, `/v1/${verb}_lora_adapter`, { lora_name: name, lora_path: "/adapters/x" })).status;
    const ask = async (): Promise<number> =>
      (await post(worker, "/v1/chat/completions", chat("hi", { model: "late", max_tokens: 1 }))).status;
    expect(await ask()).toBe(404);
    expect([await change("load", "late"), await change("load", "late")]).toEqual([200, 400]);
    expect(await ask()).toBe(200);
    expect(await (await fetch(`${worker.url}/metrics`)).text()).toContain("vllm:lora_requests_info{");
    expect([await change("unload", "late"), await change("unload", "late")]).toEqual([200, 404]);
    expect(await ask()).toBe(404);
  });

  it("forgets its prefix cache when told", async () => {
    const worker = await start();
    const cached = async (): Promise<number | undefined> => {
      const response = await post(worker, "/v1/chat/completions", chat("x".repeat(200), { max_tokens: 1 }));
      return (await answerOf(response)).usage?.prompt_tokens_details.cached_tokens;
    };
    expect([await cached(), await cached()]).toEqual([0, 48]);
    expect((await post(worker, "/reset_prefix_cache", "")).status).toBe(200);
    expect(worker.stats().cachedBlocks).toBe(0);
    expect(await cached()).toBe(0);
  });

  it("says 405 for the wrong method of a path it knows", async () => {
    const worker = await start();
    expect((await fetch(`${worker.url}/v1/completions`)).status).toBe(405);
    expect((await post(worker, "/health", {})).status).toBe(405);
  });

  it("tokenizes and back", async () => {
    const worker = await start();
    const text = "naïve café, 東京";
    const tokenized = (await (await post(worker, "/tokenize", { prompt: text })).json()) as {
      count: number;
      tokens: readonly number[];
    };
    expect(tokenized.count).toBe(Math.ceil(Buffer.byteLength(text) / 4));
    const back = (await (await post(worker, "/detokenize", { tokens: tokenized.tokens })).json()) as { prompt: string };
    expect(back.prompt).toBe(text);
    const asChat = (await (await post(worker, "/tokenize", chat("hello"))).json()) as { count: number };
    expect(asChat.count).toBe(6);
  });

  const long = chat("z".repeat(4000), { max_tokens: 1 });
  it.each([
    [
      "an unknown model",
      "/v1/chat/completions",
      chat("hi", { model: "gpt-9" }),
      404,
      "The model `gpt-9` does not exist.",
    ],
    ["broken JSON", "/v1/chat/completions", '{"messages":', 400, "Invalid JSON body"],
    ["a body that is no object", "/v1/completions", "[1]", 400, "must be a JSON object"],
    ["no messages", "/v1/chat/completions", { messages: [] }, 400, "messages must be a non-empty list"],
    ["a message without a role", "/v1/chat/completions", { messages: [{ content: "x" }] }, 400, "needs a role"],
    ["a prompt that is too long", "/v1/chat/completions", long, 400, "maximum context length is 512 tokens"],
    ["an answer that is too long", "/v1/chat/completions", chat("hi", { max_tokens: 600 }), 400, "maximum context"],
    ["max_tokens of zero", "/v1/completions", { prompt: "a", max_tokens: 0 }, 400, "max_tokens must be at least 1"],
    ["several answers", "/v1/completions", { prompt: "a", n: 2 }, 400, "n = 1"],
    ["an empty prompt", "/v1/completions", { prompt: "" }, 400, "prompt must not be empty"],
    ["a model that is no string", "/v1/completions", { prompt: "a", model: 3 }, 400, "model must be a string"],
    [
      "stream options without a stream",
      "/v1/completions",
      { prompt: "a", stream_options: { include_usage: true } },
      400,
      "stream=True",
    ],
    ["an unknown path", "/v1/nothing", {}, 404, "Not Found"],
  ])("refuses %s in vLLM's form", async (_, path, body, status, message) => {
    const worker = await start({ maxModelLen: 512 });
    const response = await post(worker, path, body);
    expect(response.status).toBe(status);
    const { error } = (await response.json()) as { error: { message: string; code: number; type: string } };
    expect(error.message).toContain(message);
    expect(error.code).toBe(status);
    expect(error.type).toBe(status === 404 ? "NotFoundError" : "BadRequestError");
  });

  it("refuses a body above its limit with 413", async () => {
    const worker = await start({ maxBodyBytes: 1000 });
    const response = await post(worker, "/v1/completions", { prompt: "a".repeat(2000) });
    expect(response.status).toBe(413);
  });
});

describe("the worker's metrics", () => {
  it("count what was served, under vLLM's names", async () => {
    const worker = await start({ blockSize: 8, numGpuBlocks: 500 });
    for (let turn = 0; turn < 2; turn++) {
      await answerOf(await post(worker, "/v1/chat/completions", chat("hello".repeat(20), { max_tokens: 4 })));
    }
    const page = await (await fetch(`${worker.url}/metrics`)).text();
    expect(metric(page, "vllm:num_requests_running")).toBe(0);
    expect(metric(page, "vllm:num_requests_waiting")).toBe(0);
    expect(metric(page, "vllm:kv_cache_usage_perc")).toBe(0);
    expect(metric(page, "vllm:prompt_tokens_total")).toBe(58);
    expect(metric(page, "vllm:generation_tokens_total")).toBe(8);
    expect(metric(page, "vllm:prefix_cache_queries_total")).toBe(58);
    expect(metric(page, "vllm:prefix_cache_hits_total")).toBe(24);
    expect(metric(page, "vllm:time_to_first_token_seconds_count")).toBe(2);
    expect(metric(page, "vllm:inter_token_latency_seconds_count")).toBe(6);
    expect(metric(page, "vllm:e2e_request_latency_seconds_count")).toBe(2);
    expect(page).toMatch(/^vllm:cache_config_info\{block_size="8",.*num_gpu_blocks="500".*\} 1\.0$/m);
    expect(page).toMatch(/^vllm:request_success_total\{engine="0",finished_reason="length",model_name="\S+"\} 2\.0$/m);
    expect(page).toMatch(/^# TYPE vllm:kv_cache_usage_perc gauge$/m);
  });

  it("are a well-formed exposition: every family once, every bucket cumulative", async () => {
    const worker = await start({ loraModules: ["a"] });
    await answerOf(await post(worker, "/v1/chat/completions", chat("hello", { max_tokens: 4, model: "a" })));
    const page = await (await fetch(`${worker.url}/metrics`)).text();
    const families = [...page.matchAll(/^# TYPE (\S+) /gm)].map((match) => match[1]);
    expect(new Set(families).size).toBe(families.length);
    const helps = [...page.matchAll(/^# HELP (\S+) /gm)].map((match) => match[1]);
    expect(helps).toEqual(families);
    for (const line of page.split("\n")) {
      if (line !== "" && !line.startsWith("#")) expect(line).toMatch(/^[a-z_:]+[a-z0-9_:]*(\{.*\})? -?[0-9.e+-]+$/);
    }
    const buckets = [...page.matchAll(/^vllm:inter_token_latency_seconds_bucket\{.*\} (\S+)$/gm)].map((m) =>
      Number(m[1]),
    );
    expect(buckets).toEqual([...buckets].sort((a, b) => a - b));
    expect(buckets.at(-1)).toBe(3);
  });

  it("show requests while they run and wait", async () => {
    const worker = await start({ maxNumSeqs: 1, timeScale: 1, loraModules: ["a", "b"] });
    const abort = new AbortController();
    const asked = ["a", "b"].map((model) =>
      fetch(`${worker.url}/v1/chat/completions`, {
        method: "POST",
        body: JSON.stringify(chat("hello", { model, max_tokens: 1000 })),
        signal: abort.signal,
      }).catch(() => undefined),
    );
    await until(() => worker.stats().running === 1 && worker.stats().waiting === 1, "one running, one waiting");
    const page = await (await fetch(`${worker.url}/metrics`)).text();
    expect(metric(page, "vllm:num_requests_running")).toBe(1);
    expect(metric(page, "vllm:num_requests_waiting")).toBe(1);
    expect(metric(page, "vllm:kv_cache_usage_perc")).toBeGreaterThan(0);
    const newest = [...page.matchAll(/^vllm:lora_requests_info\{(.*)\} (\S+)$/gm)].sort(
      (left, right) => Number(right[2]) - Number(left[2]),
    )[0];
    expect(newest?.[1]).toMatch(/^max_lora="1",running_lora_adapters="[ab]",waiting_lora_adapters="[ab]"$/);
    abort.abort();
    await Promise.all(asked);
  });

  it("can repeat a HELP line on purpose", async () => {
    const worker = await start();
    worker.setFaults({ metricsMalformed: true });
    const page = await (await fetch(`${worker.url}/metrics`)).text();
    expect([...page.matchAll(/^# HELP vllm:num_requests_waiting /gm)]).toHaveLength(2);
  });
});

describe("when things go wrong, the worker", () => {
  it.each([
    ["while its answer streams", true],
    ["before its answer begins", false],
  ])("aborts at once for a client that leaves %s", async (_, stream) => {
    const worker = await start({ timeScale: 1 });
    const client = httpRequest(`${worker.url}/v1/chat/completions`, { method: "POST" });
    client.on("error", () => {});
    client.end(JSON.stringify(chat("hello", { max_tokens: 5000, stream })));
    await until(() => worker.stats().running === 1 && worker.stats().answerTokens > 0, "a token");
    expect(worker.stats().usedBlocks).toBeGreaterThan(0);
    client.destroy();
    await until(() => worker.stats().aborted === 1, "the abort");
    expect(worker.stats()).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0, finished: 0 });
    const page = await (await fetch(`${worker.url}/metrics`)).text();
    expect(page).toMatch(/finished_reason="abort",model_name="\S+"\} 1\.0/);
  });

  it("dies in mid-stream on purpose and frees what the answer held", async () => {
    const worker = await start({ faults: { failAfterTokens: 3, errorRate: 0, hang: false, metricsMalformed: false } });
    const response = await post(worker, "/v1/chat/completions", chat("hello", { max_tokens: 50, stream: true }));
    await expect(response.text()).rejects.toThrow();
    expect(worker.stats()).toMatchObject({ running: 0, usedBlocks: 0, aborted: 1 });
  });

  it("answers 500 for the share it was told to", async () => {
    const worker = await start();
    worker.setFaults({ errorRate: 1 });
    expect((await post(worker, "/v1/chat/completions", chat("hello"))).status).toBe(500);
    worker.setFaults({ errorRate: 0 });
    expect((await post(worker, "/v1/chat/completions", chat("hello", { max_tokens: 1 }))).status).toBe(200);
  });

  it("hangs on purpose without holding cache", async () => {
    const worker = await start();
    worker.setFaults({ hang: true });
    const abort = AbortSignal.timeout(60);
    await expect(
      fetch(`${worker.url}/v1/completions`, { method: "POST", body: '{"prompt":"a"}', signal: abort }),
    ).rejects.toThrow();
    expect(worker.stats()).toMatchObject({ running: 0, waiting: 0 });
    expect((await fetch(`${worker.url}/health`)).status).toBe(200);
  });

  it("closes while answers are streaming, twice without harm, and frees its port", async () => {
    const worker = await start({ timeScale: 1 });
    const response = await post(worker, "/v1/chat/completions", chat("hello", { max_tokens: 5000, stream: true }));
    const reading = response.text();
    await Promise.all([expect(reading).rejects.toThrow(), worker.close(), worker.close()]);
    const again = await start({ port: worker.port });
    expect(again.port).toBe(worker.port);
    await expect(startWorker({ host: "127.0.0.1", port: worker.port })).rejects.toMatchObject({ code: "EADDRINUSE" });
  });
});
