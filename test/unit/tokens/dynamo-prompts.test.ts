/** Our prompts against the token ids that Dynamo 1.6.1's own frontend answered with, recorded for the models of test/fixtures/models/. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { createPromptTokenizer } from "../../../src/tokens/create-prompt-tokenizer.ts";
import type { PromptDialect, PromptTokenizer, TokenizeOutcome } from "../../../src/tokens/prompt-tokenizer.ts";
import { TokenizerThread } from "../../../src/tokens/thread/tokenizer-thread.ts";
import { modelFile } from "./models.ts";

interface Recorded {
  readonly body: Readonly<Record<string, unknown>>;
  readonly status: number;
  readonly tokenIds?: readonly number[];
}

type RecordedModel = Readonly<Record<"chat" | "completions", Readonly<Record<string, Recorded>>>>;

const fixture = join(import.meta.dirname, "../../fixtures/dynamo/prompt-tokens.json");
const { models } = JSON.parse(readFileSync(fixture, "utf8")) as {
  readonly models: Readonly<Record<string, RecordedModel>>;
};
const dialects: readonly ("chat" | "completions")[] = ["chat", "completions"];

/** What this runtime spells, trims or joins otherwise in some template: such ids never stand in for the prompt. */
const approximate = new Set(["tools with odd numbers", "odd white space at the ends", "empty parts"]);

/** Refused for what is not in the prompt: the frontend refuses it with token_data as without. */
const refusedElsewhere = new Set(["two tools, sparse", "arguments that are no JSON"]);

function tokenize(tokenizer: PromptTokenizer, dialect: PromptDialect, body: unknown): Promise<TokenizeOutcome> {
  return new Promise((resolve) => {
    tokenizer.tokenize(dialect, Buffer.from(JSON.stringify(body)), resolve);
  });
}

describe.each(Object.entries(models))("prompts of %s", (model, recorded) => {
  const thread = new TokenizerThread();
  let tokenizer: PromptTokenizer;

  beforeAll(async () => {
    const files = {
      tokenizer: modelFile(model),
      tokenizerConfig: modelFile(model, "tokenizer_config.json"),
      config: modelFile(model, "config.json"),
    };
    tokenizer = await createPromptTokenizer(files, { modelName: model, logger: silentLogger, thread });
  });

  afterAll(() => tokenizer.close());

  const cases = dialects.flatMap((dialect) =>
    Object.entries(recorded[dialect]).map(([name, { body, status, tokenIds }]) => ({
      dialect,
      name,
      body,
      status,
      tokenIds,
    })),
  );

  it.each(cases.filter(({ tokenIds }) => tokenIds !== undefined))(
    "has Dynamo's ids: $dialect, $name",
    async (recording) => {
      const { dialect, name, body, tokenIds } = recording;
      const outcome = await tokenize(tokenizer, dialect, body);
      if (approximate.has(name) && !(outcome.kind === "tokens" && outcome.isAuthoritative)) return;
      if (outcome.kind === "none" && name === "raw prompt") return;
      expect(outcome).toMatchObject({ kind: "tokens" });
      if (outcome.kind === "tokens") expect([...(outcome.prompts.at(-1) ?? [])]).toEqual(tokenIds);
    },
  );

  const refused = cases.filter(({ status, name }) => status === 400 && !refusedElsewhere.has(name));

  it.each(refused)("never vouches for what Dynamo refuses: $dialect, $name", async (recording) => {
    const outcome = await tokenize(tokenizer, recording.dialect, recording.body);
    expect(outcome.kind === "tokens" && outcome.isAuthoritative).toBe(false);
  });
});
