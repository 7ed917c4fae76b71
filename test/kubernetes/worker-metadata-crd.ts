/** The DynamoWorkerMetadata kind as far as its readers need it: a namespaced object whose `spec` is anything. */
export const workerMetadataDefinition = {
  apiVersion: "apiextensions.k8s.io/v1",
  kind: "CustomResourceDefinition",
  metadata: { name: "dynamoworkermetadatas.nvidia.com" },
  spec: {
    group: "nvidia.com",
    scope: "Namespaced",
    names: {
      kind: "DynamoWorkerMetadata",
      listKind: "DynamoWorkerMetadataList",
      plural: "dynamoworkermetadatas",
      singular: "dynamoworkermetadata",
    },
    versions: [
      {
        name: "v1alpha1",
        served: true,
        storage: true,
        schema: {
          openAPIV3Schema: {
            type: "object",
            properties: {
              spec: {
                type: "object",
                properties: { data: { type: "object", nullable: true, "x-kubernetes-preserve-unknown-fields": true } },
              },
            },
          },
        },
      },
    ],
  },
} as const;
