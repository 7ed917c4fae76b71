/** The built-in plugins of the data layer that find and poll endpoints, for the plugin registry. */
import { dynamoDiscoveryDefinition } from "./discovery/dynamo/dynamo-discovery-plugin.ts";
import { endpointNotificationSourcePlugin } from "./discovery/endpoint-notification-source.ts";
import { fileDiscoveryPlugin } from "./discovery/file.ts";
import type { PluginDefinition } from "./plugin.ts";
import { coreMetricsExtractorPlugin } from "./scrape/core-metrics-extractor.ts";
import { metricsDataSourcePlugin, modelsDataSourcePlugin } from "./scrape/metrics-source.ts";
import { modelsDataExtractorPlugin } from "./scrape/models-extractor.ts";

export const dataPlugins: readonly PluginDefinition<never>[] = [
  fileDiscoveryPlugin,
  endpointNotificationSourcePlugin,
  dynamoDiscoveryDefinition,
  metricsDataSourcePlugin,
  coreMetricsExtractorPlugin,
  modelsDataSourcePlugin,
  modelsDataExtractorPlugin,
];
