/**
 * Whose workers are looked at. A prefix takes in the namespaces of a rolling update, which are "<base>-<hash>" (Dynamo 1.6.1:
 * dynamo-runtime, src/namespace.rs).
 */

export type NamespaceFilter =
  | { readonly kind: "all" }
  | { readonly kind: "exact"; readonly namespace: string }
  | {
      readonly kind: "prefix";
      readonly prefix: string;
      /** Only the base itself, "<base>-legacy" and "<base>-<8 hex digits>": "ns" does not take in "ns-other". */
      readonly isStrict: boolean;
    };

/** Dynamo's name for "no namespace in particular". */
const globalNamespace = "dynamo";

/** DYN_NAMESPACE_PREFIX goes before DYN_NAMESPACE; DYN_NAMESPACE_PREFIX_STRICT. */
export function namespaceFilterFromEnvironment(env: Readonly<Record<string, string | undefined>>): NamespaceFilter {
  const prefix = env["DYN_NAMESPACE_PREFIX"];
  const namespace = prefix ?? env["DYN_NAMESPACE"];
  if (namespace === undefined || namespace === "" || namespace === globalNamespace) return { kind: "all" };
  if (prefix === undefined) return { kind: "exact", namespace };
  return { kind: "prefix", prefix, isStrict: isTruthy(env["DYN_NAMESPACE_PREFIX_STRICT"]) };
}

export function matchesNamespace(filter: NamespaceFilter, namespace: string): boolean {
  switch (filter.kind) {
    case "all":
      return true;
    case "exact":
      return namespace === filter.namespace;
    case "prefix": {
      if (!namespace.startsWith(filter.prefix)) return false;
      const rest = namespace.slice(filter.prefix.length);
      return !filter.isStrict || rest === "" || rest === "-legacy" || /^-[0-9a-f]{8}$/.test(rest);
    }
    default: {
      const never: never = filter;
      return never;
    }
  }
}

function isTruthy(value: string | undefined): boolean {
  return value !== undefined && ["1", "true", "yes", "on"].includes(value.trim().toLowerCase());
}
