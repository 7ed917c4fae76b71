/** Values that the charts are rendered with; test/fixtures/charts/NAME.yaml is what comes of each (scripts/renew-chart-fixtures.ts writes them). */

export interface ChartCase {
  readonly name: string;
  readonly chart: "signalbox" | "signalbox-standalone";
  readonly values: object;
  /** What the cluster has besides Kubernetes' own. */
  readonly apis?: readonly string[];
}

const matchLabels = { app: "qwen" };
const modelServers = { matchLabels };
const router = { modelServers };

const customConfig = `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: token-load-scorer
schedulingProfiles:
  - name: default
    plugins:
      - pluginRef: token-load-scorer
`;

export const cases: readonly ChartCase[] = [
  { name: "defaults", chart: "signalbox", values: { router } },
  {
    name: "istio",
    chart: "signalbox",
    values: {
      router: {
        ...router,
        inferenceObjectives: [
          { name: "interactive", priority: 10 },
          { name: "batch", priority: -1 },
        ],
      },
      provider: {
        name: "istio",
        istio: {
          destinationRule: { trafficPolicy: { connectionPool: { http: { maxRequestsPerConnection: 256_000 } } } },
        },
      },
      httpRoute: { create: true, headerMatches: { "x-team": "blue" }, baseModel: "qwen3" },
    },
  },
  {
    name: "istio-verified",
    chart: "signalbox",
    values: {
      router: { ...router, epp: { tls: { secretName: "picker-tls" } } },
      provider: { name: "istio", istio: { destinationRule: { credentialName: "picker-ca" } } },
    },
  },
  {
    name: "gke",
    chart: "signalbox",
    values: {
      router: {
        modelServers: { matchLabels, type: "sglang", targetPorts: [{ number: 30000 }] },
        epp: { grpcHealthPort: 9103 },
        monitoring: { prometheus: { enabled: true }, provider: { name: "gmp", gmp: { autopilot: true } } },
      },
      provider: { name: "gke" },
      httpRoute: { create: true, inferenceGatewayName: "edge", inferenceGatewayNamespace: "infra" },
    },
  },
  {
    name: "gke-preferred",
    chart: "signalbox",
    values: {
      router,
      provider: {
        name: "gke",
        gke: { preferredBackends: { enabled: true, preferredReplicas: 2, defaultReplicas: 2 } },
      },
    },
  },
  {
    name: "envoy-gateway",
    chart: "signalbox",
    values: {
      router: { modelServers: { matchLabels, targetPorts: [{ number: 8000 }, { number: 8001 }] } },
      provider: { name: "envoy-gateway" },
      httpRoute: { create: true, hostnames: ["llm.example.com"], sectionName: "http" },
    },
  },
  {
    name: "envoy-ai-gateway",
    chart: "signalbox",
    values: {
      router,
      provider: { name: "envoy-gateway", envoyGateway: { aiGateway: true } },
      httpRoute: { create: true },
    },
  },
  {
    name: "agentgateway",
    chart: "signalbox",
    values: { router, provider: { name: "agentgateway" }, httpRoute: { create: true } },
  },
  {
    name: "kgateway",
    chart: "signalbox",
    values: { router, provider: { name: "kgateway" }, httpRoute: { create: true } },
  },
  { name: "leader", chart: "signalbox", values: { router: { ...router, epp: { replicas: 2 } } } },
  {
    name: "leader-warm",
    chart: "signalbox",
    values: { router: { ...router, epp: { replicas: 2, ha: { warmFollowers: true } } } },
  },
  {
    name: "active-active",
    chart: "signalbox",
    values: {
      router: {
        modelServers: {
          matchLabels,
          autoscaling: { type: "keda", target: { name: "qwen" }, queuedRequestsPerReplica: 2.5 },
        },
        epp: {
          replicas: 3,
          ha: { mode: "active-active", peerSecretName: "peers" },
          podDisruptionBudget: { enabled: true },
          autoscaling: { enabled: true },
        },
        monitoring: {
          prometheus: { enabled: true, extraLabels: { release: "prometheus" }, alerts: { enabled: true } },
        },
        tracing: { enabled: true, otelExporterEndpoint: "http://collector.observability:4317" },
        networkPolicy: {
          enabled: true,
          gateways: [{ namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "gateways" } } }],
          apiServer: { cidrs: ["10.96.0.1/32"] },
        },
      },
    },
  },
  {
    name: "everything-else",
    chart: "signalbox",
    values: {
      router: {
        metricsPort: 9190,
        modelServers: { matchLabels, protocol: "grpc", autoscaling: { type: "hpa", target: { name: "qwen" } } },
        inferencePool: { apiVersion: "inference.networking.x-k8s.io/v1alpha2", failureMode: "FailClosed" },
        inferenceObjectives: [{ name: "batch", priority: -1 }],
        epp: {
          image: { registry: "registry.example.com", tag: "1.2.3" },
          imagePullSecrets: [{ name: "pull" }],
          extProcPort: 9102,
          flags: {
            v: 4,
            "drain-timeout": "1m30s",
            "drain-grace": "5m",
            "max-request-body-bytes": 134_217_728,
            "pool-events": false,
          },
          env: { NODE_OPTIONS: "--max-semi-space-size=64" },
          pluginsConfigFile: "mine.yaml",
          pluginsCustomConfig: { "mine.yaml": customConfig },
          nodeSelector: { pool: "system" },
          tolerations: [{ operator: "Exists" }],
          affinity: { podAntiAffinity: {} },
          priorityClassName: "high",
          podAnnotations: { "prometheus.io/scrape": "true" },
          podLabels: { team: "blue" },
          volumes: [{ name: "models", emptyDir: {} }],
          volumeMounts: [{ name: "models", mountPath: "/models" }],
          serviceAccount: { name: "picker", annotations: { "eks.amazonaws.com/role-arn": "arn" } },
        },
        tokenizer: { enabled: true, modelName: "Qwen/Qwen3-32B" },
        monitoring: { prometheus: { auth: { enabled: false } } },
      },
    },
    apis: ["inference.networking.x-k8s.io/v1alpha2/InferenceObjective"],
  },
  {
    name: "without-pool",
    chart: "signalbox",
    values: {
      router: { modelServers: { matchLabels: { app: "qwen", tier: "gpu" } }, inferencePool: { create: false } },
    },
  },
  {
    name: "engine-peers",
    chart: "signalbox",
    values: {
      router: {
        ...router,
        epp: {
          replicas: 2,
          env: [
            { name: "DYN_EPP_MODE", value: "standalone" },
            { name: "DYN_EPP_INFERENCE_POOL_NAME", value: "qwen" },
            { name: "DYN_MODEL_NAME", value: "qwen" },
            { name: "DYN_KV_CACHE_BLOCK_SIZE", value: "16" },
            { name: "DYN_EPP_TOKENIZER_SERVICE_URL", value: "http://render:8000" },
            { name: "DYN_EPP_TOKENIZER_PROTOCOL", value: "vllm-render" },
            { name: "DYN_EPP_PEER_SERVICE", value: "pickers" },
            { name: "DYN_EPP_SELECTION_HTTP_PORT", value: "9093" },
            { name: "POD_NAMESPACE", valueFrom: { fieldRef: { fieldPath: "metadata.namespace" } } },
          ],
        },
        networkPolicy: { enabled: true },
      },
    },
  },
  {
    name: "dynamo",
    chart: "signalbox",
    values: {
      router: {
        dynamo: { enabled: true, graphDeployment: "graph", eventPlane: "zmq", env: { DYN_ROUTER_TEMPERATURE: 0.2 } },
      },
    },
  },
  {
    name: "dynamo-active-active",
    chart: "signalbox",
    values: {
      router: {
        dynamo: { enabled: true, graphDeployment: "graph" },
        epp: { replicas: 2, ha: { mode: "active-active" } },
        networkPolicy: { enabled: true },
      },
    },
  },
  {
    name: "dynamo-index",
    chart: "signalbox",
    values: {
      router: {
        dynamo: { enabled: true, graphDeployment: "graph", env: { DYN_SERVE_INDEXER: true } },
        networkPolicy: { enabled: true },
      },
    },
  },
  {
    name: "old-values",
    chart: "signalbox",
    values: {
      inferenceExtension: {
        replicas: 2,
        image: { hub: "registry.example.com", name: "epp", tag: "v1.3.0" },
        failureMode: "FailClose",
        flags: { v: 1 },
        monitoring: { interval: "30s", prometheus: { enabled: false, auth: { enabled: false } } },
        tracing: { enabled: true },
      },
      inferencePool: { targetPorts: [{ number: 8080 }], modelServerType: "sglang", modelServers: { matchLabels } },
      inferenceObjectives: [{ name: "high-priority", priority: 5 }],
      experimentalHttpRoute: { enabled: true, inferenceGatewayName: "old-gateway" },
      istio: { destinationRule: { host: "picker.example" } },
      provider: { name: "istio" },
    },
  },
  { name: "standalone", chart: "signalbox-standalone", values: { router } },
  {
    name: "standalone-service",
    chart: "signalbox-standalone",
    values: {
      router: {
        modelServers: { matchLabels, targetPorts: [{ number: 8000 }, { number: 8001 }] },
        inferencePool: { create: false },
        epp: { replicas: 2, flags: { "request-timeout": "2m" } },
        proxy: { mode: "service", replicas: 3 },
        networkPolicy: { enabled: true },
      },
    },
  },
  {
    name: "standalone-closed",
    chart: "signalbox-standalone",
    values: {
      router: {
        modelServers: { matchLabels, protocol: "grpc" },
        proxy: { failOpen: false, listenAddress: "0.0.0.0" },
        epp: { flags: { "secure-serving": false } },
      },
    },
  },
  {
    name: "standalone-agentgateway",
    chart: "signalbox-standalone",
    values: {
      router: {
        ...router,
        inferencePool: { create: false },
        proxy: { proxyType: "agentgateway", resources: { requests: { cpu: "2" } } },
      },
    },
  },
  {
    name: "standalone-old-values",
    chart: "signalbox-standalone",
    values: {
      inferenceExtension: {
        endpointsServer: {
          createInferencePool: false,
          endpointSelector: "app=qwen,tier=gpu",
          targetPorts: 8000,
          modelServerType: "sglang",
        },
        sidecar: { enabled: true, image: "docker.io/envoyproxy/envoy:distroless-v1.33.2" },
      },
    },
  },
];

/** Values and the words of Helm's refusal. */
export const refusals: readonly {
  readonly what: string;
  readonly chart?: ChartCase["chart"];
  readonly values: object;
  readonly says: string;
}[] = [
  {
    what: "a key that nobody reads",
    values: { router: { ...router, epp: { replica: 2 } } },
    says: "additional properties 'replica' not allowed",
  },
  {
    what: "a section that nobody reads",
    values: { router, routes: {} },
    says: "additional properties 'routes' not allowed",
  },
  {
    what: "an unknown old value",
    values: { router, inferenceExtension: { replica: 2 } },
    says: "at '/inferenceExtension': additional properties 'replica' not allowed",
  },
  {
    what: "a value of another type",
    values: { router: { ...router, epp: { replicas: "two" } } },
    says: "got string, want integer",
  },
  {
    what: "an unknown provider",
    values: { router, provider: { name: "traefik" } },
    says: "value must be one of 'none', 'istio'",
  },
  {
    what: "a port that is none",
    values: { router: { ...router, epp: { extProcPort: 70_000 } } },
    says: "maximum: got 70,000, want 65,535",
  },
  {
    what: "two target ports alike",
    values: { router: { modelServers: { matchLabels, targetPorts: [{ number: 1 }, { number: 1 }] } } },
    says: "targetPorts",
  },
  {
    what: "resources without requests",
    values: { router: { ...router, epp: { resources: { requests: null } } } },
    says: "requests",
  },
  {
    what: "a failure mode of nobody's",
    values: { router: { ...router, inferencePool: { failureMode: "Open" } } },
    says: "failureMode",
  },
  { what: "no labels", values: {}, says: "router.modelServers.matchLabels is required" },
  {
    what: "a configuration file that is not there",
    values: { router: { ...router, epp: { pluginsConfigFile: "mine.yaml" } } },
    says: 'router.epp.pluginsConfigFile is "mine.yaml", but the files are default-plugins.yaml, payload-agnostic.yaml',
  },
  {
    what: "a grace period shorter than the drain",
    values: { router: { ...router, epp: { terminationGracePeriodSeconds: 100 } } },
    says: "draining may take 120 s",
  },
  {
    what: "a disruption budget over one ready replica",
    values: { router: { ...router, epp: { replicas: 2, podDisruptionBudget: { enabled: true } } } },
    says: "router.epp.podDisruptionBudget.enabled needs router.epp.ha.mode=active-active",
  },
  {
    what: "autoscaling of followers",
    values: { router: { ...router, epp: { autoscaling: { enabled: true } } } },
    says: "router.epp.autoscaling.enabled needs router.epp.ha.mode=active-active",
  },
  {
    what: "objectives without a pool",
    values: {
      router: { ...router, inferencePool: { create: false }, inferenceObjectives: [{ name: "a", priority: 1 }] },
    },
    says: "router.inferenceObjectives need a pool",
  },
  {
    what: "the latency predictor",
    values: { router: { ...router, latencyPredictor: { enabled: true } } },
    says: "the picker has no predicted-latency plugins",
  },
  {
    what: "a tokenizer of no model",
    values: { router: { ...router, tokenizer: { enabled: true } } },
    says: "router.tokenizer.modelName is required",
  },
  {
    what: "Dynamo workers of nobody",
    values: { router: { ...router, dynamo: { enabled: true } } },
    says: "router.dynamo.enabled needs",
  },
  {
    what: "plaintext before a gateway that speaks TLS only",
    values: { router: { ...router, epp: { flags: { "secure-serving": false } } }, provider: { name: "kgateway" } },
    says: "provider.name=kgateway reaches a pool's picker over TLS only",
  },
  {
    what: "several target ports before kgateway, which has none of them answer then",
    values: {
      router: { modelServers: { matchLabels, targetPorts: [{ number: 8000 }, { number: 8001 }] } },
      provider: { name: "kgateway" },
    },
    says: "provider.name=kgateway answers 503 to everything",
  },
  {
    what: "Envoy Gateway without a route",
    values: { router, provider: { name: "envoy-gateway" } },
    says: "provider.name=envoy-gateway attaches the picker to a route",
  },
  {
    what: "preferred backends elsewhere than on GKE",
    values: { router, provider: { gke: { preferredBackends: { enabled: true } } } },
    says: "provider.gke.preferredBackends.enabled needs provider.name=gke",
  },
  {
    what: "a proxy without a port for clients",
    chart: "signalbox-standalone",
    values: { router: { ...router, extraServicePorts: [{ name: "web", port: 80 }] } },
    says: 'router.extraServicePorts must have exactly one port named "http"',
  },
  {
    what: "scaling model servers of no name",
    values: { router: { modelServers: { matchLabels, autoscaling: { type: "keda" } } } },
    says: "name",
  },
];
