/** Kinds of other projects that the charts render and whose definitions are not to be had from a Go module: as much of them as is rendered, and strict. */

type Schema = Readonly<Record<string, unknown>>;

const text = { type: "string" } as const;
const whole = { type: "integer" } as const;
const truth = { type: "boolean" } as const;
const texts = { type: "object", additionalProperties: text } as const;

function shape(properties: Readonly<Record<string, Schema>>, ...required: readonly string[]): Schema {
  return { type: "object", properties, ...(required.length === 0 ? {} : { required }) };
}

function list(items: Schema): Schema {
  return { type: "array", items };
}

function definition(group: string, version: string, kind: string, plural: string, spec: Schema): object {
  const singular = kind.toLowerCase();
  return {
    apiVersion: "apiextensions.k8s.io/v1",
    kind: "CustomResourceDefinition",
    metadata: { name: `${plural}.${group}` },
    spec: {
      group,
      scope: "Namespaced",
      names: { kind, listKind: `${kind}List`, plural, singular },
      versions: [{ name: version, served: true, storage: true, schema: { openAPIV3Schema: shape({ spec }, "spec") } }],
    },
  };
}

const secretKey = shape({ name: text, key: text }, "name", "key");
const target = shape({ group: text, kind: text, name: text }, "group", "kind", "name");
const alert = { alert: text, expr: text, for: text, labels: texts, annotations: texts } as const;
const matchLabels = shape({ matchLabels: texts }, "matchLabels");

export const otherDefinitions: readonly object[] = [
  definition(
    "monitoring.coreos.com",
    "v1",
    "ServiceMonitor",
    "servicemonitors",
    shape(
      {
        endpoints: list(
          shape({
            port: text,
            path: text,
            interval: text,
            authorization: shape({ type: text, credentials: secretKey }),
          }),
        ),
        namespaceSelector: shape({ matchNames: list(text) }),
        selector: matchLabels,
      },
      "endpoints",
      "selector",
    ),
  ),
  definition(
    "monitoring.coreos.com",
    "v1",
    "PrometheusRule",
    "prometheusrules",
    shape({
      groups: list(shape({ name: text, rules: list(shape(alert, "alert", "expr")) }, "name", "rules")),
    }),
  ),
  definition(
    "monitoring.googleapis.com",
    "v1",
    "PodMonitoring",
    "podmonitorings",
    shape(
      {
        endpoints: list(
          shape(
            {
              port: text,
              scheme: text,
              path: text,
              interval: text,
              authorization: shape({ type: text, credentials: shape({ secret: secretKey }) }),
            },
            "port",
            "interval",
          ),
        ),
        selector: matchLabels,
      },
      "endpoints",
      "selector",
    ),
  ),
  definition(
    "keda.sh",
    "v1alpha1",
    "ScaledObject",
    "scaledobjects",
    shape(
      {
        scaleTargetRef: shape({ apiVersion: text, kind: text, name: text }, "name"),
        minReplicaCount: whole,
        maxReplicaCount: whole,
        cooldownPeriod: whole,
        triggers: list(shape({ type: text, metricType: text, metadata: texts }, "type", "metadata")),
      },
      "scaleTargetRef",
      "triggers",
    ),
  ),
  definition(
    "networking.gke.io",
    "v1",
    "HealthCheckPolicy",
    "healthcheckpolicies",
    shape(
      {
        targetRef: target,
        default: shape({
          timeoutSec: whole,
          checkIntervalSec: whole,
          config: shape(
            {
              type: { type: "string", enum: ["HTTP", "GRPC"] },
              httpHealthCheck: shape({ requestPath: text, port: whole }),
              grpcHealthCheck: shape({ portSpecification: text, port: whole, grpcServiceName: text }),
            },
            "type",
          ),
        }),
      },
      "targetRef",
    ),
  ),
  definition(
    "networking.gke.io",
    "v1",
    "GCPBackendPolicy",
    "gcpbackendpolicies",
    shape(
      {
        targetRef: target,
        default: shape({
          timeoutSec: whole,
          logging: shape({ enabled: truth }),
          backendPreference: { type: "string", enum: ["PREFERRED", "DEFAULT"] },
          balancingMode: { type: "string", enum: ["RATE", "UTILIZATION", "CONNECTION"] },
          maxRatePerEndpoint: whole,
          capacityScalerPercent: { type: "integer", minimum: 0, maximum: 100 },
        }),
      },
      "targetRef",
    ),
  ),
];
