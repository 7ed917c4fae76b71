/**
 * Istio's control plane over a stock Envoy. The settings leave out what only Istio's own build of Envoy knows, and certificates, which an agent beside
 * the proxy would bring.
 */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { eventually } from "../../stack.ts";
import type { Cluster } from "../cluster.ts";
import { nodeAddress } from "../kubelet/pod-network.ts";
import { toolBinary } from "../tools.ts";
import { type Bootstrap, deployGateways } from "./gateway-deployer.ts";

export interface Istio {
  close(): Promise<void>;
}

const discoveryPort = 15010;

/** With the `istio` definitions installed. Resolves when the control plane is ready; gateways of the class `istio` then get their proxies. */
export async function startIstio(cluster: Cluster): Promise<Istio> {
  const mesh = join(cluster.folder, "mesh.yaml");
  await writeFile(mesh, JSON.stringify({ enableAutoMtls: false }));
  await cluster.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: "istio-system" } });
  const pilot = await cluster.run("pilot-discovery", {
    command: [
      toolBinary("pilot-discovery"),
      "discovery",
      `--meshConfig=${mesh}`,
      `--kubeconfig=${cluster.plane.kubeconfig}`,
      `--grpcAddr=0.0.0.0:${discoveryPort}`,
      "--secureGRPCAddr=",
      "--httpAddr=127.0.0.1:8080",
      "--httpsAddr=",
      "--monitoringAddr=127.0.0.1:15014",
      "--ctrlz_address=127.0.0.1",
    ],
    folder: cluster.folder,
    environment: {
      ENABLE_GATEWAY_API_INFERENCE_EXTENSION: "true",
      PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER: "false",
      PILOT_ENABLE_METADATA_EXCHANGE: "false",
      PILOT_ENABLE_ALPN_FILTER: "false",
      POD_NAMESPACE: "istio-system",
      POD_NAME: "istiod-0",
      REVISION: "default",
      CLUSTER_ID: "Kubernetes",
    },
  });
  await eventually(
    "Istio's control plane is ready",
    async () => {
      if (pilot.ended() !== undefined) throw new Error(`pilot-discovery ended\n${await cluster.story()}`);
      return await fetch("http://127.0.0.1:8080/ready", { signal: AbortSignal.timeout(1000) }).then(
        (answer) => answer.ok,
        () => false,
      );
    },
    120_000,
  );
  const gateways = await deployGateways(cluster, "istio", bootstrap);
  // Ready says nothing of the class of gateways, which Istio makes a moment later.
  await eventually("Istio takes gateways of its class", () => isClassAccepted(cluster), 60_000);
  return gateways;
}

interface GatewayClass {
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

async function isClassAccepted(cluster: Cluster): Promise<boolean> {
  const { status } = await cluster
    .read<GatewayClass>({ apiVersion: "gateway.networking.k8s.io/v1", kind: "GatewayClass", name: "istio" })
    .catch((): GatewayClass => ({}));
  return status?.conditions?.some(({ type, status: is }) => type === "Accepted" && is === "True") === true;
}

const bootstrap: Bootstrap = ({ name, namespace }) => ({
  node: {
    id: `router~$(POD_IP)~$(POD_NAME).${namespace}~${namespace}.svc.cluster.local`,
    cluster: `$(POD_NAME).${namespace}`,
    metadata: {
      ISTIO_VERSION: "1.31.0",
      NAMESPACE: namespace,
      NAME: "$(POD_NAME)",
      CLUSTER_ID: "Kubernetes",
      INSTANCE_IPS: "$(POD_IP)",
      LABELS: { "gateway.networking.k8s.io/gateway-name": name },
    },
  },
  admin: { address: { socket_address: { address: "127.0.0.1", port_value: 15_000 } } },
  dynamic_resources: {
    ads_config: {
      api_type: "DELTA_GRPC",
      transport_api_version: "V3",
      set_node_on_first_message_only: true,
      grpc_services: [{ envoy_grpc: { cluster_name: "control-plane" } }],
    },
    cds_config: { ads: {}, initial_fetch_timeout: "0s", resource_api_version: "V3" },
    lds_config: { ads: {}, initial_fetch_timeout: "0s", resource_api_version: "V3" },
  },
  static_resources: {
    clusters: [
      {
        name: "control-plane",
        type: "STATIC",
        typed_extension_protocol_options: {
          "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            explicit_http_config: { http2_protocol_options: {} },
          },
        },
        load_assignment: {
          cluster_name: "control-plane",
          endpoints: [
            {
              lb_endpoints: [
                {
                  endpoint: {
                    address: { socket_address: { address: nodeAddress, port_value: discoveryPort } },
                  },
                },
              ],
            },
          ],
        },
      },
    ],
  },
});
