import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { createPromptTokenizer, type PromptTokenizerOptions } from "../../../src/tokens/create-prompt-tokenizer.ts";
import type { PromptDialect, PromptTokenizer, TokenizeOutcome } from "../../../src/tokens/prompt-tokenizer.ts";
import { TokenizerThread, threadLimits } from "../../../src/tokens/thread/tokenizer-thread.ts";
import type { TokenizerFiles } from "../../../src/tokens/tokenizer-files.ts";
import { modelFile, nativeModels, nativeTokenizer } from "./models.ts";

const open: PromptTokenizer[] = [];
/** Kept alive by a model of its own, so that not every test starts one. */
const shared = new TokenizerThread();
let keeper: PromptTokenizer;

beforeAll(async () => {
  keeper = await createPromptTokenizer(
    { tokenizer: modelFile("gpt2") },
    { modelName: "k", logger: silentLogger, thread: shared },
  );
});

afterAll(() => keeper.close());

afterEach(async () => {
  for (const tokenizer of open.splice(0)) await tokenizer.close();
});

async function create(files: TokenizerFiles, options: Partial<PromptTokenizerOptions> = {}): Promise<PromptTokenizer> {
  const settings = { modelName: "m", logger: silentLogger, thread: shared, ...options };
  const tokenizer = await createPromptTokenizer(files, settings);
  open.push(tokenizer);
  return tokenizer;
}

function withTemplate(template: string): TokenizerFiles {
  return { tokenizer: modelFile("gpt2"), tokenizerConfig: Buffer.from(JSON.stringify({ chat_template: template })) };
}

function tokenize(tokenizer: PromptTokenizer, dialect: PromptDialect, body: unknown): Promise<TokenizeOutcome> {
  return new Promise((resolve) => {
    tokenizer.tokenize(dialect, body instanceof Buffer ? body : Buffer.from(JSON.stringify(body)), resolve);
  });
}

function idsOf(outcome: TokenizeOutcome): number[][] {
  if (outcome.kind !== "tokens") throw new Error(`${outcome.kind}: ${"message" in outcome ? outcome.message : ""}`);
  return outcome.prompts.map((ids) => [...ids]);
}

const chat = (content: string): unknown => ({ messages: [{ role: "user", content }] });
const plain = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
const endless =
  "{% if messages[0].content == 'loop' %}{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}{% endif %}ok";

describe("a prompt tokenizer", () => {
  it("answers short prompts at once and long ones later, with the same ids", async () => {
    const tokenizer = await create(withTemplate(plain));
    const words = Array.from({ length: 40_000 }, (_, index) => `word${index}`).join(" ");
    let isDone = false;
    tokenizer.tokenize("chat", Buffer.from(JSON.stringify(chat("short"))), () => {
      isDone = true;
    });
    expect(isDone).toBe(true);
    const pending = tokenize(tokenizer, "chat", chat(words));
    expect(idsOf(await pending)).toEqual([await nativeTokenizer("gpt2").encode(`[user]${words}`)]);
  });

  it("sends text of many new words to the thread, however short its body is", async () => {
    const tokenizer = await create(withTemplate(plain));
    const words = Array.from({ length: 3_000 }, (_, index) => `q${index * 7919}z`).join(" ");
    let outcome: TokenizeOutcome | undefined;
    const done = new Promise<void>((resolve) => {
      tokenizer.tokenize("chat", Buffer.from(JSON.stringify(chat(words))), (result) => {
        outcome = result;
        resolve();
      });
    });
    expect(outcome).toBeUndefined();
    await done;
    expect(outcome).toMatchObject({ kind: "tokens", isAuthoritative: true });
  });

  it.each(nativeModels)("uses the native tokenizer for %s", async (model) => {
    const tokenizer = await create({ tokenizer: modelFile(model) });
    const native = nativeTokenizer(model);
    const text = "Hello, wörld! 日本 <s> 12345 naïve\n\n  x";
    expect(idsOf(await tokenize(tokenizer, "completions", { prompt: text }))).toEqual([await native.encode(text)]);
    expect(idsOf(await tokenize(tokenizer, "embeddings", { input: [text, "b"] }))).toEqual([
      await native.encode(text, true),
      await native.encode("b", true),
    ]);
    expect(tokenizer.decode(Uint32Array.from(await native.encode("signal box")))).toContain("signal");
  });

  it.each([
    ["completions", { prompt: "a b" }, true, 1],
    ["completions", { prompt: ["a b"] }, false, 1],
    ["completions", { prompt: ["a", "b"] }, false, 2],
    ["completions", { prompt: [5, 6] }, false, 1],
    ["completions", { prompt: [[5], [6, 7]] }, false, 2],
    ["completions", { prompt: "" }, false, 1],
    ["completions", { prompt: "\ud800" }, false, 1],
    ["embeddings", { input: "a b" }, false, 1],
    ["embeddings", { input: [[5], [6, 7]] }, false, 2],
  ] as const)("vouches only for one whole text: %s of %j", async (dialect, body, isAuthoritative, prompts) => {
    const tokenizer = await create({ tokenizer: modelFile("llama3") });
    const outcome = await tokenize(tokenizer, dialect, body);
    expect(outcome).toMatchObject({ kind: "tokens", isAuthoritative });
    expect(idsOf(outcome)).toHaveLength(prompts);
  });

  it("puts special tokens around what is embedded, and around nothing else", async () => {
    const tokenizer = await create({ tokenizer: modelFile("llama3") });
    const native = nativeTokenizer("llama3");
    const around = await native.encode("a b", true);
    const bare = await native.encode("a b");
    expect(around).not.toEqual(bare);
    expect(idsOf(await tokenize(tokenizer, "embeddings", { input: "a b" }))).toEqual([around]);
    expect(idsOf(await tokenize(tokenizer, "embeddings", { input: "a b", add_special_tokens: false }))).toEqual([bare]);
    expect(idsOf(await tokenize(tokenizer, "embeddings", { input: "a b", truncate_prompt_tokens: 2 }))).toEqual([
      around.slice(0, 2),
    ]);
    expect(idsOf(await tokenize(tokenizer, "completions", { prompt: "a b" }))).toEqual([bare]);
  });

  it.each([
    ["chat", Buffer.from("{")],
    ["chat", Buffer.from([0x22, 0xff, 0x22])],
    ["chat", []],
    ["chat", { messages: [] }],
    ["chat", { messages: "x" }],
    ["completions", { prompt: [] }],
    ["completions", { prompt: [-1] }],
    ["completions", { prompt: [1.5] }],
    ["completions", { prompt: [99_999_999] }],
    ["completions", { prompt: 7 }],
    ["completions", { prompt: ["a", 1] }],
  ] as const)("refuses %s of %j", async (dialect, body) => {
    const tokenizer = await create(withTemplate(plain));
    expect(await tokenize(tokenizer, dialect, body)).toMatchObject({ kind: "invalid" });
  });

  it("refuses what the template refuses, with its words", async () => {
    const tokenizer = await create(withTemplate("{{ raise_exception('roles must alternate') }}"));
    expect(await tokenize(tokenizer, "chat", chat("x"))).toEqual({ kind: "invalid", message: "roles must alternate" });
  });

  it.each([
    ["completions", { prompt_embeds: "AAAA" }],
    ["completions", {}],
    ["chat", { messages: [{ role: "user", content: "x" }] }],
  ] as const)("has no tokens for %s of %j without a template", async (dialect, body) => {
    const tokenizer = await create({ tokenizer: modelFile("gpt2") });
    expect(await tokenize(tokenizer, dialect, body)).toEqual({ kind: "none" });
  });

  it("ends a template that does not end, and goes on with the requests behind it", async () => {
    const tokenizer = await create(withTemplate(endless), { timeoutMs: 1_000, thread: new TokenizerThread() });
    const stuck = tokenize(tokenizer, "chat", chat("loop"));
    expect(await stuck).toMatchObject({ kind: "timeout" });
    const long = tokenize(tokenizer, "chat", chat("x".repeat(200_000)));
    expect(idsOf(await long)).toEqual([await nativeTokenizer("gpt2").encode("ok")]);
  });

  it("never answers what was cancelled", async () => {
    const tokenizer = await create(withTemplate(plain));
    let isAnswered = false;
    const pending = tokenizer.tokenize("chat", Buffer.from(JSON.stringify(chat("x".repeat(200_000)))), () => {
      isAnswered = true;
    });
    pending.cancel();
    await tokenize(tokenizer, "chat", chat("y".repeat(200_000)));
    expect(isAnswered).toBe(false);
  });

  it("refuses more waiting prompts than its queue holds", async () => {
    const thread = new TokenizerThread({ ...threadLimits, maxQueuedJobs: 1 });
    const tokenizer = await create(withTemplate(plain), { thread });
    const outcomes = await Promise.all(
      [1, 2, 3, 4].map((n) => tokenize(tokenizer, "chat", chat(String(n).repeat(200_000)))),
    );
    expect(outcomes.map(({ kind }) => kind)).toEqual(["tokens", "tokens", "failed", "failed"]);
  });

  it("fails what waits when it is closed", async () => {
    const tokenizer = await create(withTemplate(plain));
    const pending = tokenize(tokenizer, "chat", chat("x".repeat(200_000)));
    await tokenizer.close();
    expect(await pending).toMatchObject({ kind: "failed" });
  });

  it("shares one thread between models, and keeps it while one of them is open", async () => {
    const thread = new TokenizerThread();
    const first = await create(withTemplate(plain), { thread });
    const second = await create({ tokenizer: modelFile("unigram") }, { thread });
    expect(thread.modelCount).toBe(2);
    await first.close();
    expect(await tokenize(second, "completions", { prompt: "signal" })).toMatchObject({ kind: "tokens" });
    await second.close();
    expect(thread.modelCount).toBe(0);
  });

  it("fails the prompts of a thread that dies", async () => {
    const dying = `
      import { parentPort } from "node:worker_threads";
      parentPort.on("message", () => process.exit(3));`;
    const thread = new TokenizerThread(threadLimits, new URL(`data:text/javascript,${encodeURIComponent(dying)}`));
    await expect(create(withTemplate(plain), { thread })).rejects.toThrow("the tokenizer thread died");
    expect(thread.modelCount).toBe(0);
  });

  it.each([
    ["a file that is not there", { tokenizer: "/nonexistent/tokenizer.json" }, /ENOENT/],
    ["what is no JSON", { tokenizer: Buffer.from("no") }, /JSON/],
    ["what is no tokenizer", { tokenizer: Buffer.from("{}") }, /no model/],
    ["what the native tokenizer cannot read", { tokenizer: Buffer.from('{"model":{"type":"Other"}}') }, /./],
  ])("cannot be made of %s", async (_, files, message) => {
    await expect(create(files)).rejects.toThrow(message);
  });

  it("goes without a chat template that is none", async () => {
    const tokenizer = await create(withTemplate("{% for %}"));
    expect(await tokenize(tokenizer, "chat", chat("x"))).toEqual({ kind: "none" });
    expect(await tokenize(tokenizer, "completions", { prompt: "x" })).toMatchObject({ kind: "tokens" });
  });
});
