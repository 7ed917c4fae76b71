/**
 * The picker's own place among the workers' records in Kubernetes: the metadata object of its pod, found by the others once the pod is ready in
 * a slice of Dynamo's discovery. The object goes with the registration, or with the pod.
 */
import { createKubernetesRegistration } from "../../../dynamo/discovery/kubernetes/kubernetes-registration.ts";
import { kubernetesSettings, podInfo } from "../../../dynamo/discovery/kubernetes/kubernetes-settings.ts";
import type { DynamoRegistration } from "../../../dynamo/discovery/registration.ts";
import { createKubernetesApi } from "../../../net/kubernetes/api-client.ts";
import { findCredentials } from "../../../net/kubernetes/credentials.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** Throws where the environment does not say which pod this is: POD_NAME and POD_UID, or their files of the downward API. */
export function createPodRegistration(
  environment: Environment,
  kubernetesNamespace: string | undefined,
): DynamoRegistration {
  const credentials = findCredentials(environment);
  if (credentials === undefined) {
    throw new Error("no Kubernetes API: neither KUBECONFIG, nor a service account in the pod, nor ~/.kube/config");
  }
  const pod = podInfo("pod_name", "POD_NAME", environment);
  const podUid = podInfo("pod_uid", "POD_UID", environment);
  if (pod === undefined || podUid === undefined) {
    throw new Error("POD_NAME and POD_UID do not say which pod this is, so that nothing can be registered for it");
  }
  const settings = kubernetesSettings(environment);
  const container = environment["CONTAINER_NAME"];
  const api = createKubernetesApi(credentials);
  const registration = createKubernetesRegistration({
    api,
    namespace: kubernetesNamespace ?? settings.namespace,
    pod,
    podUid,
    ...(settings.mode === "container" && container !== undefined && container !== "" ? { container } : {}),
  });
  return {
    instanceId: registration.instanceId,
    put: (record) => registration.put(record),
    remove: (key) => registration.remove(key),
    async close() {
      await registration.close();
      await api.close();
    },
  };
}
