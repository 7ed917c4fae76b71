/**
 * How the endpoint-attribute filter and scorer name and read a numeric attribute. The core metrics extractor publishes under the bare name;
 * any other producer under "name/producer".
 */
import type { Endpoint } from "../../contracts.ts";

export const producerParameter = {
  type: "string",
  "x-plugin": true,
  description:
    "Plugin that publishes the attribute. Unset: the core metrics extractor; empty: an attribute that names no producer.",
} as const;

const coreExtractor = "core-metrics-extractor";

export function attributeName(attribute: string, producer: string | undefined): string {
  return producer === undefined || producer === "" || producer === coreExtractor
    ? attribute
    : `${attribute}/${producer}`;
}

/** The attribute and its producer were once one string; guessing would read nothing, silently. */
export function namingFaults(parameter: string, attribute: string, producer: string | undefined): string[] {
  const slash = attribute.lastIndexOf("/");
  if (producer !== undefined || slash === -1) return [];
  return [
    `${parameter}: ${JSON.stringify(attribute)} contains "/" and no producer is set; give ${parameter} ${JSON.stringify(
      attribute.slice(0, slash),
    )} and producer ${JSON.stringify(attribute.slice(slash + 1))}, or set producer to "" if the name really contains "/"`,
  ];
}

/** Undefined where the endpoint lacks the attribute or it is no number. */
export function numberAt(endpoint: Endpoint, name: string): number | undefined {
  const value = endpoint.attributes.get(name);
  return typeof value === "number" && !Number.isNaN(value) ? value : undefined;
}
