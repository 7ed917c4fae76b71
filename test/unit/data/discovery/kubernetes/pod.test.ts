import { describe, expect, it } from "@jest/globals";
import { endpointsOfPod, readServingPod } from "../../../../../src/data/discovery/kubernetes/pod.ts";

const ready = [{ type: "Ready", status: "True" }];

function pod(metadata: object, status: object = {}): ReturnType<typeof readServingPod> {
  return readServingPod({
    metadata: { namespace: "ns", name: "p-0", uid: "u", labels: { app: "a" }, ...metadata },
    status: { podIP: "10.0.0.1", podIPs: [{ ip: "10.0.0.1" }], conditions: ready, ...status },
    spec: { containers: [{ name: "engine" }] },
  } as never);
}

describe("a pod", () => {
  it("that is ready serves at its address; nothing else of it is kept", () => {
    expect(pod({ annotations: { note: "x" }, managedFields: [{}] })).toEqual({
      namespace: "ns",
      name: "p-0",
      uid: "u",
      address: "10.0.0.1",
      labels: new Map([["app", "a"]]),
      activePorts: undefined,
    });
  });

  it.each([
    ["on its way out", { deletionTimestamp: "2026-01-01T00:00:00Z" }, {}],
    ["not ready", {}, { conditions: [{ type: "Ready", status: "False" }] }],
    ["of unknown readiness", {}, { conditions: [{ type: "Ready", status: "Unknown" }] }],
    ["without conditions", {}, { conditions: undefined }],
    ["without an address", {}, { podIP: undefined, podIPs: undefined }],
    ["with an empty address", {}, { podIP: "", podIPs: [] }],
    ["whose address is none", {}, { podIP: "pod.example", podIPs: [{ ip: "fe80::1%eth0" }, {}] }],
  ])("%s serves nothing", (_what, metadata, status) => {
    expect(pod(metadata, status)).toBeUndefined();
  });

  it.each([
    ["10.0.0.1", { podIP: "10.0.0.1", podIPs: [{ ip: "10.0.0.1" }, { ip: "fd00::1" }] }],
    ["fd00::1", { podIP: "fd00::1", podIPs: [{ ip: "fd00::1" }, { ip: "10.0.0.1" }] }],
    ["fd00::1", { podIP: undefined, podIPs: [{ ip: "fd00::1" }] }],
  ])("of two families is at %s", (address, status) => {
    expect(pod({}, status)?.address).toBe(address);
  });

  it.each<readonly [Readonly<Record<string, string>>, readonly (number | undefined)[]]>([
    [{}, [8000, 8001, 8002]],
    [{ "llm-d.ai/active-ports": "8000,8002" }, [8000, undefined, 8002]],
    [{ "llm-d.ai/active-ports": " 8002 , 8000 " }, [8000, undefined, 8002]],
    [{ "inference.networking.k8s.io/active-ports": "8001" }, [undefined, 8001, undefined]],
    [
      { "inference.networking.k8s.io/active-ports": "8001", "llm-d.ai/active-ports": "8000" },
      [8000, undefined, undefined],
    ],
    [{ "llm-d.ai/active-ports": "9000" }, [undefined, undefined, undefined]],
    [{ "llm-d.ai/active-ports": "" }, [undefined, undefined, undefined]],
    [{ "llm-d.ai/active-ports": "x,8001/tcp,-8000,80000000" }, [undefined, 8001, undefined]],
  ])("with %j serves at the ports %j, and each keeps its rank", (annotations, ports) => {
    const serving = pod({ annotations });
    expect(serving).toBeDefined();
    const endpoints = serving === undefined ? [] : endpointsOfPod(serving, [8000, 8001, 8002]);
    expect(endpoints.map((endpoint) => endpoint?.port)).toEqual(ports);
    expect(endpoints.map((endpoint) => endpoint?.name)).toEqual(
      ports.map((port, rank) => (port === undefined ? undefined : `p-0-rank-${rank}`)),
    );
  });
});
