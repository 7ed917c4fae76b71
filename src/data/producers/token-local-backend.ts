/**
 * Tokenizes in this process by the files of a local model folder. The tokenizer is loaded beside the start; until it is there requests wait for it,
 * within their bound, and if it cannot be used they go on without exact tokens.
 */
import { statSync } from "node:fs";
import { join } from "node:path";
import type { InferenceRequest } from "../../request/inference-request.ts";
import type { ApiName } from "../../request/parsed-body.ts";
import type { Logger } from "../../telemetry/log.ts";
import type { PromptDialect, PromptTokenizer, TokenizeOutcome } from "../../tokens/prompt-tokenizer.ts";
import type { PromptTokens } from "../attributes.ts";
import { type TokenBackend, TokenizeError } from "./token-backend.ts";

export interface LocalBackendOptions {
  /** Folder with tokenizer.json and, for chats, tokenizer_config.json or a template file. */
  readonly folder: string;
  readonly modelName: string;
  readonly timeoutMs: number;
  readonly log: Logger;
}

const dialects: Readonly<Partial<Record<ApiName, PromptDialect>>> = {
  "openai-chat": "chat",
  "openai-completions": "completions",
  "openai-embeddings": "embeddings",
};

/** Throws when the folder has no tokenizer.json. */
export function createLocalBackend(options: LocalBackendOptions): TokenBackend {
  const { folder, modelName, timeoutMs, log } = options;
  const tokenizer = fileIn(folder, "tokenizer.json");
  if (tokenizer === undefined) throw new Error(`${folder} holds no tokenizer.json`);
  const files = {
    tokenizer,
    tokenizerConfig: fileIn(folder, "tokenizer_config.json"),
    chatTemplate: fileIn(folder, "chat_template.jinja") ?? fileIn(folder, "chat_template.json"),
    config: fileIn(folder, "config.json"),
  };
  // Tokenizers and templates are loaded only where prompts are tokenized here.
  const loading = import("../../tokens/create-prompt-tokenizer.ts").then(({ createPromptTokenizer }) =>
    createPromptTokenizer(files, { modelName, logger: log, timeoutMs }),
  );
  return new LocalTokenBackend(loading, timeoutMs, log);
}

function fileIn(folder: string, name: string): string | undefined {
  const path = join(folder, name);
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true ? path : undefined;
}

export class LocalTokenBackend implements TokenBackend {
  readonly timeoutMs: number;
  readonly #loading: Promise<PromptTokenizer | undefined>;
  readonly #open = new Set<{ cancel(): void }>();
  #tokenizer: PromptTokenizer | undefined;

  constructor(loading: Promise<PromptTokenizer>, timeoutMs: number, log: Logger) {
    this.timeoutMs = timeoutMs;
    this.#loading = loading.then(
      (tokenizer) => {
        this.#tokenizer = tokenizer;
        return tokenizer;
      },
      (error: unknown) => {
        log.error({ error: String(error) }, "the model's tokenizer cannot be used");
        return undefined;
      },
    );
  }

  tokens(request: InferenceRequest): PromptTokens | Promise<PromptTokens | undefined> | undefined {
    const dialect = dialects[request.parsed.api];
    if (dialect === undefined || request.body.length === 0) return undefined;
    if (this.#tokenizer !== undefined) return this.#tokenize(this.#tokenizer, dialect, request.body);
    const { body } = request;
    return this.#loading.then((tokenizer) => {
      if (tokenizer === undefined) throw new TokenizeError("BROKEN", "the model's tokenizer cannot be used");
      return this.#tokenize(tokenizer, dialect, body);
    });
  }

  async close(): Promise<void> {
    for (const pending of this.#open) pending.cancel();
    const tokenizer = await this.#loading;
    await tokenizer?.close();
  }

  /** At once for a short prompt, which costs no promise. */
  #tokenize(
    tokenizer: PromptTokenizer,
    dialect: PromptDialect,
    body: Buffer,
  ): PromptTokens | Promise<PromptTokens | undefined> | undefined {
    let early: TokenizeOutcome | undefined;
    let settle: ((outcome: TokenizeOutcome) => void) | undefined;
    const pending = tokenizer.tokenize(dialect, body, (outcome) => {
      if (settle === undefined) early = outcome;
      else settle(outcome);
    });
    if (early !== undefined) return tokensOf(early);
    return new Promise((resolve, reject) => {
      this.#open.add(pending);
      settle = (outcome) => {
        this.#open.delete(pending);
        try {
          resolve(tokensOf(outcome));
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      };
    });
  }
}

function tokensOf(outcome: TokenizeOutcome): PromptTokens | undefined {
  switch (outcome.kind) {
    case "tokens":
      return { ids: outcome.prompts, exact: true };
    case "none":
      return undefined;
    case "invalid":
    case "timeout":
    case "failed":
      throw new TokenizeError(outcome.kind === "timeout" ? "TIMEOUT" : "UNREADABLE", outcome.message);
    default:
      return outcome satisfies never;
  }
}
