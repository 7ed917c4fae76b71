import { describe, expect, it } from "@jest/globals";
import {
  type Endpoint,
  type Endpoints,
  type RequestObserver,
  sessionIdKey,
} from "../../../../src/scheduling/contracts.ts";
import {
  type SessionAffinityParameters,
  sessionAffinityFaults,
  sessionAffinitySchema,
} from "../../../../src/scheduling/plugins/session-affinity/parameters.ts";
import { sessionAffinityFilter } from "../../../../src/scheduling/plugins/session-affinity/session-affinity-filter.ts";
import { sessionAffinityScorer } from "../../../../src/scheduling/plugins/session-affinity/session-affinity-scorer.ts";
import { SessionBindings } from "../../../../src/scheduling/plugins/session-affinity/session-bindings.ts";
import {
  assignment,
  create,
  cycle,
  endpointsOf,
  type RequestInit,
  request,
  scoresOf,
  seeded,
  withDefaults,
} from "../cycle-fixtures.ts";

const three = endpointsOf({}, {}, {});
const at = (...slots: readonly number[]): Endpoint[] => three.filter(({ slot }) => slots.includes(slot));
const token = (name: string): string => Buffer.from(name).toString("base64");

/** Every way to ask where a session is pinned, behind one face: the pinned slot, or undefined. */
const faces = [
  [
    "session-affinity-filter",
    (parameters: object) => {
      const filter = create(sessionAffinityFilter, parameters);
      return {
        observer: filter as RequestObserver,
        pinned: (made: ReturnType<typeof request>, endpoints: Endpoints, nowMs = 0): number | undefined => {
          const kept = filter.filter(cycle(made, seeded(1), nowMs), endpoints);
          return kept === endpoints ? undefined : kept[0]?.slot;
        },
      };
    },
  ],
  [
    "session-affinity-scorer",
    (parameters: object) => {
      const scorer = create(sessionAffinityScorer, parameters);
      return {
        observer: scorer as RequestObserver,
        pinned: (made: ReturnType<typeof request>, endpoints: Endpoints, nowMs = 0): number | undefined => {
          const scores = scoresOf(scorer, cycle(made, seeded(1), nowMs), endpoints);
          return scores.includes(1) ? endpoints[scores.indexOf(1)]?.slot : undefined;
        },
      };
    },
  ],
] as const;

describe.each(faces)("%s with encoded_endpoint_header", (_type, face) => {
  it.each<[string, RequestInit["headers"], number | undefined]>([
    ["a token of a candidate", { "x-session-token": token("default/pod-1") }, 1],
    ["a token of no candidate", { "x-session-token": token("default/gone") }, undefined],
    ["no token", {}, undefined],
    ["an empty token", { "x-session-token": "" }, undefined],
    ["no base64", { "x-session-token": "%%%" }, undefined],
    ["an endless token", { "x-session-token": "A".repeat(100_000) }, undefined],
  ])("follows %s", (_what, headers, expected) => {
    expect(face({}).pinned(request({ headers: headers ?? {} }), three)).toBe(expected);
  });

  const written = (
    parameters: object,
    destinations: Endpoints,
    served?: string,
    prefill: Endpoints = [],
  ): string[][] => {
    const set: string[][] = [];
    face(parameters).observer.responseHeaders?.(
      request(),
      assignment(destinations, { prefill }),
      { status: 200, served },
      { set: (...header) => set.push(header) },
    );
    return set;
  };

  it("writes the destination's token into the answer", () => {
    expect(written({}, at(2))).toEqual([["x-session-token", token("default/pod-2")]]);
  });

  it("writes the fallback's token when the gateway says that it served", () => {
    expect(written({}, at(0, 1), "10.0.0.2:8000")).toEqual([["x-session-token", token("default/pod-1")]]);
    expect(written({}, at(0, 1), "9.9.9.9:1")).toEqual([["x-session-token", token("default/pod-0")]]);
  });

  it("writes the endpoint of the profile it is about, or nothing when that did not run", () => {
    const parameters = { profileName: "prefill", encodedEndpointHeaderConfig: { header: "X-Prefill" } };
    expect(written(parameters, at(0), undefined, at(2))).toEqual([["x-prefill", token("default/pod-2")]]);
    expect(written(parameters, at(0))).toEqual([]);
  });

  it("does not learn from assignments", () => {
    expect(face({}).observer).not.toHaveProperty("assigned");
  });
});

describe.each(faces)("%s with session_id", (_type, face) => {
  const headers = { "x-session-id": "s1" };
  const parameters = { strategy: "session_id" };

  const visit = (
    made: ReturnType<(typeof faces)[number][1]>,
    candidates: Endpoints,
    picked: Endpoints,
    nowMs = 0,
    by: RequestInit = { headers },
  ): number | undefined => {
    const of = request(by);
    const pinned = made.pinned(of, candidates, nowMs);
    made.observer.assigned?.(of, assignment(picked), { set: () => {} });
    return pinned;
  };

  it("pins a session to the endpoint that its first request went to", () => {
    const made = face(parameters);
    expect(visit(made, three, at(1))).toBeUndefined();
    expect(visit(made, three, at(1))).toBe(1);
    expect(visit(made, three, at(1), 0, { headers: { "x-session-id": "other" } })).toBeUndefined();
  });

  it("moves a session when its endpoint is no candidate any more", () => {
    const made = face(parameters);
    visit(made, three, at(1));
    expect(visit(made, at(0, 2), at(2))).toBeUndefined();
    expect(visit(made, three, at(2))).toBe(2);
  });

  it("keeps a session where it is when its endpoint was a candidate but another was picked", () => {
    const made = face(parameters);
    visit(made, three, at(1));
    visit(made, three, at(0));
    expect(visit(made, three, at(1))).toBe(1);
  });

  it("forgets a session after its time to live since the last use", () => {
    const made = face(parameters);
    visit(made, three, at(1), 0);
    visit(made, three, at(1), 200_000);
    expect(visit(made, three, at(1), 500_000)).toBe(1);
    expect(visit(made, three, at(0), 800_001)).toBeUndefined();
    expect(visit(made, three, at(0), 800_002)).toBe(0);
  });

  it("reads its sources in order and skips empty ones", () => {
    const made = face({
      ...parameters,
      sessionIdConfig: { sources: [{ header: "X-First" }, { attribute: "session-id" }, { header: "x-last" }] },
    });
    const named = (by: Record<string, string>, attribute?: string) => {
      const of = request({ headers: by });
      if (attribute !== undefined) of.setAttribute(sessionIdKey, attribute);
      return of;
    };
    const first = named({ "x-first": " a " });
    made.pinned(first, three);
    made.observer.assigned?.(first, assignment(at(2)), { set: () => {} });
    expect(made.pinned(named({ "x-first": "a" }, "b"), three)).toBe(2);
    expect(made.pinned(named({ "x-first": "  " }, "a"), three)).toBe(2);
    expect(made.pinned(named({ "x-last": "a" }), three)).toBe(2);
    expect(made.pinned(named({ "x-last": "b" }), three)).toBeUndefined();
  });

  it("ignores an id longer than it would keep", () => {
    const made = face(parameters);
    const long = { headers: { "x-session-id": "x".repeat(257) } };
    visit(made, three, at(1), 0, long);
    expect(visit(made, three, at(1), 0, long)).toBeUndefined();
  });

  it("pins the endpoint of the profile it is about", () => {
    const made = face({ ...parameters, profileName: "prefill" });
    const of = request({ headers });
    made.pinned(of, three);
    made.observer.assigned?.(of, assignment(at(0), { prefill: at(2) }), { set: () => {} });
    expect(made.pinned(request({ headers }), three)).toBe(2);
  });

  it("writes nothing to the client", () => {
    expect(face(parameters).observer).not.toHaveProperty("responseHeaders");
  });
});

describe("session bindings", () => {
  const complete = (given: object): SessionAffinityParameters =>
    withDefaults(sessionAffinitySchema, { strategy: "session_id", ...given }) as unknown as SessionAffinityParameters;

  const bind = (bindings: SessionBindings, id: string, nowMs: number): void => {
    const of = request({ headers: { "x-session-id": id } });
    bindings.find(cycle(of, seeded(1), nowMs), three);
    bindings.observer.assigned?.(of, assignment(at(0)), { set: () => {} });
  };

  it("are bounded: beyond 65,536 the longest unused session is forgotten", () => {
    const bindings = new SessionBindings("sessions", complete({}));
    for (let i = 0; i < 65_536; i++) bind(bindings, `s${i}`, 0);
    bind(bindings, "s0", 1);
    bind(bindings, "new", 2);
    expect(bindings.size).toBe(65_536);
    const pinned = (id: string) => bindings.find(cycle({ headers: { "x-session-id": id } }, seeded(1), 3), three)?.slot;
    expect([pinned("s0"), pinned("s1"), pinned("s2"), pinned("new")]).toEqual([0, undefined, 0, 0]);
  });

  it("are swept of expired sessions as requests come", () => {
    const bindings = new SessionBindings(
      "sessions",
      complete({ sessionIdConfig: { evictionTtlSeconds: 1, evictionSweepSeconds: 10 } }),
    );
    for (let i = 0; i < 100; i++) bind(bindings, `s${i}`, 0);
    bind(bindings, "late", 9_000);
    expect(bindings.size).toBe(101);
    bind(bindings, "later", 10_000);
    expect(bindings.size).toBe(2);
  });

  it.each<[object, string | undefined]>([
    [{ sources: [{ header: "a", attribute: "session-id" }] }, "sessionIdConfig.sources[0]: exactly one of"],
    [{ sources: [{}] }, "sessionIdConfig.sources[0]: exactly one of"],
    [
      { sources: [{ header: "a" }, { attribute: "agent-identity" }] },
      "sessionIdConfig.sources[1].attribute: agent-identity is not built yet",
    ],
    [{ sources: [{ attribute: "colour" }] }, "is not session-id"],
    [{ sources: [{ attribute: "SessionIDDataKey", producer: "session-id-producer" }] }, undefined],
    [{}, undefined],
  ])("check their sources: %j", (sessionIdConfig, fault) => {
    const faults = sessionAffinityFaults(complete({ sessionIdConfig }));
    if (fault === undefined) expect(faults).toEqual([]);
    else expect(faults[0]).toContain(fault);
  });
});
