/** Two pools in one store: what one says of its pods leaves the other's alone. */
import { describe, expect, it } from "@jest/globals";
import { poolWriters } from "../../../../../src/data/discovery/kubernetes/prefill-endpoints.ts";
import { endpointName } from "../../../../../src/data/endpoint.ts";
import { createEndpointStore, type EndpointSpec } from "../../../../../src/data/endpoint-store.ts";

const spec = (name: string, address: string, labels: Readonly<Record<string, string>> = {}): EndpointSpec => ({
  namespace: "ns",
  name,
  address,
  port: 8000,
  labels: new Map(Object.entries(labels)),
});

function made() {
  const store = createEndpointStore();
  const { main, prefill } = poolWriters(store);
  const roles = () =>
    Object.fromEntries(store.snapshot().map(({ name, labels }) => [name.slice(3), labels.get("llm-d.ai/role")]));
  return { store, main, prefill, roles };
}

describe("a pool that computes prompts for another", () => {
  it("puts its pods beside the other's, with the label, whatever theirs is", () => {
    const { store, main, prefill, roles } = made();
    prefill.replaceAll("pods", [spec("p", "10.0.0.1", { "llm-d.ai/role": "both", app: "x" })]);
    prefill.markSynced();
    expect(store.isSynced).toBe(false);
    main.replaceAll("pods", [spec("d", "10.0.0.2")]);
    main.markSynced();
    expect(store.isSynced).toBe(true);
    expect(roles()).toEqual({ p: "prefill", d: undefined });
    expect(store.get(endpointName("ns", "p"))?.labels.get("app")).toBe("x");
    main.replaceAll("pods", []);
    expect(roles()).toEqual({ p: "prefill" });
    prefill.replaceAll("pods", []);
    expect(roles()).toEqual({});
  });

  it("keeps a pod of both, until it leaves the pool", () => {
    const { main, prefill, roles } = made();
    const [both, other] = [spec("b", "10.0.0.1"), spec("o", "10.0.0.2")];
    main.replaceAll("pods", [both, other]);
    expect(roles()).toEqual({ b: undefined, o: undefined });
    prefill.upsert("pods", both);
    main.upsert("pods", both);
    main.replaceAll("pods", [both, other]);
    expect(roles()).toEqual({ b: "prefill", o: undefined });
    prefill.remove("pods", endpointName("ns", "b"));
    expect(roles()).toEqual({ b: undefined, o: undefined });
    prefill.replaceAll("pods", [both]);
    expect(roles()).toEqual({ b: "prefill", o: undefined });
    prefill.replaceAll("pods", []);
    expect(roles()).toEqual({ b: undefined, o: undefined });
    prefill.upsert("pods", both);
    main.remove("pods", endpointName("ns", "b"));
    expect(roles()).toEqual({ b: "prefill", o: undefined });
    prefill.remove("pods", endpointName("ns", "b"));
    expect(roles()).toEqual({ o: undefined });
  });
});
