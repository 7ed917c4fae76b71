/** The objects of the reference's hermetic tests: scorers at weight 1 each, objectives with their priorities, model rewrites. */

export const hermeticPool = "vllm-qwen3-32b-pool";

/** Endpoints are those of the file; without one, whatever the flags say. */
export function hermeticConfig(endpointsFile?: string): string {
  const [plugin, discovery] =
    endpointsFile === undefined
      ? ["", ""]
      : [
          `  - type: file-discovery
    parameters: { path: ${JSON.stringify(endpointsFile)} }
`,
          `dataLayer:
  discovery: { pluginRef: file-discovery }
`,
        ];
  return `apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: queue-scorer
  - type: kv-cache-utilization-scorer
  - type: prefix-cache-scorer
  - type: lora-affinity-scorer
${plugin}schedulingProfiles:
  - name: default
    plugins:
      - { pluginRef: queue-scorer, weight: 1 }
      - { pluginRef: kv-cache-utilization-scorer, weight: 1 }
      - { pluginRef: prefix-cache-scorer, weight: 1 }
      - { pluginRef: lora-affinity-scorer, weight: 1 }
${discovery}`;
}

function objective(
  name: string,
  priority: number | undefined,
  group = "llm-d.ai",
  poolGroup = "inference.networking.k8s.io",
): string {
  return `---
apiVersion: ${group}/v1alpha2
kind: InferenceObjective
metadata: { name: ${name}, namespace: default }
spec:
  ${priority === undefined ? "" : `priority: ${priority}`}
  poolRef: { group: ${poolGroup}, name: ${hermeticPool} }
`;
}

export const hermeticManifests = [
  objective("sql-lora", 2),
  objective("sql-lora-sheddable", undefined),
  objective("sql-lora-legacy", 1, "inference.networking.x-k8s.io"),
  objective("my-model", 2),
  objective("direct-model", 2),
  objective("inference-objective-with-priority-4", 4),
  objective("negative", -1),
  `---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: { name: rewrite, namespace: default }
spec:
  poolRef: { group: inference.networking.k8s.io, name: ${hermeticPool} }
  rules:
    - matches: [{ model: { type: Exact, value: model-to-be-rewritten } }]
      targets: [{ weight: 1, modelRewrite: rewritten-model }]
    - matches: [{ model: { type: Exact, value: mixed-weights } }]
      targets: [{ weight: 1, modelRewrite: weighted }, { modelRewrite: starved }]
`,
].join("");
