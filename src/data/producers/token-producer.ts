/**
 * Prompt tokens of a request: exact where the client sent token ids, else estimated at four bytes of prompt text a token. Corrects the first guess
 * (all of the body), which counts tool schemas and JSON punctuation as prompt.
 */
import type { InferenceRequest } from "../../request/inference-request.ts";
import { promptTokensKey } from "../attributes.ts";
import type { PluginDefinition } from "../plugin.ts";
import type { DataProducer } from "../producer.ts";
import { bytesPerToken, promptSizeBytes } from "./prompt-chains.ts";

export const tokenProducerType = "token-producer";
export interface TokenProducerParameters {
  readonly estimate?: { readonly image?: object; readonly video?: object };
  readonly vllm?: object;
  readonly modelName?: string;
  readonly udsTokenizerConfig?: object;
}

const notBuilt = "is not built yet: only the estimate of about four bytes a token is";

export class TokenProducer implements DataProducer {
  produce(request: InferenceRequest): void {
    const { prompt } = request.parsed;
    if (prompt.kind === "tokens") request.setAttribute(promptTokensKey, { ids: prompt.chains, exact: true });
    const sizeBytes = promptSizeBytes(request);
    if (sizeBytes !== undefined) request.promptTokens = Math.ceil(sizeBytes / bytesPerToken);
  }
}

export const tokenProducerDefinition: PluginDefinition<TokenProducerParameters, TokenProducer> = {
  type: tokenProducerType,
  kinds: ["data-producer"],
  summary:
    "Counts a request's prompt tokens: exactly where the client sent token ids, else at about four bytes a token.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: {
      estimate: {
        type: "object",
        additionalProperties: false,
        description: "Selects the estimate, which is the default.",
        properties: {
          image: { type: "object", description: "Estimate of an image's tokens (not built yet)." },
          video: { type: "object", description: "Estimate of a video's tokens (not built yet)." },
        },
      },
      vllm: { type: "object", description: "Tokenize by vLLM's render endpoint (not built yet)." },
      modelName: { type: "string", description: "Model whose tokenizer is used (not built yet)." },
      udsTokenizerConfig: {
        type: "object",
        deprecated: true,
        description: "Deprecated tokenizer socket (not built yet).",
      },
    },
  },
  validate({ estimate, ...backends }) {
    const faults = (["vllm", "modelName", "udsTokenizerConfig"] as const)
      .filter((backend) => backends[backend] !== undefined)
      .map((backend) => `${backend}: this tokenizer ${notBuilt}`);
    if (estimate?.image !== undefined) faults.push(`estimate.image: this ${notBuilt}`);
    if (estimate?.video !== undefined) faults.push(`estimate.video: this ${notBuilt}`);
    return faults;
  },
  create: () => new TokenProducer(),
};
