/**
 * The programs that the Kubernetes tests start, each pinned by a go.mod and go.sum in tools/ and built once into the user's cache folder under the
 * hash of that go.sum (scripts/build-test-tools.ts). An environment variable per tool names another binary instead.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

export interface Tool {
  /** Folder in tools/. */
  readonly module: string;
  readonly package: string;
  /** A package of tests, compiled to a program. */
  readonly isTest?: boolean;
  /** Kubernetes' own programs are stamped with their release; some refuse to start without. */
  readonly isStamped?: boolean;
  readonly environment: string;
  /** Minutes on two cores with nothing built before. */
  readonly minutes: number;
}

const table = {
  "kube-apiserver": {
    module: "kube-apiserver",
    package: "k8s.io/kubernetes/cmd/kube-apiserver",
    isStamped: true,
    environment: "KUBE_APISERVER",
    minutes: 7,
  },
  "kube-controller-manager": {
    module: "kube-controller-manager",
    package: "k8s.io/kubernetes/cmd/kube-controller-manager",
    isStamped: true,
    environment: "KUBE_CONTROLLER_MANAGER",
    minutes: 2,
  },
  helm: { module: "helm", package: "helm.sh/helm/v4/cmd/helm", environment: "HELM", minutes: 4 },
  kubeconform: {
    module: "kubeconform",
    package: "github.com/yannh/kubeconform/cmd/kubeconform",
    environment: "KUBECONFORM",
    minutes: 1,
  },
  kustomize: {
    module: "kustomize",
    package: "sigs.k8s.io/kustomize/kustomize/v5",
    environment: "KUSTOMIZE",
    minutes: 1,
  },
  dockerfile: { module: "dockerfile", package: ".", environment: "DOCKERFILE_PARSER", minutes: 1 },
  "gie-conformance": {
    module: "conformance",
    package: ".",
    isTest: true,
    environment: "GIE_CONFORMANCE",
    minutes: 3,
  },
  "echo-basic": {
    module: "conformance",
    package: "sigs.k8s.io/gateway-api/conformance/echo-basic",
    environment: "ECHO_BASIC",
    minutes: 1,
  },
  "pilot-discovery": {
    module: "istio",
    package: "istio.io/istio/pilot/cmd/pilot-discovery",
    environment: "PILOT_DISCOVERY",
    minutes: 4,
  },
  "envoy-gateway": {
    module: "envoy-gateway",
    package: "github.com/envoyproxy/gateway/cmd/envoy-gateway",
    environment: "ENVOY_GATEWAY",
    minutes: 4,
  },
} as const satisfies Readonly<Record<string, Tool>>;

export type ToolName = keyof typeof table;

export const tools: Readonly<Record<ToolName, Tool>> = table;

export const toolNames = Object.keys(table) as readonly ToolName[];

/** The folder of a module's go.mod. */
export function moduleFolder(module: string): string {
  return join(import.meta.dirname, "tools", module);
}

/** Where what is made of a module is kept: another go.sum is another place. */
export function cacheFolder(name: string, module: string): string {
  const configured = process.env["XDG_CACHE_HOME"];
  const cache = configured === undefined || configured === "" ? join(homedir(), ".cache") : configured;
  const sum = createHash("sha256")
    .update(readFileSync(join(moduleFolder(module), "go.sum")))
    .digest("hex");
  return join(cache, "signalbox", name, sum.slice(0, 16));
}

/** Where the tool is, or will be when it is built. */
export function toolPath(name: ToolName): string {
  const { environment, module } = tools[name];
  const named = process.env[environment];
  return named === undefined || named === "" ? join(cacheFolder(name, module), name) : named;
}

/** Of a tool that a test is about to start: throws with what to do when it is not there. */
export function toolBinary(name: ToolName): string {
  const path = toolPath(name);
  if (existsSync(path)) return path;
  throw new Error(`no ${name} at ${path}: run \`make k8s-tools\`, or name its binary in ${tools[name].environment}=`);
}

/** As the module's go.mod requires it. */
export function requiredVersion(module: string, dependency: string): string {
  const goMod = readFileSync(join(moduleFolder(module), "go.mod"), "utf8");
  const line = goMod.split("\n").find((text) => text.replace(/^(require)?\s+/, "").startsWith(`${dependency} v`));
  const version = line?.match(/ (v\S+)/)?.[1];
  if (version === undefined) throw new Error(`go.mod of ${module} does not name a version of ${dependency}`);
  return version;
}
