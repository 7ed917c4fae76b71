/**
 * One decision for Dynamo workers as the picker makes it between body and headers: the prompt's tokens, their hashes, the plan and its books, in this
 * process; and prompts that nobody sent before, of words that are known.
 */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../src/app/envoy.ts";
import { createKvIndex } from "../src/data/prefix-index/exact-kv-index.ts";
import { createSettingsOf, defaultRouterConfig } from "../src/prefill-router/config.ts";
import type { PrefillRouter } from "../src/prefill-router/contracts.ts";
import { planDefaults, type RouterIndex } from "../src/prefill-router/plan/contracts.ts";
import { createPrefillRouter } from "../src/prefill-router/plan/prefill-router.ts";
import { syntheticProfile } from "../src/prefill-router/policy/policy-class.ts";
import { createWorkerStage } from "../src/prefill-router/stage/worker-stage.ts";
import { silentLogger } from "../src/telemetry/log.ts";
import { createTokenHasher } from "../src/tokens/block-hash.ts";
import { createPromptTokenizer } from "../src/tokens/create-prompt-tokenizer.ts";
import type { PromptTokenizer, TokenizeOutcome } from "../src/tokens/prompt-tokenizer.ts";
import { booked, seeded, workerOf } from "./dynamo-fleet.ts";

/** TOKENIZER_MODEL: a model's folder to measure with instead, for its own vocabulary and template. */
export const modelPath = process.env["TOKENIZER_MODEL"] ?? join(packageRoot, "test/fixtures/dynamo/model");
const blockSize = 16;

export interface DeciderOptions {
  readonly index?: RouterIndex;
  readonly workers: number;
  readonly random: () => number;
}

export interface KnownBlocks {
  readonly tokens: Uint32Array;
  readonly sequence: Uint32Array;
}

export interface Decider {
  readonly router: PrefillRouter;
  /** Chat bodies whose messages are so long together, each of lines in an order of its own. */
  bodies(bytes: number, count: number): readonly Buffer[];
  /** Tokens, hashes, plan, first byte and end; `done` gets the prompt's tokens, as a rule before this returns. `known` stands in for the prompt's own hashes. */
  decide(body: Buffer, known: KnownBlocks | undefined, done: (tokens: number) => void): void;
  /** The first of these steps alone. */
  tokens(body: Buffer, done: (tokens: number) => void): void;
  close(): Promise<void>;
}

export async function createDecider({ index, workers, random }: DeciderOptions): Promise<Decider> {
  const tokenizer = await tokenizerOf();
  const hasher = createTokenHasher();
  const router = createPrefillRouter({
    config: {
      ...planDefaults,
      profile: syntheticProfile(undefined, "fcfs"),
      conditional: undefined,
      affinity: undefined,
    },
    settingsOf: createSettingsOf(defaultRouterConfig),
    prefill: createWorkerStage({ stage: "prefill", blockSize, random }),
    decode: createWorkerStage({ stage: "decode", blockSize, random }),
    index: index ?? (createKvIndex({ random }) as RouterIndex),
    random,
  });
  for (let number = 0; number < workers; number++) router.upsertWorker(workerOf(number, "aggregated"));
  return {
    router,
    bodies: chatBodies,
    tokens: (body, done) => withTokens(tokenizer, body, (ids) => done(ids.length)),
    decide: (body, known, done) =>
      withTokens(tokenizer, body, (ids) => {
        const { blockHashes, sequenceHashes } = hasher.hash(ids, { blockSize });
        const booking = booked(router, {
          requestId: "r",
          isl: ids.length,
          blockHashes: known?.tokens ?? blockHashes,
          sequenceHashes: known?.sequence ?? sequenceHashes,
        });
        booking.prefillCompleted();
        booking.free();
        done(ids.length);
      }),
    async close() {
      router.close();
      await tokenizer.close();
    },
  };
}

function tokenizerOf(): Promise<PromptTokenizer> {
  const file = (name: string): string => join(modelPath, name);
  return createPromptTokenizer(
    {
      tokenizer: file("tokenizer.json"),
      tokenizerConfig: file("tokenizer_config.json"),
      config: file("config.json"),
    },
    { modelName: "bench", logger: silentLogger },
  );
}

function withTokens(tokenizer: PromptTokenizer, body: Buffer, then: (ids: Uint32Array) => void): void {
  tokenizer.tokenize("chat", body, (outcome: TokenizeOutcome) => {
    const [ids] = outcome.kind === "tokens" ? outcome.prompts : [];
    if (ids === undefined) throw new Error(`a prompt without tokens: ${outcome.kind}`);
    then(ids);
  });
}

/** Texts of so many bytes that differ from each other from the first line on. */
export function newTexts(bytes: number, count: number): readonly string[] {
  const random = seeded(7);
  const files = globSync(["README.md", "CONTRIBUTING.md", "docs/**/*.md", "src/request/*.ts"], { cwd: packageRoot });
  const lines = files
    .sort()
    .flatMap((name) => readFileSync(join(packageRoot, name), "utf8").split("\n"))
    .filter((line) => line.length > 20);
  return Array.from({ length: count }, () => {
    let text = "";
    while (text.length < bytes) text += `${lines[Math.floor(random() * lines.length)] ?? ""}\n`;
    return text.slice(0, bytes);
  });
}

function chatBodies(bytes: number, count: number): readonly Buffer[] {
  return newTexts(bytes, count).map((text) => {
    const third = Math.floor(bytes / 3);
    const messages = [
      { role: "system", content: text.slice(0, third) },
      { role: "user", content: text.slice(third, 2 * third) },
      { role: "assistant", content: text.slice(2 * third, bytes - 200) },
      { role: "user", content: text.slice(bytes - 200) },
    ];
    return Buffer.from(JSON.stringify({ model: "bench", messages, max_tokens: 64, stream: true }));
  });
}
