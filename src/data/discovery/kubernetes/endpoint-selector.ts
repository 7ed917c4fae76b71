/**
 * `--endpoint-selector`: a label selector in Kubernetes' own syntax (equality, sets, existence) in place of an InferencePool. It goes to the API
 * server as it is, which does the selecting; what that would refuse for ever is found before the start (k8s.io/apimachinery, pkg/labels).
 */
import type { InferencePool } from "./inference-pool.ts";

/** As many as a pool object may have. */
export const maxTargetPorts = 8;

export function selectorPool(selector: string, targetPorts: readonly number[]): InferencePool {
  return { selector, targetPorts: [...new Set(targetPorts)], appProtocol: undefined };
}

const name = "[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?";
const prefix = "[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?(?:\\.[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)*";
const key = `(?:${prefix}/)?${name}`;
const value = `(?:${name})?`;
const requirement = new RegExp(
  `^(?:!\\s*${key}|${key}|${key}\\s*(?:==?|!=)\\s*${value}|${key}\\s*[<>]\\s*\\d+|${key}\\s+(?:in|notin)\\s*\\(\\s*${value}(?:\\s*,\\s*${value})*\\s*\\))$`,
);

/** The requirement that is none; undefined for a selector that the API server takes. */
export function faultyRequirement(selector: string): string | undefined {
  return requirementsOf(selector).find((text) => !requirement.test(text));
}

/** By the commas outside parentheses. */
function requirementsOf(selector: string): readonly string[] {
  const parts: string[] = [];
  let from = 0;
  let depth = 0;
  for (let index = 0; index < selector.length; index++) {
    const character = selector[index];
    if (character === "(") depth++;
    else if (character === ")") depth--;
    else if (character === "," && depth <= 0) {
      parts.push(selector.slice(from, index).trim());
      from = index + 1;
    }
  }
  return [...parts, selector.slice(from).trim()];
}
