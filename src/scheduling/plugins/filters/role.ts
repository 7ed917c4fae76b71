/** The label that says which stages of an inference an endpoint serves, and its values (reference: bylabel/roles.go). */
import type { Filter, PluginDefinition } from "../../contracts.ts";
import { ByLabelFilter } from "./by-label.ts";

const roleLabel = "llm-d.ai/role";

/** `both` is the reference's older word for prefill-decode. */
export type Role =
  | "prefill"
  | "decode"
  | "encode"
  | "prefill-decode"
  | "encode-prefill"
  | "encode-prefill-decode"
  | "both";

export function roleFilter(
  type: string,
  summary: string,
  roles: readonly Role[],
  allowsNoLabel: boolean,
): PluginDefinition<object, Filter> {
  return {
    type,
    kinds: ["filter"],
    summary,
    parameters: { type: "object", additionalProperties: false, properties: {} },
    create: () => new ByLabelFilter({ label: roleLabel, validValues: roles, allowsNoLabel }),
  };
}
