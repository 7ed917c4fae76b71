/** A place for one Dynamo peer: a pod of its own, ready in a slice, whose metadata object holds what the peer registers. */
import { createKubernetesRegistration } from "../../src/dynamo/discovery/kubernetes/kubernetes-registration.ts";
import { createEventPlane } from "../../src/dynamo/event-plane/create-event-plane.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import type { PeerSite } from "../dynamo-peer/site.ts";
import type { ControlPlane } from "./control-plane.ts";
import { frontendContainer, mainContainer, type Objects } from "./objects.ts";

export const frontendPort = 8123;

const events = {
  DYN_EVENT_PLANE: "zmq",
  DYN_EVENT_PLANE_HOST: "127.0.0.1",
  DYN_TCP_RESPONSE_STREAM_HOST: "127.0.0.1",
} as const;

/** As the operator gives it to a picker; who it is, the kubeconfig says. */
export function pickerEnvironment(objects: Objects, kubeconfig: string): Readonly<Record<string, string>> {
  return {
    ...events,
    DYN_DISCOVERY_BACKEND: "kubernetes",
    POD_NAMESPACE: objects.namespace,
    KUBECONFIG: kubeconfig,
  };
}

/** The pod exists when this resolves; it is ready from the peer's registration on. */
export async function createPodSite(plane: ControlPlane, objects: Objects, pod: string, ip: string): Promise<PeerSite> {
  const labels = { "nvidia.com/dynamo-namespace": "ns", "nvidia.com/dynamo-component-class": "worker", pod };
  const http = { ...frontendContainer, ports: [{ name: "http", containerPort: frontendPort }] };
  const podUid = await objects.createPod(pod, { labels, containers: [mainContainer, http] });
  const site = createEventPlane(events, silentLogger);
  return {
    options: { folder: "" },
    environment: pickerEnvironment(objects, plane.kubeconfig),
    backend: "kubernetes",
    events: site,
    async register() {
      await objects.setPod(pod, { ip, ready: true });
      await objects.putSlice(pod, [{ pod, uid: podUid, ready: true }]);
      return createKubernetesRegistration({ api: plane.api, namespace: objects.namespace, pod, podUid });
    },
    close: () => site.close(),
  };
}
