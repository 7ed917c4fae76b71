/** A configuration as written, once its schema holds: names and references are still unchecked, defaults not filled in. */

export interface RawReference {
  pluginRef: string;
}

export interface RawPlugin {
  name?: string;
  type: string;
  parameters?: Record<string, unknown>;
  module?: string;
}

export interface RawProfile {
  name: string;
  plugins?: { pluginRef: string; weight?: number }[];
}

export interface RawBand {
  priority?: number;
  fairnessPolicyRef?: string;
  orderingPolicyRef?: string;
}

export interface RawDataLayer {
  injectDefaults?: boolean;
  sources?: { pluginRef: string; extractors?: RawReference[] }[];
  discovery?: RawReference;
  peerDiscovery?: RawReference;
  crossReplicaSyncerPluginRef?: string;
  crossReplicaSyncInterval?: string;
}

export interface RawFlowControl {
  saturationDetector?: Partial<RawReference>;
  defaultPriorityBand?: RawBand;
  defaultNegativePriorityBand?: RawBand;
  priorityBands?: RawBand[];
  usageLimitPolicyPluginRef?: string;
}

export interface RawConfig {
  apiVersion?: string;
  kind?: string;
  featureGates?: string[];
  plugins?: RawPlugin[];
  schedulingProfiles?: RawProfile[];
  dataLayer?: RawDataLayer;
  flowControl?: RawFlowControl;
  requestHandler?: { parsers?: RawReference[] };
  saturationDetector?: Partial<RawReference>;
  parser?: RawReference;
}

/** What loading finds on its way: faults refuse the configuration, warnings are logged. */
export interface Findings {
  readonly faults: string[];
  readonly warnings: string[];
}
