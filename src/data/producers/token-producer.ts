/**
 * Prompt tokens of a request: exact where the client sent token ids or where a backend makes them (an engine's render endpoint, a tokenizer of this
 * process), else estimated at four bytes of prompt text a token. A backend that fails costs the request its exact tokens and nothing else.
 */
import { readFileSync } from "node:fs";
import type { InferenceRequest } from "../../request/inference-request.ts";
import { type PromptTokens, promptTokensKey } from "../attributes.ts";
import { parseDuration } from "../duration.ts";
import type { Closable, PluginContext, PluginDefinition } from "../plugin.ts";
import type { DataProducer } from "../producer.ts";
import { bytesPerToken, promptSizeBytes } from "./prompt-chains.ts";
import type { TokenBackend } from "./token-backend.ts";
import { EngineTokenBackend } from "./token-engine-backend.ts";
import { createLocalBackend } from "./token-local-backend.ts";
import {
  defaultRenderUrl,
  type TokenProducerParameters,
  tokenFaults,
  tokenProducerSchema,
} from "./token-parameters.ts";

export const tokenProducerType = "token-producer";

export class TokenProducer implements DataProducer, Closable {
  /** Requests whose backend failed. */
  failures = 0;
  readonly timeoutMs: number | undefined;
  readonly #backend: TokenBackend | undefined;
  readonly #context: Pick<PluginContext, "log" | "name"> | undefined;

  constructor(backend?: TokenBackend, context?: Pick<PluginContext, "log" | "name">) {
    this.#backend = backend;
    this.#context = context;
    this.timeoutMs = backend?.timeoutMs;
  }

  produce(request: InferenceRequest): void | Promise<void> {
    const { prompt } = request.parsed;
    const sizeBytes = promptSizeBytes(request);
    if (sizeBytes !== undefined) request.promptTokens = Math.ceil(sizeBytes / bytesPerToken);
    if (request.attribute(promptTokensKey)?.exact === true) return undefined;
    if (prompt.kind === "tokens") request.setAttribute(promptTokensKey, { ids: prompt.chains, exact: true });
    else if (this.#backend !== undefined) return this.#ask(this.#backend, request);
    return undefined;
  }

  dumpState(): unknown {
    return { failures: this.failures };
  }

  async close(): Promise<void> {
    await this.#backend?.close();
  }

  #ask(backend: TokenBackend, request: InferenceRequest): Promise<void> | undefined {
    try {
      const tokens = backend.tokens(request);
      if (tokens !== undefined && "then" in tokens) {
        return tokens.then(
          (later) => publish(request, later),
          (error: unknown) => this.#failed(request, error),
        );
      }
      publish(request, tokens);
    } catch (error) {
      this.#failed(request, error);
    }
    return undefined;
  }

  #failed(request: InferenceRequest, error: unknown): void {
    this.failures += 1;
    const context = this.#context;
    const fields = { plugin: context?.name, requestId: request.id, error: String(error) };
    if (this.failures === 1) {
      context?.log.warn(fields, "a prompt could not be tokenized; requests go on without exact tokens");
    } else context?.log.debug(fields, "a prompt could not be tokenized");
  }
}

function publish(request: InferenceRequest, tokens: PromptTokens | undefined): void {
  if (tokens === undefined) return;
  request.setAttribute(promptTokensKey, tokens);
  let sum = 0;
  for (const ids of tokens.ids) sum += ids.length;
  request.promptTokens = sum;
}

/** Dynamo's bound; the reference has none. */
const defaultMaxAnswerBytes = 16 * 1024 * 1024;
const defaultTimeoutMs = 5000;
const defaultMediaTimeoutMs = 30_000;

/** The backend that the parameters name; undefined where they name none. Throws where a file of theirs cannot be used. */
export function createTokenBackend(
  parameters: TokenProducerParameters,
  context: Pick<PluginContext, "log" | "now">,
): TokenBackend | undefined {
  const { vllm, modelName, modelPath } = parameters;
  if (modelPath !== undefined) {
    const { log } = context;
    return createLocalBackend({
      folder: modelPath,
      modelName: modelName ?? modelPath,
      timeoutMs: defaultTimeoutMs,
      log,
    });
  }
  if (vllm === undefined && modelName === undefined) return undefined;
  const { url, timeout, mmTimeout, caCertPath, clientCertPath, clientKeyPath, insecureSkipVerify } = vllm ?? {};
  return new EngineTokenBackend({
    url: new URL(url ?? vllm?.http ?? defaultRenderUrl),
    timeoutMs: parseDuration(timeout ?? "") ?? defaultTimeoutMs,
    mediaTimeoutMs: parseDuration(mmTimeout ?? "") ?? defaultMediaTimeoutMs,
    maxAnswerBytes: vllm?.maxResponseBytes ?? defaultMaxAnswerBytes,
    tls: {
      verifies: insecureSkipVerify !== true,
      ca: textOf(caCertPath),
      cert: textOf(clientCertPath),
      key: textOf(clientKeyPath),
    },
    now: () => context.now(),
  });
}

/** A file that cannot be read refuses the configuration. */
function textOf(path: string | undefined): string | undefined {
  return path === undefined || path === "" ? undefined : readFileSync(path, "utf8");
}

export const tokenProducerDefinition: PluginDefinition<TokenProducerParameters, TokenProducer> = {
  type: tokenProducerType,
  kinds: ["data-producer"],
  summary:
    "Makes a request's prompt tokens: exact from an engine's render endpoint or a tokenizer, else estimated at about four bytes a token.",
  parameters: tokenProducerSchema,
  validate: tokenFaults,
  create: (parameters, context) => new TokenProducer(createTokenBackend(parameters, context), context),
};
