/** The parameters of a router whose workers are the endpoints themselves, raw engines: what Dynamo's model cards would say of them. */
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
  readonly tokens?: Pick<TokenProducerParameters, "vllm" | "modelPath">;
  readonly peers?: PeerParameters;
}

/** The other pickers of the same engines: those behind a Service, or those of a list. */
export interface PeerParameters {
  readonly service?: string;
  readonly addresses?: readonly string[];
  readonly port: number;
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
  return [
    ...tokenFaults(engines?.tokens ?? {}).map((fault) => `engines.tokens.${fault}`),
    ...peerFaults(engines?.peers).map((fault) => `engines.peers${fault}`),
  ];
}

function peerFaults(peers: PeerParameters | undefined): readonly string[] {
  if (peers === undefined) return [];
  const { service, addresses, port } = peers;
  if ((service === undefined) === (addresses === undefined)) return [": service or addresses is needed, and not both"];
  return (addresses ?? []).flatMap((text) => {
    const parsed = parsePeer(text, port);
    return "fault" in parsed ? [`.addresses: ${parsed.fault}`] : [];
  });
}
