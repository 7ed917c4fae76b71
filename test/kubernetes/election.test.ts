/** Three contenders for one lease on a real API server, each with a network of its own that may fail. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { createKubernetesApi } from "../../src/net/kubernetes/api-client.ts";
import { accountCredentials } from "../../src/net/kubernetes/credentials.ts";
import { createLeaseStore, type Lease } from "../../src/net/kubernetes/lease.ts";
import { LeaseElection } from "../../src/net/kubernetes/lease-election.ts";
import { eventually } from "../stack.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { type FaultProxy, startFaultProxy } from "./fault-proxy.ts";
import { grantPickerRights, pickerAccount } from "./picker-pod.ts";

let plane: ControlPlane;
const open: { close(): Promise<void> }[] = [];
/** Each takes less than a minute where nothing else runs. */
const limitMs = 300_000;

beforeAll(async () => {
  plane = await startControlPlane();
}, 120_000);
afterAll(async () => {
  await plane?.close();
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
}, 60_000);

interface Contender {
  readonly election: LeaseElection;
  readonly network: FaultProxy;
}

/** A few seconds in place of client-go's fifteen. */
const times = { leaseMs: 4_000, renewMs: 2_500, retryMs: 500 };

async function contenders(namespace: string, count: number): Promise<readonly Contender[]> {
  await plane.api.request({
    method: "POST",
    path: "/api/v1/namespaces",
    body: JSON.stringify({ metadata: { name: namespace } }),
  });
  await grantPickerRights(plane, namespace, "signalbox-epp-leader-election");
  const account = await plane.accountFolder(namespace, pickerAccount);
  const made: Contender[] = [];
  for (let i = 0; i < count; i++) {
    const network = await startFaultProxy(plane.port);
    const api = createKubernetesApi(accountCredentials("127.0.0.1", String(network.port), account));
    const election = new LeaseElection({
      store: createLeaseStore(api, namespace, "it"),
      identity: `contender-${i}`,
      report: () => {},
      times,
    });
    open.push(network, api, election);
    made.push({ election, network });
  }
  return made;
}

/** Looks at every turn of the loop that has a millisecond between; the most that ever led at once. */
function watchLeaders(all: readonly Contender[]): { most(): number } {
  let most = 0;
  const timer = setInterval(() => {
    most = Math.max(most, all.filter(({ election }) => election.isLeading).length);
  }, 1);
  open.push({ close: () => Promise.resolve(clearInterval(timer)) });
  return { most: () => most };
}

const leaseOf = async (namespace: string): Promise<Lease> =>
  JSON.parse(
    await plane.api.request({ path: `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases/it` }),
  ) as Lease;

const leaderOf = (all: readonly Contender[], what: string): Promise<Contender> =>
  eventually(what, () => Promise.resolve(all.find(({ election }) => election.isLeading)), 60_000);

describe("three contenders", () => {
  it(
    "have one leader, and another when that one's network fails silently or its lease is given back",
    async () => {
      const all = await contenders("election-1", 3);
      const watched = watchLeaders(all);
      for (const { election } of all) election.start();
      const first = await leaderOf(all, "one leads");
      const { spec } = await leaseOf("election-1");
      expect(spec).toMatchObject({ leaseDurationSeconds: 4, leaseTransitions: 0 });
      expect(spec.renewTime).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
      expect(all.map(({ election }) => election).find(({ isLeading }) => isLeading)).toBe(first.election);
      first.network.manner = "silent";
      const others = all.filter((one) => one !== first);
      const second = await leaderOf(others, "another leads");
      expect(first.election.isLeading).toBe(false);
      expect(await leaseOf("election-1")).toMatchObject({ spec: { leaseTransitions: 1 } });
      first.network.manner = "pass";
      first.network.cut();
      await eventually(
        "the first sees whom it follows",
        () =>
          Promise.resolve(first.election.holder === second.election.holder && first.election.lastError === undefined),
        30_000,
      );
      await second.election.close();
      expect(await leaseOf("election-1")).toMatchObject({ spec: { holderIdentity: "" } });
      await leaderOf(
        all.filter((one) => one !== second),
        "one of the two others leads",
      );
      expect(watched.most()).toBe(1);
    },
    limitMs,
  );

  it(
    "have no leader while the API server is away, and one when it is back",
    async () => {
      const all = await contenders("election-2", 3);
      const watched = watchLeaders(all);
      for (const { election } of all) election.start();
      const first = await leaderOf(all, "one leads");
      await plane.stopApiServer();
      await eventually("it leads no more", () => Promise.resolve(!first.election.isLeading), 30_000);
      await plane.startApiServer();
      await leaderOf(all, "one leads again");
      expect(watched.most()).toBe(1);
    },
    limitMs,
  );

  it(
    "that may not touch leases have no leader and go on asking",
    async () => {
      const [contender] = await contenders("election-3", 1);
      const rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/election-3/rolebindings";
      const binding = JSON.parse(await plane.api.request({ path: `${rbac}/signalbox-epp-leader-election` })) as {
        readonly roleRef: object;
        readonly subjects: object;
      };
      await plane.api.request({ method: "DELETE", path: `${rbac}/signalbox-epp-leader-election` });
      contender?.election.start();
      await eventually("it is refused", () => Promise.resolve(contender?.election.lastError !== undefined), 30_000);
      expect(contender?.election.isLeading).toBe(false);
      expect(contender?.election.lastError).toMatchObject({ status: 403 });
      const { roleRef, subjects } = binding;
      const body = JSON.stringify({ metadata: { name: "again" }, roleRef, subjects });
      await plane.api.request({ method: "POST", path: rbac, body });
      await eventually("it leads", () => Promise.resolve(contender?.election.isLeading === true), 30_000);
    },
    limitMs,
  );
});
