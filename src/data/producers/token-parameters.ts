/** The parameters of the token producer: the reference's names and defaults, and one of ours for a tokenizer in this process. */
import { parseDuration } from "../duration.ts";
import type { JsonSchema } from "../plugin.ts";

export interface TokenProducerParameters {
  readonly estimate?: { readonly image?: object; readonly video?: object; readonly audio?: object };
  readonly vllm?: {
    readonly url?: string;
    readonly http?: string;
    readonly timeout?: string;
    readonly mmTimeout?: string;
    readonly maxResponseBytes?: number;
    readonly caCertPath?: string;
    readonly clientCertPath?: string;
    readonly clientKeyPath?: string;
    readonly insecureSkipVerify?: boolean;
    readonly messagesRenderMode?: string;
    readonly endpointDiscovery?: object;
    readonly prefillOnly?: boolean;
  };
  readonly modelName?: string;
  readonly modelPath?: string;
  readonly udsTokenizerConfig?: object;
}

export const defaultRenderUrl = "http://localhost:8000";

const notBuilt = "is not built yet";

export function tokenFaults({
  estimate,
  vllm,
  modelPath,
  udsTokenizerConfig,
}: TokenProducerParameters): readonly string[] {
  const faults: string[] = [];
  if (udsTokenizerConfig !== undefined)
    faults.push(`udsTokenizerConfig: the tokenizer socket ${notBuilt}; use vllm or modelPath`);
  for (const media of ["image", "video", "audio"] as const) {
    if (estimate?.[media] !== undefined) faults.push(`estimate.${media}: this estimate ${notBuilt}`);
  }
  const backends = [estimate, vllm, modelPath].filter((backend) => backend !== undefined);
  if (backends.length > 1) faults.push("estimate, vllm, modelPath: only one of them can make the tokens");
  if (vllm === undefined) return faults;
  if (vllm.endpointDiscovery !== undefined) faults.push(`vllm.endpointDiscovery: this ${notBuilt}; give a url`);
  if (vllm.prefillOnly === true) faults.push(`vllm.prefillOnly: this ${notBuilt}`);
  if (vllm.messagesRenderMode === "legacy") faults.push(`vllm.messagesRenderMode: legacy ${notBuilt}`);
  for (const key of ["url", "http"] as const) {
    const url = vllm[key];
    if (url !== undefined && !isHttpUrl(url)) faults.push(`vllm.${key}: should be an http:// or https:// URL`);
  }
  for (const key of ["timeout", "mmTimeout"] as const) {
    const text = vllm[key];
    const ms = text === undefined || text === "" ? 1 : parseDuration(text);
    if (ms === undefined || ms <= 0) faults.push(`vllm.${key}: should be a duration above 0, e.g. 5s`);
  }
  if ((vllm.clientCertPath === undefined) !== (vllm.clientKeyPath === undefined)) {
    faults.push("vllm.clientCertPath, vllm.clientKeyPath: one needs the other");
  }
  return faults;
}

function isHttpUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname } = new URL(text);
  return (protocol === "http:" || protocol === "https:") && hostname !== "";
}

const string = (description: string): JsonSchema => ({ type: "string", description });

export const tokenProducerSchema: JsonSchema = {
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
        audio: { type: "object", description: "Estimate of a sound's tokens (not built yet)." },
      },
    },
    vllm: {
      type: "object",
      additionalProperties: false,
      description: "Tokenize by an engine's render endpoints (vLLM), or its tokenize endpoint where it has none.",
      properties: {
        url: string(`Base URL; ${defaultRenderUrl} when unset.`),
        http: { ...string("Older name of url."), deprecated: true },
        timeout: string("Bound of one answer; 5s when unset."),
        mmTimeout: string("Bound where the prompt holds images and the like; 30s when unset."),
        maxResponseBytes: {
          type: "integer",
          minimum: 1,
          description: "Largest answer that is read; 16 MiB when unset.",
        },
        caCertPath: string("PEM bundle to trust in place of the system's."),
        clientCertPath: string("Client certificate; needs clientKeyPath."),
        clientKeyPath: string("Key of the client certificate."),
        insecureSkipVerify: { type: "boolean", description: "Accepts any server certificate." },
        messagesRenderMode: {
          enum: ["auto", "native", "legacy"],
          description: "How Anthropic messages are rendered: by the engine's own endpoint (legacy is not built yet).",
        },
        endpointDiscovery: { type: "object", description: "Takes the endpoints from discovery (not built yet)." },
        prefillOnly: { type: "boolean", description: "Renders with a one-token budget (not built yet)." },
      },
    },
    modelName: string("Selects the vllm backend at its default URL; the request's own model is what is rendered."),
    modelPath: string("Folder with tokenizer.json and tokenizer_config.json: tokenize in this process."),
    udsTokenizerConfig: {
      type: "object",
      deprecated: true,
      description: "Deprecated tokenizer socket (not built yet).",
    },
  },
};
