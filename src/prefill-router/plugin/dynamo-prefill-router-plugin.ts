/** The plugin definition of `dynamo-prefill-router`: its parameters, and what it builds from them and from Dynamo's environment variables. */
import type { DynamoWorkers } from "../../data/discovery/dynamo/dynamo-discovery.ts";
import { dynamoDiscoveryType } from "../../data/discovery/dynamo/dynamo-discovery-plugin.ts";
import { createClusterPeers } from "../../data/peers/cluster-peers.ts";
import { createListedPeers, type PeerName, parsePeer } from "../../data/peers/peer-addresses.ts";
import { createTokenBackend } from "../../data/producers/token-producer.ts";
import { isTruthy } from "../../dynamo/variables.ts";
import type { PluginContext, PluginDefinition } from "../../scheduling/contracts.ts";
import { type FleetSettings, readFleetSettings, readSettingsWithoutDiscovery } from "../fleet/fleet-settings.ts";
import { settingSchemas } from "../settings/parameters.ts";
import { EndpointRoutes, type EnginePeers } from "../standalone/endpoint-routes.ts";
import {
  type EngineParameters,
  engineFaults,
  engineSchema,
  type PeerParameters,
} from "../standalone/engine-parameters.ts";
import { DynamoPrefillRouter } from "./dynamo-prefill-router.ts";
import { FleetRoutes } from "./fleet-routes.ts";
import { InflightLimit } from "./inflight-limit.ts";
import { relay } from "./plan-watcher.ts";

export const dynamoPrefillRouterType = "dynamo-prefill-router";

export interface DynamoPrefillRouterParameters {
  readonly workers: "dynamo" | "endpoints";
  readonly engines?: EngineParameters;
  readonly maxInflightRequests?: number;
  readonly discovery: string;
  readonly injectTokens: boolean;
  readonly legacyHeaders?: boolean;
  readonly overloadStatus?: number;
  readonly tokenizerTimeoutMs: number;
  readonly decodeProfile: string;
  readonly prefillProfile: string;
}

/** Parameters that are not the router's own settings. */
const ownParameters = {
  workers: {
    enum: ["dynamo", "endpoints"],
    default: "dynamo",
    description:
      "Who serves: workers that Dynamo registers, behind their frontends, or the endpoints themselves, engines without Dynamo that publish KV events (vLLM).",
  },
  engines: engineSchema,
  maxInflightRequests: {
    type: "integer",
    minimum: 1,
    description:
      "Requests that are planned or being answered at once; the next is refused with 503. Default: no bound, with workers: endpoints 1024.",
  },
  discovery: {
    type: "string",
    default: dynamoDiscoveryType,
    description: "Name of the dynamo-discovery that tells the workers.",
  },
  injectTokens: {
    type: "boolean",
    default: true,
    description:
      "Send the prompt's token ids along (nvext.token_data) where they may stand in for it, so that the frontend need not tokenize again.",
  },
  legacyHeaders: {
    type: "boolean",
    description: "Also send the headers that frontends before 1.2 read. Default: --dynamo-legacy-headers.",
  },
  overloadStatus: {
    type: "integer",
    minimum: 400,
    maximum: 599,
    description: "Status of a refusal for overload. Default: DYN_HTTP_OVERLOAD_STATUS_CODE, else 429.",
  },
  tokenizerTimeoutMs: {
    type: "integer",
    minimum: 1,
    default: 5000,
    description: "A prompt that is not tokenized in this time is refused with 504.",
  },
  decodeProfile: {
    type: "string",
    default: "decode",
    description: "Profile whose filters restrict decode workers. The only profile, where none is called so.",
  },
  prefillProfile: {
    type: "string",
    default: "prefill",
    description: "Profile whose filters restrict prefill workers, where endpoints stand for prefill workers.",
  },
} as const;

export const dynamoPrefillRouterDefinition: PluginDefinition<DynamoPrefillRouterParameters, DynamoPrefillRouter> = {
  type: dynamoPrefillRouterType,
  kinds: ["profile-handler"],
  summary:
    "Dynamo's PrefillRouter: plans which prefill and which decode worker serve a request, keeps their books, and binds the request to them by headers.",
  parameters: {
    type: "object",
    additionalProperties: false,
    properties: { ...ownParameters, ...withoutDefaults(settingSchemas()) },
  },
  needs: [dynamoDiscoveryType],
  readsFromNeeds: ({ workers }) => workers === "dynamo",
  validate: ({ workers, engines }) => engineFaults(workers, engines),
  create: (parameters, context) =>
    parameters.engines === undefined
      ? createRouter(parameters, context)
      : createOver(parameters.engines, parameters, context),
};

/** What is not given comes from the environment, so a schema's default must not fill it in. */
function withoutDefaults(schemas: ReturnType<typeof settingSchemas>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(schemas).map(([name, { default: value, description, ...schema }]) => [
      name,
      {
        ...schema,
        description: value === undefined ? description : `${String(description)} Default: ${JSON.stringify(value)}.`,
      },
    ]),
  );
}

function createRouter(parameters: DynamoPrefillRouterParameters, context: PluginContext): DynamoPrefillRouter {
  const environment = context.environment ?? {};
  const settings = readSettings(parameters, context, readFleetSettings);
  const routes = new FleetRoutes();
  const begin = (): void => {
    const workers = context.plugin(parameters.discovery) as DynamoWorkers | undefined;
    if (workers === undefined) {
      throw new Error(`discovery: no plugin is named ${JSON.stringify(parameters.discovery)}`);
    }
    routes.begin(
      async () => {
        // Tokenizers, wires and routers are loaded only where there are Dynamo workers.
        const { Fleet } = await import("../fleet/fleet.ts");
        return new Fleet({
          workers,
          settings,
          isDisaggEnforced: workers.isDisaggEnforced,
          environment,
          tokenizerTimeoutMs: parameters.tokenizerTimeoutMs,
          log: context.log,
          now: () => context.now(),
          random: () => context.random(),
          observersOf: (set) => [relay(set, () => router.watcher)],
        });
      },
      context.endpoints,
      context.log,
    );
  };
  const router = new DynamoPrefillRouter({
    ...sharedInit(parameters, context),
    routes,
    begin,
    binding: {
      sendsLegacyHeaders: parameters.legacyHeaders ?? isTruthy(environment["DYN_EPP_LEGACY_HEADERS"]),
      injectsTokens: parameters.injectTokens,
    },
    inflight: new InflightLimit(parameters.maxInflightRequests ?? Number.POSITIVE_INFINITY),
  });
  return router;
}

/** Over the endpoints themselves. */
function createOver(
  engines: EngineParameters,
  parameters: DynamoPrefillRouterParameters,
  context: PluginContext,
): DynamoPrefillRouter {
  const { vllm, modelPath } = engines.tokens ?? {};
  const settings = readSettings(parameters, context, readSettingsWithoutDiscovery);
  const routes = new EndpointRoutes({
    endpoints: context.endpoints,
    engines,
    settings,
    tokenizer:
      vllm === undefined && modelPath === undefined
        ? undefined
        : createTokenBackend({ ...engines.tokens, modelName: engines.modelName }, context),
    peers: engines.peers === undefined ? undefined : peersOf(engines.peers, context),
    log: context.log,
    now: () => context.now(),
    random: () => context.random(),
    observersOf: (set) => [relay(set, () => router.watcher)],
  });
  const router: DynamoPrefillRouter = new DynamoPrefillRouter({
    ...sharedInit(parameters, context),
    routes,
    begin: () => routes.begin(),
    binding: undefined,
    inflight: new InflightLimit(parameters.maxInflightRequests ?? defaultMaxInflight),
  });
  return router;
}

/** Throws where a Service is named and nothing says how to reach an API server. */
function peersOf(parameters: PeerParameters, context: PluginContext): EnginePeers {
  const { service, addresses = [], port, indexPort, indexUrls: urls } = parameters;
  const { environment = {}, log } = context;
  const index = indexPort === undefined ? undefined : { port: indexPort, urls };
  if (service === undefined) {
    const names = addresses.map((text) => parsePeer(text, port)).filter((peer): peer is PeerName => "host" in peer);
    return { source: createListedPeers({ names }), port, index };
  }
  const namespace = environment["POD_NAMESPACE"] ?? environment["NAMESPACE"] ?? "default";
  const podIp = environment["POD_IP"];
  return { source: createClusterPeers({ namespace, service, port, podIp, environment, log }), port, index };
}

/** Dynamo's. */
const defaultMaxInflight = 1024;

function sharedInit(parameters: DynamoPrefillRouterParameters, context: PluginContext) {
  const { decodeProfile, prefillProfile, overloadStatus } = parameters;
  return {
    now: () => context.now(),
    profiles: { decode: decodeProfile, prefill: prefillProfile },
    log: context.log,
    overloadStatus: overloadStatus ?? overloadStatusOf(context.environment?.["DYN_HTTP_OVERLOAD_STATUS_CODE"]),
  };
}

/** Throws with every fault, which makes each a fault of the configuration. */
function readSettings(
  parameters: DynamoPrefillRouterParameters,
  context: PluginContext,
  read: typeof readFleetSettings,
): FleetSettings {
  const own = new Set(Object.keys(ownParameters));
  const rest = Object.fromEntries(Object.entries(parameters).filter(([name]) => !own.has(name)));
  const { settings, warnings, faults } = read(context.environment ?? {}, rest);
  if (faults.length > 0) throw new Error(faults.join("; "));
  for (const warning of warnings) context.log.warn({ plugin: context.name }, warning);
  return settings;
}

/** As Dynamo's frontend: what is no final status counts as unset. */
function overloadStatusOf(text: string | undefined): number | undefined {
  const status = text !== undefined && /^\d{3}$/.test(text) ? Number(text) : 0;
  return status >= 200 ? status : undefined;
}
