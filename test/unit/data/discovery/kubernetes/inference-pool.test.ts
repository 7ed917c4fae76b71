import { describe, expect, it } from "@jest/globals";
import {
  poolCollection,
  readPool,
  samePool,
  selectorOfLabels,
} from "../../../../../src/data/discovery/kubernetes/inference-pool.ts";

const read = (spec: unknown) => readPool({ metadata: { name: "p" }, ...(spec === undefined ? {} : { spec }) } as never);

describe("an InferencePool", () => {
  it("of v1 has its labels, its ports in order and its protocol", () => {
    const spec = {
      selector: { matchLabels: { "llm-d.ai/role": "decode", app: "vllm" } },
      targetPorts: [{ number: 8001 }, { number: 8000 }],
      appProtocol: "kubernetes.io/h2c",
      endpointPickerRef: { name: "picker" },
    };
    expect(read(spec)).toEqual({
      kind: "pool",
      pool: {
        selector: "app=vllm,llm-d.ai/role=decode",
        targetPorts: [8001, 8000],
        appProtocol: "kubernetes.io/h2c",
      },
    });
  });

  it("of the alpha version has flat labels and one port", () => {
    expect(read({ selector: { app: "vllm" }, targetPortNumber: 8000, extensionRef: { name: "picker" } })).toEqual({
      kind: "pool",
      pool: { selector: "app=vllm", targetPorts: [8000], appProtocol: undefined },
    });
  });

  it("of the alpha version may select by a label named matchLabels", () => {
    expect(read({ selector: { matchLabels: "yes" }, targetPortNumber: 1 })).toMatchObject({
      pool: { selector: "matchLabels=yes" },
    });
  });

  it.each([
    [undefined, ["spec.selector: missing", "spec.targetPorts: nothing is no port"]],
    [{ selector: ["app"], targetPorts: [] }, ["spec.selector: missing"]],
    [{ selector: { matchLabels: { app: 1 } }, targetPorts: [{ number: 1 }] }, ["spec.selector: label app is no text"]],
    [
      { selector: {}, targetPorts: [{ number: 0 }, {}, 7] },
      [
        "spec.targetPorts: 0 is no port",
        "spec.targetPorts: nothing is no port",
        "spec.targetPorts: nothing is no port",
      ],
    ],
    [{ selector: {}, targetPortNumber: "8000" }, ['spec.targetPorts: "8000" is no port']],
    [
      { selector: {}, targetPortNumber: 1, appProtocol: "spdy" },
      ['spec.appProtocol: "spdy" is not "http" or "kubernetes.io/h2c"'],
    ],
  ])("is none as %j, and says why", (spec, faults) => {
    expect(read(spec)).toEqual({ kind: "faulty", faults });
  });

  it("is the same whatever the order of its labels, and another with other ports", () => {
    expect(selectorOfLabels({ b: "2", a: "1" })).toBe(selectorOfLabels({ a: "1", b: "2" }));
    const pool = { selector: "a=1", targetPorts: [1, 2], appProtocol: undefined };
    expect(samePool(pool, { ...pool, targetPorts: [1, 2] })).toBe(true);
    expect(samePool(pool, { ...pool, targetPorts: [2, 1] })).toBe(false);
    expect(samePool(pool, { ...pool, appProtocol: "http" })).toBe(false);
  });

  it("is of one of two groups", () => {
    expect(poolCollection("inference.networking.x-k8s.io", "ns")).toBe(
      "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/ns/inferencepools",
    );
    expect(() => poolCollection("example.com", "ns")).toThrow(RangeError);
  });
});
