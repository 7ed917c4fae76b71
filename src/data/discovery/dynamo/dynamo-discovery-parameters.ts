/** The parameters of `dynamo-discovery`. What is not given comes from Dynamo's environment variables. */
import type { JsonSchema } from "../../plugin.ts";
import type { FrontendMapParameters } from "./frontend-map.ts";

export interface DynamoDiscoveryParameters extends FrontendMapParameters {
  readonly backend?: "file" | "etcd" | "kubernetes";
  readonly fileRoot?: string;
  readonly etcdEndpoints?: readonly string[];
  readonly kubernetesNamespace?: string;
  readonly podSelector?: string;
  readonly namespace?: string;
  readonly namespacePrefix?: string;
  readonly strictPrefix?: boolean;
  readonly enforceDisagg?: boolean;
  readonly modelPath?: string;
  readonly modelCacheDir?: string;
}

export const dynamoDiscoverySchema: JsonSchema = {
  type: "object",
  additionalProperties: false,
  properties: {
    backend: {
      enum: ["file", "etcd", "kubernetes"],
      description: "Where Dynamo registers its workers. Default: DYN_DISCOVERY_BACKEND, else etcd.",
    },
    fileRoot: {
      type: "string",
      minLength: 1,
      description: "Folder of the file backend. Default: DYN_FILE_KV, else dynamo_store_kv in the temporary folder.",
    },
    etcdEndpoints: {
      type: "array",
      minItems: 1,
      items: { type: "string", minLength: 1 },
      description:
        "URLs of etcd. Default: ETCD_ENDPOINTS, else http://localhost:2379. Password and certificates: ETCD_AUTH_*.",
    },
    kubernetesNamespace: {
      type: "string",
      minLength: 1,
      description:
        "Where the workers' pods are, with backend kubernetes. Default: the downward API's pod_namespace, POD_NAMESPACE, else default.",
    },
    podSelector: {
      type: "string",
      minLength: 1,
      description:
        "Labels of the pods whose port named http serves requests, with backend kubernetes. Default: nvidia.com/dynamo-component-class=worker and the nvidia.com/dynamo-namespace that namespace or namespacePrefix names.",
    },
    namespace: {
      type: "string",
      minLength: 1,
      description: "Only workers of this Dynamo namespace. Default: DYN_NAMESPACE, else all.",
    },
    namespacePrefix: {
      type: "string",
      minLength: 1,
      description:
        "Only workers of namespaces that begin so, as the generations of a rolling update do. Goes before namespace. Default: DYN_NAMESPACE_PREFIX.",
    },
    strictPrefix: {
      type: "boolean",
      description: "The prefix alone, or followed by a rolling update's suffix and nothing else.",
    },
    enforceDisagg: {
      type: "boolean",
      description: "No model is ready without prefill workers. Default: DYN_ENFORCE_DISAGG, else false.",
    },
    frontend: {
      type: "string",
      description:
        "ip:port of one frontend that serves all workers. Not with backend kubernetes, where it stands in the worker's pod. Default of this and the next two: --dynamo-frontend.",
    },
    frontendPort: {
      type: "integer",
      minimum: 1,
      maximum: 65535,
      description: "Port of the frontend beside each worker, on the host of its request plane.",
    },
    frontends: {
      type: "array",
      description: "Frontends of workers in particular; goes before frontendPort and frontend.",
      items: {
        type: "object",
        additionalProperties: false,
        required: ["worker", "address"],
        properties: {
          worker: {
            type: "string",
            minLength: 1,
            description: "Instance id (decimal, or hex after 0x), stable routing id, or host of the request plane.",
          },
          address: { type: "string", minLength: 1, description: "ip:port" },
        },
      },
    },
    modelPath: {
      type: "string",
      minLength: 1,
      description:
        "Folder with the model's tokenizer and template, for cards whose files are on another host or in a model hub.",
    },
    modelCacheDir: {
      type: "string",
      minLength: 1,
      description: "Where fetched model files are kept. Default: a folder in the temporary folder.",
    },
  },
};
