/**
 * Gives every Gateway of a class what a gateway's own operator would: a Service, a pod of a stock Envoy that is told its place by bootstrap, and the
 * Service's address.
 */
import type { KubernetesObject } from "../../../src/net/kubernetes/list-watch.ts";
import { ListWatch } from "../../../src/net/kubernetes/list-watch.ts";
import { eventually } from "../../stack.ts";
import type { Cluster } from "../cluster.ts";

interface Gateway extends KubernetesObject {
  readonly metadata: KubernetesObject["metadata"] & { readonly namespace: string; readonly uid: string };
  readonly spec: {
    readonly gatewayClassName: string;
    readonly listeners: readonly { readonly name: string; readonly port: number }[];
  };
}

export interface GatewayDeployer {
  close(): Promise<void>;
}

/** Of an Envoy that asks a control plane at the address for everything; $(…) is filled in from the container's environment. */
export type Bootstrap = (gateway: { readonly name: string; readonly namespace: string }) => object;

export const gatewayLabel = "gateway.networking.k8s.io/gateway-name";

export async function deployGateways(
  cluster: Cluster,
  className: string,
  bootstrap: Bootstrap,
): Promise<GatewayDeployer> {
  const deployed = new Map<string, Promise<void>>();
  const deploy = async ({ metadata: { name, namespace, uid }, spec }: Gateway): Promise<void> => {
    const labels = { [gatewayLabel]: name };
    const own = `${name}-${className}`;
    const ownerReferences = [{ apiVersion: "gateway.networking.k8s.io/v1", kind: "Gateway", name, uid }];
    const metadata = { name: own, namespace, labels, ownerReferences };
    const ports = spec.listeners.map((listener) => ({
      name: listener.name,
      port: listener.port,
      targetPort: listener.port,
    }));
    const field = (variable: string, fieldPath: string) => ({ name: variable, valueFrom: { fieldRef: { fieldPath } } });
    await cluster.apply(
      { apiVersion: "v1", kind: "Service", metadata, spec: { type: "LoadBalancer", selector: labels, ports } },
      {
        apiVersion: "v1",
        kind: "Pod",
        metadata,
        spec: {
          containers: [
            {
              name: "proxy",
              image: "gateway-proxy",
              args: ["--config-yaml", JSON.stringify(bootstrap({ name, namespace })), "--use-dynamic-base-id"],
              env: [field("POD_IP", "status.podIP"), field("POD_NAME", "metadata.name")],
              readinessProbe: { tcpSocket: { port: spec.listeners[0]?.port ?? 80 } },
            },
          ],
        },
      },
    );
    const ip = await eventually(
      `${own} has an address`,
      async () => {
        const pod = await cluster.read<{ readonly status?: { readonly podIP?: string } }>({
          apiVersion: "v1",
          kind: "Pod",
          name: own,
          namespace,
        });
        return pod.status?.podIP;
      },
      60_000,
    );
    await cluster.plane.api.request({
      method: "PATCH",
      path: `/api/v1/namespaces/${namespace}/services/${own}/status`,
      contentType: "application/merge-patch+json",
      body: JSON.stringify({ status: { loadBalancer: { ingress: [{ ip }] } } }),
    });
  };
  const take = (gateway: Gateway): void => {
    const { uid, name } = gateway.metadata;
    if (gateway.spec.gatewayClassName !== className || deployed.has(uid)) return;
    const failed = (error: unknown): void => {
      process.stderr.write(`the gateway ${name} was not deployed: ${String(error)}\n`);
    };
    deployed.set(uid, deploy(gateway).catch(failed));
  };
  const watch = new ListWatch<Gateway>({
    api: cluster.plane.api,
    path: "/apis/gateway.networking.k8s.io/v1/gateways",
    read: (object) => object as Gateway,
    listener: {
      replaced: (gateways) => {
        for (const gateway of gateways.values()) take(gateway);
      },
      put: (_key, gateway) => take(gateway),
      // Its Service and pod are collected with it.
      removed: () => {},
    },
  });
  await watch.start();
  return {
    async close() {
      await watch.close();
      await Promise.all(deployed.values());
    },
  };
}
