/**
 * The pods of a second pool in the store of the first, which they compute prompts for: under a source of their own, with the label that says so. The
 * selectors of the two pools must not overlap.
 */
import type { EndpointSpec, EndpointWriter } from "../../endpoint-store.ts";

/** As the filters of prefill and decode profiles read it. */
export const prefillLabel = { name: "llm-d.ai/role", value: "prefill" } as const;

const source = "kubernetes-prefill";

/** Whether the store is synced is the first pool's to say. */
export function prefillEndpoints(store: EndpointWriter): EndpointWriter {
  const labelled = (spec: EndpointSpec): EndpointSpec => ({
    ...spec,
    labels: new Map(spec.labels).set(prefillLabel.name, prefillLabel.value),
  });
  return {
    replaceAll: (_source, specs) => store.replaceAll(source, specs.map(labelled)),
    upsert: (_source, spec) => store.upsert(source, labelled(spec)),
    remove: (_source, name) => store.remove(source, name),
    markSynced: () => {},
  };
}
