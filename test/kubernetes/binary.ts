/** Where the tests' kube-apiserver is: KUBE_APISERVER=, else the user's cache folder under the hash of the go.sum that pins it. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

export const apiServerModule = join(import.meta.dirname, "apiserver");

/** As go.mod requires it. */
export const kubernetesVersion = versionOf(readFileSync(join(apiServerModule, "go.mod"), "utf8"));

export function apiServerBinary(): string {
  const named = process.env["KUBE_APISERVER"];
  if (named !== undefined && named !== "") return named;
  const cache = process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache");
  const sum = createHash("sha256")
    .update(readFileSync(join(apiServerModule, "go.sum")))
    .digest("hex");
  return join(cache, "signalbox/kube-apiserver", sum.slice(0, 16), "kube-apiserver");
}

export function isApiServerBuilt(): boolean {
  return existsSync(apiServerBinary());
}

function versionOf(goMod: string): string {
  const version = /^\s*(?:require\s+)?k8s\.io\/kubernetes (v\S+)/m.exec(goMod)?.[1];
  if (version === undefined) throw new Error("go.mod does not name a Kubernetes version");
  return version;
}
