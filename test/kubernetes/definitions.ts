/**
 * Definitions of the kinds that tests use, as their projects publish them: YAML files out of Go modules, copied into the user's cache folder by
 * scripts/build-test-tools.ts. The kinds of llm-d.ai are those of the inference extension under another group, which is how they came to be.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import type { KubernetesApi } from "../../src/net/kubernetes/api-client.ts";
import { eventually } from "../stack.ts";
import { cacheFolder } from "./tools.ts";

interface Bundle {
  /** Folder in tools/. */
  readonly module: string;
  readonly dependency: string;
  /** Folder or file inside the dependency's module. */
  readonly source: string;
  /** Of a folder, the files taken; all that define a kind without it. */
  readonly files?: readonly string[];
  /** Definitions of this group are given the other. */
  readonly group?: { readonly from: string; readonly to: string };
}

const extension = "sigs.k8s.io/gateway-api-inference-extension";
const extensionKinds = ["inferenceobjectives", "inferencemodelrewrites"].map(
  (kind) => `inference.networking.x-k8s.io_${kind}.yaml`,
);

const table = {
  /** Gateway, HTTPRoute and what goes with them, standard channel. */
  "gateway-api": { module: "definitions", dependency: "sigs.k8s.io/gateway-api", source: "config/crd/standard" },
  /** InferencePool v1, InferencePoolImport. */
  "inference-extension": { module: "definitions", dependency: extension, source: "config/crd/bases" },
  /** InferenceObjective and InferenceModelRewrite v1alpha2 of inference.networking.x-k8s.io. */
  "inference-objectives": {
    module: "definitions-v1.5",
    dependency: extension,
    source: "config/crd/bases",
    files: extensionKinds,
  },
  /** The same kinds of llm-d.ai. */
  "llm-d-objectives": {
    module: "definitions-v1.5",
    dependency: extension,
    source: "config/crd/bases",
    files: extensionKinds,
    group: { from: "inference.networking.x-k8s.io", to: "llm-d.ai" },
  },
  /** InferencePool v1alpha2 of inference.networking.x-k8s.io. */
  "inference-pool-v1alpha2": {
    module: "definitions-v1.3",
    dependency: extension,
    source: "config/crd/bases",
    files: ["inference.networking.x-k8s.io_inferencepools.yaml"],
  },
  istio: { module: "istio", dependency: "istio.io/istio", source: "manifests/charts/base/files/crd-all.gen.yaml" },
  "envoy-gateway": {
    module: "envoy-gateway",
    dependency: "github.com/envoyproxy/gateway",
    source: "charts/gateway-helm/charts/crds/crds/generated",
  },
} as const satisfies Readonly<Record<string, Bundle>>;

export type BundleName = keyof typeof table;

export const bundles: Readonly<Record<BundleName, Bundle>> = table;

export const bundleNames = Object.keys(table) as readonly BundleName[];

export interface Definition {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly annotations?: Readonly<Record<string, string>> };
  readonly spec: {
    readonly group: string;
    readonly names: { readonly plural: string };
    readonly versions: readonly { readonly name: string; readonly served: boolean }[];
  };
}

/** Where the files of a bundle are kept: another go.sum or another choice of files is another place. */
export function bundleFolder(name: BundleName): string {
  const { module, dependency, source, files } = bundles[name];
  const choice = createHash("sha256")
    .update(JSON.stringify([dependency, source, files]))
    .digest("hex");
  return join(cacheFolder("definitions", module), `${name}-${choice.slice(0, 8)}`);
}

/** The custom resource definitions of the bundles; throws with what to do when they are not in the cache. */
export function readDefinitions(...names: readonly BundleName[]): readonly Definition[] {
  return names.flatMap((name) => {
    const folder = bundleFolder(name);
    if (!existsSync(folder)) throw new Error(`no definitions of ${name} at ${folder}: run \`make k8s-tools\``);
    return readdirSync(folder)
      .sort()
      .flatMap((file) => parseAllDocuments(renamed(name, readFileSync(join(folder, file), "utf8"))))
      .map((document) => document.toJS() as Definition | null)
      .filter((definition) => definition?.kind === "CustomResourceDefinition") as readonly Definition[];
  });
}

function renamed(name: BundleName, text: string): string {
  const { group } = bundles[name];
  return group === undefined ? text : text.replaceAll(group.from, group.to);
}

/** Resolves when objects of every served version can be listed: storage begins a moment after a kind is served, and answers 429 until then. */
export async function installDefinitions(
  api: Pick<KubernetesApi, "request">,
  ...names: readonly BundleName[]
): Promise<void> {
  const definitions = readDefinitions(...names);
  await Promise.all(
    definitions.map(async (definition) => {
      await api.request({
        method: "PATCH",
        path: `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${definition.metadata.name}?fieldManager=tests&force=true`,
        contentType: "application/apply-patch+yaml",
        body: JSON.stringify(definition),
        timeoutMs: 60_000,
      });
    }),
  );
  const lists = definitions.flatMap(({ spec }) =>
    spec.versions.filter(({ served }) => served).map(({ name }) => `/apis/${spec.group}/${name}/${spec.names.plural}`),
  );
  await Promise.all(
    lists.map((path) =>
      eventually(
        `${path} can be listed`,
        () =>
          api.request({ path }).then(
            () => true,
            () => false,
          ),
        60_000,
      ),
    ),
  );
}
