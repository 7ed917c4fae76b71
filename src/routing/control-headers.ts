/**
 * Request headers that steer routing, each under its name and its older alias. The name wins by presence: an empty header under the new
 * name hides a filled one under the alias, as in the reference.
 */
import type { HeaderLookup } from "../request/inference-request.ts";

export interface ControlHeader {
  readonly name: string;
  readonly alias: string;
}

export const objectiveHeader: ControlHeader = {
  name: "x-llm-d-inference-objective",
  alias: "x-gateway-inference-objective",
};
export const fairnessHeader: ControlHeader = {
  name: "x-llm-d-inference-fairness-id",
  alias: "x-gateway-inference-fairness-id",
};
export const rewriteHeader: ControlHeader = {
  name: "x-llm-d-model-name-rewrite",
  alias: "x-gateway-model-name-rewrite",
};

/** Undefined when neither name is present. */
export function controlHeader(headers: HeaderLookup, header: ControlHeader): string | undefined {
  return headers.get(header.name) ?? headers.get(header.alias);
}
