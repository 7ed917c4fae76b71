/** The plugin definition of `dynamo-discovery`. */
import type { PluginDefinition } from "../../plugin.ts";
import { DynamoWorkers } from "./dynamo-discovery.ts";
import { type DynamoDiscoveryParameters, dynamoDiscoverySchema } from "./dynamo-discovery-parameters.ts";
import { frontendMapFaults } from "./frontend-map.ts";

export const dynamoDiscoveryType = "dynamo-discovery";

export const dynamoDiscoveryDefinition: PluginDefinition<DynamoDiscoveryParameters, DynamoWorkers> = {
  type: dynamoDiscoveryType,
  kinds: ["discovery"],
  summary:
    "Follows the workers that Dynamo registers in files, in etcd or in Kubernetes; each that serves requests is an endpoint, its frontend.",
  parameters: dynamoDiscoverySchema,
  validate: frontendMapFaults,
  create: (parameters, context) => new DynamoWorkers(parameters, context),
};
