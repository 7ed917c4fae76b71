/**
 * The picker as a pod has it: its own process, in-cluster addresses and account, and the rights of deploy/kubernetes/rbac.yaml and no others. The
 * account's folder is where a kubelet would mount it; the test may replace what is in it.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseAllDocuments } from "yaml";
import { type Child, type EppPorts, startEppChild } from "../../src/app/child.ts";
import { packageRoot } from "../../src/app/envoy.ts";
import type { ControlPlane } from "./control-plane.ts";

export const pickerAccount = "signalbox-epp";

interface Manifest {
  readonly apiVersion: string;
  readonly kind: "ServiceAccount" | "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding";
  readonly metadata: { readonly name: string };
  readonly roleRef?: object;
  readonly subjects?: readonly object[];
}

const plurals = {
  Role: "roles",
  RoleBinding: "rolebindings",
  ClusterRole: "clusterroles",
  ClusterRoleBinding: "clusterrolebindings",
} as const;

/** Applies the rules of deploy/kubernetes/rbac.yaml in a namespace and binds the account to these besides those that are bound there. */
export async function grantPickerRights(
  plane: ControlPlane,
  namespace: string,
  ...roles: readonly ("signalbox-epp-leader-election" | "signalbox-epp-peers")[]
): Promise<void> {
  const apply = (path: string, object: object) =>
    plane.api.request({
      method: "PATCH",
      path: `${path}?fieldManager=tests&force=true`,
      contentType: "application/apply-patch+yaml",
      body: JSON.stringify(object),
    });
  const rbac = "/apis/rbac.authorization.k8s.io/v1";
  const subjects = [{ kind: "ServiceAccount", name: pickerAccount, namespace }];
  const text = await readFile(join(packageRoot, "deploy/kubernetes/rbac.yaml"), "utf8");
  for (const document of parseAllDocuments(text)) {
    const manifest = document.toJS() as Manifest;
    const { kind } = manifest;
    if (kind === "ServiceAccount") {
      const { name } = manifest.metadata;
      await apply(`/api/v1/namespaces/${namespace}/serviceaccounts/${name}`, manifest);
      continue;
    }
    // Of the cluster there may be bindings for other namespaces.
    const name = kind === "ClusterRoleBinding" ? `${manifest.metadata.name}-${namespace}` : manifest.metadata.name;
    const scope = kind.startsWith("Cluster") ? rbac : `${rbac}/namespaces/${namespace}`;
    await apply(`${scope}/${plurals[kind]}/${name}`, {
      ...manifest,
      metadata: { ...manifest.metadata, name },
      ...(manifest.subjects === undefined ? {} : { subjects }),
    });
  }
  for (const name of roles) {
    await apply(`${rbac}/namespaces/${namespace}/rolebindings/${name}`, {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "RoleBinding",
      metadata: { name },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name },
      subjects,
    });
  }
}

export interface PickerPodOptions {
  readonly plane: ControlPlane;
  readonly namespace: string;
  readonly podName: string;
  /** Of the picker's account; see ControlPlane.accountFolder. */
  readonly account: string;
  /** Where the API server is for it; default: the control plane's own. */
  readonly apiPort?: number;
  readonly args: readonly string[];
}

export function startPickerPod(options: PickerPodOptions): Promise<Child<EppPorts>> {
  const { plane, namespace, podName, account, apiPort = plane.port, args } = options;
  return startEppChild(args, {
    environment: {
      POD_NAME: podName,
      NAMESPACE: namespace,
      KUBERNETES_SERVICE_HOST: "127.0.0.1",
      KUBERNETES_SERVICE_PORT: String(apiPort),
      SIGNALBOX_SERVICE_ACCOUNT_FOLDER: account,
      KUBECONFIG: "",
    },
  });
}

/** A value of the metrics port; undefined where there is no such sample. */
export async function sampleOf(
  { ready }: Pick<Child<EppPorts>, "ready">,
  sample: string,
  address = "127.0.0.1",
): Promise<number | undefined> {
  const page = await (await fetch(`http://${address}:${ready.metricsPort}/metrics`)).text();
  const line = page.split("\n").find((text) => text.startsWith(`${sample} `));
  return line === undefined ? undefined : Number(line.slice(sample.length + 1));
}
