/**
 * Two pools in one store: the one that requests come for, and the one whose pods compute prompts for it, under a source of their own and with the label
 * that says so. A pod of both computes prompts.
 */
import { type EndpointName, endpointName } from "../../endpoint.ts";
import type { EndpointSpec, EndpointWriter } from "../../endpoint-store.ts";

/** As the filters of prefill and decode profiles read it. */
const prefillLabel = { name: "llm-d.ai/role", value: "prefill" } as const;

const prefillSource = "kubernetes-prefill";

export interface PoolWriters {
  readonly main: EndpointWriter;
  readonly prefill: EndpointWriter;
}

export function poolWriters(store: EndpointWriter): PoolWriters {
  /** What the main pool says, whether it is shown or not. */
  const own = new Map<EndpointName, readonly [source: string, spec: EndpointSpec]>();
  const taken = new Set<EndpointName>();
  const take = (spec: EndpointSpec): EndpointSpec => {
    taken.add(nameOf(spec));
    return { ...spec, labels: new Map(spec.labels).set(prefillLabel.name, prefillLabel.value) };
  };
  const giveBack = (names: readonly EndpointName[]): void => {
    for (const name of names) {
      const known = own.get(name);
      if (known !== undefined) store.upsert(...known);
    }
  };
  return {
    main: {
      replaceAll(source, specs) {
        own.clear();
        for (const spec of specs) own.set(nameOf(spec), [source, spec]);
        store.replaceAll(
          source,
          specs.filter((spec) => !taken.has(nameOf(spec))),
        );
      },
      upsert(source, spec) {
        own.set(nameOf(spec), [source, spec]);
        if (!taken.has(nameOf(spec))) store.upsert(source, spec);
      },
      remove(source, name) {
        own.delete(name);
        store.remove(source, name);
      },
      markSynced: () => store.markSynced(),
    },
    prefill: {
      replaceAll(_source, specs) {
        const before = [...taken];
        taken.clear();
        store.replaceAll(prefillSource, specs.map(take));
        giveBack(before.filter((name) => !taken.has(name)));
      },
      upsert: (_source, spec) => store.upsert(prefillSource, take(spec)),
      remove(_source, name) {
        taken.delete(name);
        store.remove(prefillSource, name);
        giveBack([name]);
      },
      // Whether the store is synced is the main pool's to say.
      markSynced: () => {},
    },
  };
}

function nameOf({ namespace, name }: EndpointSpec): EndpointName {
  return endpointName(namespace, name);
}
