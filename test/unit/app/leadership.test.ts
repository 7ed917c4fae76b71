import { afterEach, describe, expect, it } from "@jest/globals";
import { createLeadership, type Leadership } from "../../../src/app/leadership.ts";
import { type ApiRequest, KubernetesApiError } from "../../../src/net/kubernetes/api-client.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { createMetrics } from "../../../src/telemetry/metrics.ts";
import { until } from "../dynamo/until.ts";

const open: Leadership[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

/** An API server with one lease, which nobody may watch. */
function server() {
  const state: { lease: { metadata: object; spec: Record<string, unknown> } | undefined } = { lease: undefined };
  const paths = new Set<string>();
  const api = {
    async request({ method = "GET", path, body = "" }: ApiRequest) {
      await Promise.resolve();
      if (path.includes("?")) throw new KubernetesApiError("forbidden", 403);
      paths.add(path);
      if (method !== "GET") state.lease = JSON.parse(body) as NonNullable<typeof state.lease>;
      if (state.lease === undefined) throw new KubernetesApiError("none", 404);
      return JSON.stringify(state.lease);
    },
    watch: () => Promise.reject(new KubernetesApiError("forbidden", 403)),
    close: () => Promise.resolve(),
  };
  return { api, paths, state };
}

function leadership(options: {
  poolName?: string;
  environment?: Record<string, string>;
  api?: ReturnType<typeof server>["api"];
}) {
  const metrics = createMetrics({ streamMetrics: false, version: "0" });
  const noted: string[] = [];
  const changes = { count: 0 };
  const made = createLeadership({
    poolName: options.poolName ?? "pool",
    namespace: "ns",
    environment: options.environment ?? {},
    api: options.api,
    events: {
      note: (object, _about, { reason, message }) => noted.push(`${object} ${reason}: ${message}`),
    },
    metrics,
    log: silentLogger,
    changed: () => changes.count++,
  });
  open.push(made);
  return { made, metrics, noted, changes };
}

describe("leadership", () => {
  it("is taken when it is contended for, told in the metric and an Event, and given back", async () => {
    const { api, state, paths } = server();
    const { made, metrics, noted, changes } = leadership({ api, environment: { POD_NAME: "picker-0" } });
    const status = metrics.families.leaderStatus.series("epp-ns-pool.llm-d.ai");
    expect([made.isLeading, status.value]).toEqual([false, 0]);
    made.contend();
    made.contend();
    await until(() => made.isLeading);
    expect(status.value).toBe(1);
    expect([...paths]).toContain("/apis/coordination.k8s.io/v1/namespaces/ns/leases/epp-ns-pool.llm-d.ai");
    const identity = String(state.lease?.spec["holderIdentity"]);
    expect(identity).toMatch(/^picker-0_[0-9a-f-]{36}$/);
    expect(made.describe()).toMatchObject({
      lease: "ns/epp-ns-pool.llm-d.ai",
      identity,
      isLeading: true,
      holder: identity,
    });
    expect(noted).toEqual([`Lease epp-ns-pool.llm-d.ai LeaderElection: ${identity} became leader`]);
    await made.close();
    expect([made.isLeading, status.value, state.lease?.spec["holderIdentity"]]).toEqual([false, 0, ""]);
    expect(changes.count).toBe(2);
  });

  it("is given back while the replica is not fit, and contended for again when it is", async () => {
    const { api, state } = server();
    const { made, metrics } = leadership({ api });
    const status = metrics.families.leaderStatus.series("epp-ns-pool.llm-d.ai");
    made.abstain();
    made.contend();
    await until(() => made.isLeading);
    made.abstain();
    made.abstain();
    expect(made.isLeading).toBe(false);
    await until(() => state.lease?.spec["holderIdentity"] === "");
    expect([status.value, made.describe()["contends"]]).toEqual([0, false]);
    await until(() => {
      made.contend();
      return made.isLeading;
    });
    expect(state.lease?.spec["leaseTransitions"]).toBe(1);
    await made.close();
    made.contend();
    expect([made.isLeading, state.lease?.spec["holderIdentity"]]).toEqual([false, ""]);
  });

  it("is the page's gauge by the reference's name", async () => {
    const { made, metrics } = leadership({ api: server().api });
    made.contend();
    await until(() => made.isLeading);
    expect(await metrics.render()).toContain('\nleader_election_master_status{name="epp-ns-pool.llm-d.ai"} 1\n');
  });

  it("with a label selector is of the Deployment of the picker's pod", () => {
    const { made } = leadership({
      poolName: "",
      api: server().api,
      environment: { POD_NAME: "my-epp-6d8f9c7b5-x2v9p" },
    });
    expect(made.describe()).toMatchObject({ lease: "ns/epp-ns-my-epp.llm-d.ai" });
  });

  it.each<Record<string, string>>([{}, { POD_NAME: "epp" }])(
    "with a label selector and %j is refused",
    (environment) => {
      expect(() => leadership({ poolName: "", api: server().api, environment })).toThrow(
        /needs --pool-name, or POD_NAME/,
      );
    },
  );

  it("without a way to an API server is refused", () => {
    expect(() => leadership({ environment: { HOME: "/nonexistent" } })).toThrow(/needs a Kubernetes API server/);
  });
});
