import { describe, expect, it } from "@jest/globals";
import { jointReadiness, type PoolParts, type PoolReadiness, readinessOf } from "../../../src/app/pool-readiness.ts";
import type { PoolState } from "../../../src/data/discovery/kubernetes/pool-discovery.ts";
import type { AppProtocol } from "../../../src/request/app-protocol.ts";
import { readsProtocol } from "../../../src/request/parser-set.ts";

const pool = (appProtocol?: AppProtocol) => ({ selector: "a=1", targetPorts: [1], appProtocol });
const listed = (appProtocol?: AppProtocol): PoolState => ({ kind: "listed", pool: pool(appProtocol) });

function parts(state: PoolState | undefined, other: Partial<PoolParts> = {}): PoolParts {
  return {
    store: { isSynced: true },
    configuration: { isReady: true, current: { config: { parsers: ["openai-parser"] } } },
    objects: { isSynced: true },
    discovery: state === undefined ? undefined : { state },
    ...other,
  };
}

describe("a pool", () => {
  it.each<readonly [string, PoolParts, PoolReadiness["kind"]]>([
    ["that is no object of a cluster", parts(undefined), "ready"],
    ["that is listed", parts(listed()), "ready"],
    ["that nobody has heard of yet", parts({ kind: "unheard" }), "coming"],
    ["whose pods are being listed", parts({ kind: "listing", pool: pool() }), "coming"],
    ["that does not exist", parts({ kind: "absent" }), "unserved"],
    ["that cannot be read", parts({ kind: "faulty" }), "unserved"],
    ["without a list of endpoints", parts(listed(), { store: { isSynced: false } }), "coming"],
    ["without a list of objectives", parts(listed(), { objects: { isSynced: false } }), "coming"],
    [
      "with a plugin that is not ready",
      parts(listed(), { configuration: { isReady: false, current: { config: { parsers: [] } } } }),
      "coming",
    ],
  ])("%s", (_what, given, kind) => {
    const readiness = readinessOf(given);
    expect(readiness.kind).toBe(kind);
    expect("reason" in readiness).toBe(kind !== "ready");
  });

  it("is not served while no parser reads its protocol, and says which", () => {
    const readsHttp = (_parsers: readonly string[], protocol: AppProtocol): boolean => protocol === "http";
    expect(readinessOf(parts(listed("kubernetes.io/h2c")), readsHttp)).toEqual({
      kind: "unserved",
      reason: "appProtocol is kubernetes.io/h2c, which none of openai-parser reads",
    });
    expect(readinessOf(parts(listed("http")), readsHttp).kind).toBe("ready");
    expect(readinessOf(parts(listed("kubernetes.io/h2c"))).kind).toBe("ready");
  });
});

describe("parsers", () => {
  const parsers = new Map([
    ["grpc", { appProtocols: ["kubernetes.io/h2c" as const] }],
    ["any", { appProtocols: [] }],
  ]);

  it("read a protocol when one of them does", () => {
    expect(readsProtocol(["grpc"], "http", parsers)).toBe(false);
    expect(readsProtocol(["grpc"], "kubernetes.io/h2c", parsers)).toBe(true);
    expect(readsProtocol(["grpc", "any"], "http", parsers)).toBe(true);
  });
});

describe("a process of several pools", () => {
  const ready: PoolReadiness = { kind: "ready" };
  const coming: PoolReadiness = { kind: "coming", reason: "soon" };
  const unserved: PoolReadiness = { kind: "unserved", reason: "missing" };

  it.each<readonly [PoolReadiness, PoolReadiness, PoolReadiness]>([
    [ready, ready, ready],
    [ready, coming, { kind: "coming", reason: "b: soon" }],
    [ready, unserved, ready],
    [unserved, unserved, { kind: "unserved", reason: "a: missing; b: missing" }],
    [coming, unserved, { kind: "coming", reason: "a: soon" }],
  ])("with %j and %j is %j", (a, b, joint) => {
    expect(
      jointReadiness(
        new Map([
          ["a", a],
          ["b", b],
        ]),
      ),
    ).toEqual(joint);
  });
});
