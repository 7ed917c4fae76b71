/**
 * The reference's way to tell plugins of endpoints that come and go. Here a plugin that needs it listens to the endpoint store by itself, so the
 * source is accepted, may name such plugins, and is never polled.
 */
import type { PluginDefinition } from "../plugin.ts";
import type { DataSource } from "../scrape/source.ts";

export const endpointNotificationSourceType = "endpoint-notification-source";

export const endpointNotificationSourcePlugin: PluginDefinition<Record<string, never>, DataSource> = {
  type: endpointNotificationSourceType,
  kinds: ["data-source"],
  summary: "Accepted, without an effect: plugins hear of endpoints that come and go in any case.",
  parameters: { type: "object", additionalProperties: false, properties: {} },
  create: () => ({
    sourceType: endpointNotificationSourceType,
    intervalMs: Number.POSITIVE_INFINITY,
    target: () => {
      throw new Error("an endpoint-notification-source is not polled");
    },
  }),
};
