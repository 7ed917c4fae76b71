/** The parameters of a router whose workers are the endpoints themselves, raw engines: what Dynamo's model cards would say of them. */
import { parseLabelSelector } from "../../data/kv-events/label-selector.ts";
import { parsePeer } from "../../data/peers/peer-addresses.ts";
import {
  type TokenProducerParameters,
  tokenFaults,
  tokenProducerSchema,
} from "../../data/producers/token-parameters.ts";
import { maxBlockTokens } from "../../tokens/block-hash.ts";

export interface EngineParameters {
  readonly modelName: string;
  readonly blockSizeTokens: number;
  readonly kvEventPort: number;
  readonly kvEventReplayPort?: number;
  readonly totalKvBlocks?: number;
  readonly maxNumBatchedTokens?: number;
  readonly prefillSelector?: string;
  readonly tokens?: Pick<TokenProducerParameters, "vllm" | "modelPath">;
  readonly peers?: PeerParameters;
}

/** The other pickers of the same engines: those behind a Service, or those of a list. */
export interface PeerParameters {
  readonly service?: string;
  readonly addresses?: readonly string[];
  readonly port: number;
  readonly indexPort?: number;
  readonly indexUrls?: readonly string[];
}

const port = { type: "integer", minimum: 1, maximum: 65_535 };
const { vllm, modelPath } = tokenProducerSchema["properties"] as Readonly<Record<"vllm" | "modelPath", object>>;

export const engineSchema = {
  type: "object",
  additionalProperties: false,
  required: ["blockSizeTokens"],
  description: "With workers: endpoints, what the engines are.",
  properties: {
    modelName: { type: "string", default: "", description: "Name in metrics." },
    blockSizeTokens: {
      type: "integer",
      minimum: 1,
      maximum: maxBlockTokens,
      description: "Tokens of a KV block; events of other blocks are left out.",
    },
    kvEventPort: {
      ...port,
      default: 5557,
      description:
        "Port of each endpoint's KV events. The label signalbox/kv-events-port of an endpoint goes before it.",
    },
    kvEventReplayPort: {
      ...port,
      description:
        "Port where each endpoint is asked for events that were missed. The label signalbox/kv-replay-port of an endpoint goes before it.",
    },
    totalKvBlocks: { type: "integer", minimum: 1, description: "KV blocks of a rank. Default: its engine's metrics." },
    maxNumBatchedTokens: {
      type: "integer",
      minimum: 1,
      description: "Prompt tokens an engine computes at once; a queue threshold is a share of them.",
    },
    prefillSelector: {
      type: "string",
      minLength: 1,
      description:
        "Label selector of the endpoints that compute prompts for the others. A request goes to one of the others, with the header x-prefiller-host-port for the sidecar there; without a prefill server that can be chosen it is served where it goes. Default: every endpoint does both.",
    },
    tokens: {
      type: "object",
      additionalProperties: false,
      description: "What makes the tokens of prompts; without, requests are routed by load alone.",
      properties: { vllm, modelPath },
    },
    peers: {
      type: "object",
      additionalProperties: false,
      description:
        "The other pickers of these engines, Dynamo's own among them: each sees what the others have running, over ZeroMQ, in the clear.",
      properties: {
        service: {
          type: "string",
          minLength: 1,
          description: "The Service, in the pool's namespace, that they stand behind.",
        },
        addresses: {
          type: "array",
          items: { type: "string" },
          description: "Instead of a Service: addresses or names, host or host:port.",
        },
        port: { ...port, default: 9092, description: "Port that each of them binds." },
        indexPort: {
          ...port,
          description:
            "Port where each of them gives its index to those that start (GET /dump, in the clear). Default: an index begins with what the engines say.",
        },
        indexUrls: {
          type: "array",
          items: { type: "string", pattern: "^https?://[^/]" },
          description: "HTTP URLs to ask for an index at the start. Default: the others, at indexPort.",
        },
      },
    },
  },
} as const;

export function engineFaults(
  workers: "dynamo" | "endpoints",
  engines: EngineParameters | undefined,
): readonly string[] {
  if (workers === "endpoints" && engines === undefined) return ["engines: is needed where workers are endpoints"];
  if (workers === "dynamo" && engines !== undefined) return ["engines: needs workers: endpoints"];
  const selector = engines?.prefillSelector;
  return [
    ...(selector === undefined || parseLabelSelector(selector) !== undefined
      ? []
      : [`engines.prefillSelector: ${JSON.stringify(selector)} is no label selector`]),
    ...tokenFaults(engines?.tokens ?? {}).map((fault) => `engines.tokens.${fault}`),
    ...peerFaults(engines?.peers).map((fault) => `engines.peers${fault}`),
  ];
}

function peerFaults(peers: PeerParameters | undefined): readonly string[] {
  if (peers === undefined) return [];
  const { service, addresses, port, indexPort, indexUrls } = peers;
  if (indexUrls !== undefined && indexPort === undefined) return [".indexUrls: needs indexPort"];
  if (indexPort === port) return [".indexPort: must not be port"];
  if ((service === undefined) === (addresses === undefined)) return [": service or addresses is needed, and not both"];
  return (addresses ?? []).flatMap((text) => {
    const parsed = parsePeer(text, port);
    return "fault" in parsed ? [`.addresses: ${parsed.fault}`] : [];
  });
}
