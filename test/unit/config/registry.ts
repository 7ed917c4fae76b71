/** What the configuration tests share: the real registry, and a load that returns its faults. */
import { createPluginRegistry } from "../../../src/app/plugins.ts";
import { type CompleteConfig, ConfigError } from "../../../src/config/complete-config.ts";
import { loadConfig } from "../../../src/config/load.ts";

export const registry = createPluginRegistry();

export function load(text: string | undefined, folder = "/"): Promise<CompleteConfig> {
  return loadConfig(text, { registry, folder, source: "test.yaml" });
}

/** [] for a configuration that loads. */
export async function faultsOf(text: string, folder?: string): Promise<readonly string[]> {
  try {
    await load(text, folder);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.faults;
    throw error;
  }
}

export const head = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";
