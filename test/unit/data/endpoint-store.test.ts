/** The endpoint store against a Map model, its snapshots, slots and load counters. */
import { describe, expect, it } from "@jest/globals";
import { type Endpoint, endpointName, noMetrics } from "../../../src/data/endpoint.ts";
import { createEndpointStore, type EndpointSpec } from "../../../src/data/endpoint-store.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import fc from "../../properties.ts";

function spec(name: string, address = "10.0.0.1", port = 8000, labels: Record<string, string> = {}): EndpointSpec {
  return { namespace: "default", name, address, port, labels: new Map(Object.entries(labels)) };
}

function only(endpoints: readonly Endpoint[]): Endpoint {
  const [endpoint] = endpoints;
  if (endpoint === undefined || endpoints.length !== 1) throw new Error("expected one endpoint");
  return endpoint;
}

const a = endpointName("default", "a");

describe("the endpoint store", () => {
  it("returns the same snapshot until something changes, and leaves an old one as it was", () => {
    const store = createEndpointStore();
    const empty = store.snapshot();
    store.upsert("file", spec("b"));
    store.upsert("file", spec("a"));
    const first = store.snapshot();
    expect(store.snapshot()).toBe(first);
    store.upsert("file", spec("a"));
    expect(store.snapshot()).toBe(first);
    store.setMetrics(a, { ...noMetrics, waitingRequests: 3 });
    expect(store.snapshot()).not.toBe(first);
    expect(store.snapshot().map((endpoint) => [endpoint.name, endpoint.metrics.waitingRequests])).toEqual([
      ["default/a", 3],
      ["default/b", 0],
    ]);
    expect(first[0]?.metrics.waitingRequests).toBe(0);
    expect(empty).toEqual([]);
    expect(Object.isFrozen(first)).toBe(true);
  });

  it("is in the order of names, whether endpoints change one by one or hundreds at once", () => {
    const names = fc.array(fc.integer({ min: 0, max: 999 }).map(String), { maxLength: 300 });
    const step = fc.oneof(
      fc.record({ kind: fc.constant("replace" as const), names }),
      fc.record({ kind: fc.constantFrom("upsert" as const, "remove" as const), names }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 8 }), (steps) => {
        const store = createEndpointStore();
        for (const { kind, names: chosen } of steps) {
          if (kind === "replace")
            store.replaceAll(
              "k",
              [...new Set(chosen)].map((name) => spec(name)),
            );
          for (const name of kind === "upsert" ? chosen : []) store.upsert("k", spec(name));
          for (const name of kind === "remove" ? chosen : []) store.remove("k", endpointName("default", name));
          const shown = store.snapshot().map((endpoint) => endpoint.name);
          expect(shown).toEqual([...shown].sort());
          expect(new Set(shown).size).toBe(shown.length);
          if (kind === "replace") expect(shown).toEqual([...new Set(chosen)].map((name) => `default/${name}`).sort());
        }
      }),
      { numRuns: 50 },
    );
  });

  it("keeps metrics, load and slot over a change of labels", () => {
    const store = createEndpointStore();
    store.upsert("file", spec("a", "10.0.0.1", 8000, { role: "decode" }));
    store.setMetrics(a, { ...noMetrics, runningRequests: 7 });
    const before = only(store.snapshot());
    store.book(before, 10);
    store.upsert("file", spec("a", "10.0.0.1", 8000, { role: "prefill" }));
    const after = only(store.snapshot());
    expect([...after.labels]).toEqual([["role", "prefill"]]);
    expect(after.metrics.runningRequests).toBe(7);
    expect(after.load).toEqual({ requests: 1, tokens: 10 });
    expect([after.slot, after.generation]).toEqual([before.slot, before.generation]);
  });

  it("treats another address under the same name as another server", () => {
    const store = createEndpointStore();
    const told: string[] = [];
    store.subscribe({
      added: (endpoint) => told.push(`added ${endpoint.hostPort} ${endpoint.generation}`),
      removed: (endpoint) => told.push(`removed ${endpoint.hostPort} ${endpoint.generation}`),
    });
    store.upsert("file", spec("a", "10.0.0.1"));
    const old = only(store.snapshot());
    store.book(old, 100);
    store.upsert("file", spec("a", "fd00::1"));
    expect(told).toEqual(["added 10.0.0.1:8000 1", "removed 10.0.0.1:8000 1", "added [fd00::1]:8000 2"]);
    expect(only(store.snapshot()).load).toEqual({ requests: 0, tokens: 0 });
    expect(only(store.snapshot()).slot).toBe(old.slot);
  });

  it("gives a slot to another endpoint only after listeners have heard of the removal", () => {
    const store = createEndpointStore();
    store.upsert("file", spec("a"));
    const slots: number[] = [];
    store.subscribe({
      removed: (endpoint) => {
        slots.push(endpoint.slot);
        store.upsert("other", spec("c"));
        slots.push(only(store.snapshot()).slot);
      },
    });
    store.remove("file", a);
    expect(slots).toEqual([0, 1]);
    store.upsert("file", spec("d"));
    expect(store.snapshot().map((endpoint) => endpoint.slot)).toEqual([1, 0]);
  });

  it("lets a source replace only what is its own", () => {
    const store = createEndpointStore();
    store.replaceAll("one", [spec("a"), spec("b")]);
    store.replaceAll("two", [spec("c")]);
    store.replaceAll("one", [spec("b")]);
    store.remove("one", endpointName("default", "c"));
    expect(store.snapshot().map((endpoint) => endpoint.name)).toEqual(["default/b", "default/c"]);
  });

  it("tells every listener although one of them throws", () => {
    const errors: string[] = [];
    const store = createEndpointStore({ ...silentLogger, error: (_fields, message) => errors.push(message) });
    const added: string[] = [];
    store.subscribe({
      added: () => {
        throw new Error("broken");
      },
    });
    const unsubscribe = store.subscribe({ added: (endpoint) => added.push(endpoint.name) });
    store.upsert("file", spec("a"));
    unsubscribe();
    store.upsert("file", spec("b"));
    expect(added).toEqual(["default/a"]);
    expect(errors).toHaveLength(2);
  });

  it("sets and removes attributes without touching older snapshots", () => {
    const store = createEndpointStore();
    store.upsert("file", spec("a"));
    store.setAttribute(a, "models", ["m"]);
    const withModels = only(store.snapshot());
    store.setAttribute(a, "models", undefined);
    expect(withModels.attributes.get("models")).toEqual(["m"]);
    expect(only(store.snapshot()).attributes.size).toBe(0);
  });

  it("ignores metrics and attributes of an endpoint that has left", () => {
    const store = createEndpointStore();
    const before = store.snapshot();
    store.setMetrics(a, noMetrics);
    store.setAttribute(a, "models", []);
    expect(store.snapshot()).toBe(before);
  });

  it("is synced when it has been told so", () => {
    const store = createEndpointStore();
    expect(store.isSynced).toBe(false);
    store.markSynced();
    expect(store.isSynced).toBe(true);
  });

  it("agrees with a Map under any sequence of writes, with dense slots that are unique among the living", () => {
    const names = ["a", "b", "c", "d", "e"];
    const addresses = ["10.0.0.1", "10.0.0.2"];
    const write = fc.oneof(
      fc.record({
        kind: fc.constant("upsert" as const),
        name: fc.constantFrom(...names),
        address: fc.constantFrom(...addresses),
      }),
      fc.record({ kind: fc.constant("remove" as const), name: fc.constantFrom(...names), address: fc.constant("") }),
      fc.record({
        kind: fc.constant("replace" as const),
        name: fc.constantFrom(...names),
        address: fc.constantFrom(...addresses),
      }),
    );
    fc.assert(
      fc.property(fc.array(write, { maxLength: 60 }), (writes) => {
        const store = createEndpointStore();
        const model = new Map<string, string>();
        const living = new Map<string, number>();
        let most = 0;
        store.subscribe({
          added: (endpoint) => living.set(endpoint.name, endpoint.generation),
          removed: (endpoint) => {
            expect(living.get(endpoint.name)).toBe(endpoint.generation);
            living.delete(endpoint.name);
          },
        });
        for (const { kind, name, address } of writes) {
          if (kind === "remove") {
            store.remove("file", endpointName("default", name));
            model.delete(`default/${name}`);
          } else {
            if (kind === "replace") {
              store.replaceAll("file", [spec(name, address)]);
              model.clear();
            } else store.upsert("file", spec(name, address));
            model.set(`default/${name}`, address);
          }
          most = Math.max(most, model.size);
          const snapshot = store.snapshot();
          expect(snapshot.map((endpoint) => [endpoint.name, endpoint.address])).toEqual(
            [...model].sort(([a], [b]) => (a < b ? -1 : 1)),
          );
          expect(new Map(snapshot.map((endpoint) => [endpoint.name, endpoint.generation]))).toEqual(living);
          expect(new Set(snapshot.map((endpoint) => endpoint.slot)).size).toBe(snapshot.length);
          expect(Math.max(-1, ...snapshot.map((endpoint) => endpoint.slot))).toBeLessThan(most);
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe("load booking", () => {
  it("is visible at once in every snapshot of the endpoint, older ones included", () => {
    const store = createEndpointStore();
    store.upsert("file", spec("a"));
    const old = only(store.snapshot());
    store.setMetrics(a, { ...noMetrics, waitingRequests: 1 });
    const booking = store.book(old, 500);
    expect(only(store.snapshot()).load).toEqual({ requests: 1, tokens: 500 });
    booking.releaseTokens(300);
    expect(old.load).toEqual({ requests: 1, tokens: 200 });
    booking.release();
    expect(old.load).toEqual({ requests: 0, tokens: 0 });
  });

  it("does nothing to an endpoint that took the slot and the name of the one it was made on", () => {
    const store = createEndpointStore();
    store.upsert("file", spec("a"));
    const booking = store.book(only(store.snapshot()), 10);
    store.remove("file", a);
    store.upsert("file", spec("a"));
    const successor = only(store.snapshot());
    store.book(successor, 5);
    booking.releaseTokens(10);
    booking.release();
    expect(successor.load).toEqual({ requests: 1, tokens: 5 });
  });

  it("can be made on an endpoint that has just left", () => {
    const store = createEndpointStore();
    store.upsert("file", spec("a"));
    const gone = only(store.snapshot());
    store.remove("file", a);
    expect(() => store.book(gone, 1).release()).not.toThrow();
  });

  it.each([Number.NaN, -5, Number.POSITIVE_INFINITY])("counts %p tokens as none", (tokens) => {
    const store = createEndpointStore();
    store.upsert("file", spec("a"));
    const endpoint = only(store.snapshot());
    const booking = store.book(endpoint, tokens);
    booking.releaseTokens(tokens);
    expect(endpoint.load).toEqual({ requests: 1, tokens: 0 });
  });

  it("never goes below zero and is zero once everything is released, in any order and however often", () => {
    const step = fc.record({
      booking: fc.nat({ max: 5 }),
      tokens: fc.double({ min: -10, max: 1000, noNaN: true }),
      ends: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 1000, noNaN: true }), { minLength: 1, maxLength: 6 }),
        fc.array(step),
        (sizes, steps) => {
          const store = createEndpointStore();
          store.upsert("file", spec("a"));
          const endpoint = only(store.snapshot());
          const bookings = sizes.map((tokens) => store.book(endpoint, tokens));
          for (const { booking, tokens, ends } of steps) {
            if (ends) bookings[booking]?.release();
            else bookings[booking]?.releaseTokens(tokens);
            expect(endpoint.load.requests).toBeGreaterThanOrEqual(0);
            expect(endpoint.load.tokens).toBeGreaterThanOrEqual(0);
          }
          for (const booking of bookings) booking.release();
          expect(endpoint.load).toEqual({ requests: 0, tokens: 0 });
        },
      ),
      { numRuns: 200 },
    );
  });
});
