import { describe, expect, it } from "@jest/globals";
import { podFrontendsOf, workerPodSelector } from "../../../../../src/data/discovery/dynamo/pod-frontends.ts";
import { instanceIdOfPod } from "../../../../../src/dynamo/instance-id.ts";

const main = { name: "main", ports: [{ name: "system", containerPort: 9090 }] };
const frontend = {
  name: "sidecar-frontend",
  ports: [
    { name: "metrics", containerPort: 9345 },
    { name: "http", containerPort: 8123 },
  ],
};

interface Changes {
  readonly metadata?: object;
  readonly spec?: object;
  readonly status?: object;
}

function pod({ metadata, spec, status }: Changes = {}) {
  return {
    metadata: { name: "worker-0", namespace: "k", uid: "u", labels: { app: "x" }, ...metadata },
    spec: { containers: [main, frontend], ...spec },
    status: { podIP: "10.0.0.7", conditions: [{ type: "Ready", status: "True" }], ...status },
  };
}

describe("the frontend beside a worker", () => {
  it("is the port named http of any container, on the pod's address", () => {
    expect(podFrontendsOf(pod(), "pod")).toEqual([
      {
        instanceId: 1_186_445_869_714_687n,
        name: "worker-0",
        namespace: "k",
        address: "10.0.0.7",
        port: 8123,
        labels: new Map([["app", "x"]]),
      },
    ]);
  });

  const nowhere: readonly [string, Changes][] = [
    ["no port is named http", { spec: { containers: [main] } }],
    ["the pod has no address yet", { status: { podIP: undefined } }],
    ["the pod is not ready", { status: { conditions: [{ type: "Ready", status: "False" }] } }],
    ["the pod says nothing of being ready", { status: { conditions: undefined } }],
    ["the pod is on its way out", { metadata: { deletionTimestamp: "2026-01-01T00:00:00Z" } }],
    ["only an init container that ends has the port", { spec: { containers: [main], initContainers: [frontend] } }],
    ["the address is none", { status: { podIP: "worker-0.example" } }],
  ];

  it.each(nowhere)("is nowhere when %s", (_why, changes) => {
    expect(podFrontendsOf(pod(changes), "pod")).toEqual([]);
  });

  it("may be an init container that stays", () => {
    const initContainers = [{ ...frontend, restartPolicy: "Always" }];
    expect(podFrontendsOf(pod({ spec: { containers: [main], initContainers } }), "pod")).toHaveLength(1);
  });

  it("is shared by all workers of a pod in container mode, whichever of them is down, while it answers itself", () => {
    const containers = [{ name: "engine-0" }, { name: "engine-1" }, frontend];
    const status = (ready: boolean) => ({
      conditions: [{ type: "Ready", status: "False" }],
      containerStatuses: [
        { name: "engine-0", ready: false },
        { name: "sidecar-frontend", ready },
      ],
    });
    const found = podFrontendsOf(pod({ spec: { containers }, status: status(true) }), "container");
    expect(new Map(found.map(({ name, instanceId }) => [name, instanceId]))).toEqual(
      new Map([
        ["worker-0", instanceIdOfPod("worker-0")],
        ["worker-0-engine-0", 8_051_026_481_054_291n],
        ["worker-0-engine-1", 4_054_906_713_372_226n],
        ["worker-0-sidecar-frontend", instanceIdOfPod("worker-0-sidecar-frontend")],
      ]),
    );
    expect(new Set(found.map(({ address, port }) => `${address}:${port}`))).toEqual(new Set(["10.0.0.7:8123"]));
    expect(podFrontendsOf(pod({ spec: { containers }, status: status(false) }), "container")).toEqual([]);
  });
});

describe("the pods looked at", () => {
  it.each([
    [{ kind: "all" }, "nvidia.com/dynamo-component-class=worker"],
    [{ kind: "exact", namespace: "ns" }, "nvidia.com/dynamo-namespace=ns,nvidia.com/dynamo-component-class=worker"],
    [
      { kind: "prefix", prefix: "k8s-dgd", isStrict: true },
      "nvidia.com/dynamo-namespace=k8s-dgd,nvidia.com/dynamo-component-class=worker",
    ],
    [{ kind: "prefix", prefix: "k8s-", isStrict: false }, "nvidia.com/dynamo-component-class=worker"],
  ] as const)("for namespaces of %j are those labelled %s", (filter, selector) => {
    expect(workerPodSelector(filter)).toBe(selector);
  });
});
