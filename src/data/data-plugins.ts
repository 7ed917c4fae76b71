/** The built-in plugins of the data layer that find and poll endpoints, for the plugin registry. */
import { fileDiscoveryPlugin } from "./discovery/file.ts";
import type { PluginDefinition } from "./plugin.ts";
import { coreMetricsExtractorPlugin } from "./scrape/core-metrics-extractor.ts";
import { metricsDataSourcePlugin, modelsDataSourcePlugin } from "./scrape/metrics-source.ts";
import { modelsDataExtractorPlugin } from "./scrape/models-extractor.ts";

export const dataPlugins: readonly PluginDefinition<never>[] = [
  fileDiscoveryPlugin,
  metricsDataSourcePlugin,
  coreMetricsExtractorPlugin,
  modelsDataSourcePlugin,
  modelsDataExtractorPlugin,
];
