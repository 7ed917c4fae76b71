/**
 * The running picker under traffic through a real Envoy while everything around its pool changes, and while the way to the API server fails in every
 * way it can: no change is missed, and no request fails for it.
 */
import { createPrivateKey, sign } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { Etcd3 } from "etcd3";
import type { Load } from "../e2e/load.ts";
import { chat, defaultModel, eventually } from "../stack.ts";
import { type ControlPlane, startControlPlane } from "./control-plane.ts";
import { installDefinitions } from "./definitions.ts";
import { type FaultProxy, startFaultProxy } from "./fault-proxy.ts";
import { poolGroup, poolSpec } from "./pool-namespace.ts";
import { engineLabels, poolName, type ServingSite, type SiteOptions, startServingSite } from "./serving-site.ts";
import { podAddress } from "./stored-pods.ts";

let plane: ControlPlane;
let count = 0;
const open: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  plane = await startControlPlane();
  await installDefinitions(plane.api, "inference-extension", "llm-d-objectives", "inference-objectives");
}, 180_000);
afterAll(async () => {
  await plane?.close();
});
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close();
}, 60_000);

const current = "llm-d.ai";
const legacy = "inference.networking.x-k8s.io";

async function startSite(options: Omit<SiteOptions, "namespace">): Promise<ServingSite> {
  const site = await startServingSite(plane, { namespace: `faults-${++count}`, ...options });
  open.push(site);
  return site;
}

function startTraffic(site: ServingSite): Load {
  const traffic = site.traffic(4);
  open.push({ close: () => traffic.stop() });
  return traffic;
}

const failuresOf = ({ outcomes }: Load): readonly string[] =>
  outcomes.filter(({ status }) => status !== 200).map(({ status, note }) => `${status}: ${note}`);

/** Applies an objective or a rewrite that refers to the pool; without a spec it is deleted. */
async function put({ place }: ServingSite, group: string, plural: string, name: string, spec?: object): Promise<void> {
  const path = `/apis/${group}/v1alpha2/namespaces/${place.namespace}/${plural}/${name}`;
  if (spec === undefined) {
    await plane.api.request({ method: "DELETE", path });
    return;
  }
  const kind = plural === "inferenceobjectives" ? "InferenceObjective" : "InferenceModelRewrite";
  const poolRef = { group: poolGroup, kind: "InferencePool", name: poolName };
  await plane.api.request({
    method: "PATCH",
    path: `${path}?fieldManager=tests&force=true`,
    contentType: "application/apply-patch+yaml",
    body: JSON.stringify({ apiVersion: `${group}/v1alpha2`, kind, metadata: { name }, spec: { poolRef, ...spec } }),
  });
}

/** Waits until the pool's objectives have these priorities. */
async function prioritiesAre(site: ServingSite, priorities: Readonly<Record<string, number>>): Promise<void> {
  const textOf = (shown: Readonly<Record<string, number>>): string =>
    Object.entries(shown)
      .map(([name, priority]) => `${name}=${priority}`)
      .sort()
      .join();
  const expected = textOf(priorities);
  await eventually(
    `the priorities are ${expected}`,
    async () => {
      const { objectives } = await site.debug<{ readonly objectives: Record<string, { readonly priority: number }> }>(
        "/debug/objects",
      );
      const shown = Object.entries(objectives).map(([name, { priority }]) => [name, priority] as const);
      return textOf(Object.fromEntries(shown)) === expected;
    },
    60_000,
  );
}

/** The model that the engine sees for the default one. */
async function modelIs(site: ServingSite, model: string): Promise<void> {
  await eventually(
    `engines are asked for ${model}`,
    async () => {
      const response = await fetch(`${site.envoy.url}/v1/chat/completions`, chat("which model?"));
      return response.headers.get("x-signalbox-target-model") === model;
    },
    30_000,
  );
}

const rewriteTo = (model: string): object => ({
  rules: [
    {
      matches: [{ model: { type: "Exact", value: defaultModel } }],
      targets: [{ modelRewrite: model, weight: 1 }],
    },
  ],
});

const addresses = (from: number, to: number): readonly string[] =>
  Array.from({ length: to - from }, (_, index) => podAddress(from + index));

describe("under traffic", () => {
  it("objectives and rewrites of both groups are followed as they come, change and go", async () => {
    const site = await startSite({ pods: 4 });
    const traffic = startTraffic(site);
    await put(site, legacy, "inferenceobjectives", "gold", { priority: 1 });
    await prioritiesAre(site, { gold: 1 });
    await put(site, current, "inferenceobjectives", "gold", { priority: 5 });
    await prioritiesAre(site, { gold: 5 });
    await put(site, current, "inferenceobjectives", "gold", { priority: 7 });
    await prioritiesAre(site, { gold: 7 });
    await put(site, current, "inferenceobjectives", "gold");
    await prioritiesAre(site, { gold: 1 });
    await put(site, current, "inferenceobjectives", "theirs", {
      priority: 9,
      poolRef: { group: poolGroup, kind: "InferencePool", name: "another" },
    });
    await put(site, legacy, "inferencemodelrewrites", "canary", rewriteTo("canary-1"));
    await modelIs(site, "canary-1");
    await put(site, legacy, "inferencemodelrewrites", "canary", rewriteTo("canary-2"));
    await modelIs(site, "canary-2");
    await put(site, legacy, "inferencemodelrewrites", "canary");
    await modelIs(site, defaultModel);
    await prioritiesAre(site, { gold: 1 });
    await traffic.stop();
    expect(failuresOf(traffic)).toEqual([]);
  }, 180_000);

  it("a pool's ports and selector are followed; a deleted one is 503, and made anew it has its endpoints and objectives at once", async () => {
    const site = await startSite({ pods: 6 });
    await put(site, current, "inferenceobjectives", "gold", { priority: 3 });
    await prioritiesAre(site, { gold: 3 });
    const traffic = startTraffic(site);
    for (const index of [4, 5]) await site.place.patchPod(`engine-${index}`, { labels: { app: "other" } });
    await site.sees(addresses(0, 4));
    await site.place.putPool(poolName, poolSpec({ app: "other" }, site.enginePort));
    await site.sees(addresses(4, 6));
    await site.place.putPool(poolName, poolSpec(engineLabels, site.enginePort));
    await site.sees(addresses(0, 4));
    await traffic.stop();
    expect(failuresOf(traffic)).toEqual([]);
    await site.place.deletePool(poolName);
    await site.sees([]);
    const refused = await fetch(`${site.envoy.url}/v1/chat/completions`, chat("anyone?"));
    expect(refused.status).toBe(503);
    expect(refused.headers.get("x-llm-d-request-dropped-reason")).toBe("rejected-no-endpoints");
    await prioritiesAre(site, { gold: 3 });
    await site.place.putPool(poolName, poolSpec(engineLabels, site.enginePort));
    await site.sees(addresses(0, 4));
    const answered = await fetch(`${site.envoy.url}/v1/chat/completions`, chat("anyone?"));
    expect(answered.status).toBe(200);
  }, 180_000);
});

describe("a way to the API server that fails", () => {
  async function proxied(options: Partial<SiteOptions> = {}): Promise<{ site: ServingSite; proxy: FaultProxy }> {
    const proxy = await startFaultProxy(plane.port);
    open.push(proxy);
    const site = await startSite({ pods: 20, apiPort: proxy.port, ...options });
    return { site, proxy };
  }

  /** Changes a pod of each sort and an objective; what is to be seen then. Each round undoes the one before. */
  async function change(site: ServingSite, round: number): Promise<() => Promise<void>> {
    const isOff = round % 2 === 0;
    await site.place.setStatus("engine-0", { ips: [podAddress(0)], ready: !isOff });
    if (isOff) await site.place.deletePod("engine-1");
    else await site.place.createPod("engine-1", { labels: engineLabels, ips: [podAddress(1)] });
    await put(site, current, "inferenceobjectives", "gold", { priority: round });
    return async () => {
      await site.sees(addresses(isOff ? 2 : 0, 20));
      await prioritiesAre(site, { gold: round });
    };
  }

  it("by connections cut again and again loses no change", async () => {
    const { site, proxy } = await proxied();
    const traffic = startTraffic(site);
    for (let round = 0; round < 4; round++) {
      proxy.cut();
      const isSeen = await change(site, round);
      proxy.cut();
      await isSeen();
    }
    await traffic.stop();
    expect(failuresOf(traffic)).toEqual([]);
  }, 240_000);

  it("by refusing, by silence and by slowness is waited out, and what was missed is seen after", async () => {
    const { site, proxy } = await proxied();
    const traffic = startTraffic(site);
    for (const [round, manner] of (["refuse", "silent", "slow"] as const).entries()) {
      proxy.manner = manner;
      // Silence is left to the picker to find out.
      if (manner !== "silent") proxy.cut();
      const isSeen = await change(site, round);
      if (manner === "refuse") {
        const refused = proxy.connections;
        await eventually("it was tried", () => Promise.resolve(proxy.connections > refused + 3), 60_000);
        expect(await site.addresses()).toHaveLength(20);
      }
      if (manner === "silent") {
        const taken = proxy.connections;
        await eventually("the silence is noticed", () => Promise.resolve(proxy.connections > taken), 90_000);
      }
      if (manner !== "slow") proxy.manner = "pass";
      if (manner === "silent") proxy.cut();
      await isSeen();
    }
    await traffic.stop();
    expect(failuresOf(traffic)).toEqual([]);
  }, 300_000);

  it("by an expired token is waited out until the token is renewed", async () => {
    const folder = await mkdtemp(join(tmpdir(), "signalbox-token-"));
    open.push({ close: () => rm(folder, { recursive: true, force: true }) });
    const tokenFile = join(folder, "token");
    const account = await createAccount();
    await writeFile(tokenFile, await mintToken(account, 600));
    const { site, proxy } = await proxied({ tokenFile });
    const traffic = startTraffic(site);
    await writeFile(tokenFile, await mintToken(account, -60));
    proxy.cut();
    const isSeen = await change(site, 0);
    await eventually("its refusal is told", () =>
      Promise.resolve(site.picker.lines.some((line) => line.includes("401") && line.includes("Unauthorized"))),
    );
    expect(await site.addresses()).toHaveLength(20);
    await writeFile(tokenFile, await mintToken(account, 600));
    await isSeen();
    await traffic.stop();
    expect(failuresOf(traffic)).toEqual([]);
  }, 180_000);

  it("to a version that has been compacted away meanwhile ends in a new list", async () => {
    const { site, proxy } = await proxied();
    const traffic = startTraffic(site);
    proxy.manner = "refuse";
    proxy.cut();
    const isSeen = await change(site, 0);
    const etcd = new Etcd3({ hosts: plane.etcd.url });
    const { header } = await etcd.kv.range({ key: Buffer.from("/") });
    await etcd.kv.compact({ revision: header.revision, physical: true });
    etcd.close();
    // What the API server had in memory of the past goes as well.
    await plane.stopApiServer();
    await plane.startApiServer();
    proxy.manner = "pass";
    await isSeen();
    await traffic.stop();
    expect(failuresOf(traffic)).toEqual([]);
  }, 240_000);
});

interface Account {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

/** An account that may look at everything. */
async function createAccount(): Promise<Account> {
  const name = `viewer-${++count}`;
  const text = await plane.api.request({
    method: "POST",
    path: "/api/v1/namespaces/default/serviceaccounts",
    body: JSON.stringify({ metadata: { name } }),
  });
  await plane.api.request({
    method: "POST",
    path: "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    body: JSON.stringify({
      metadata: { name },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "cluster-admin" },
      subjects: [{ kind: "ServiceAccount", name, namespace: "default" }],
    }),
  });
  const { metadata } = JSON.parse(text) as { readonly metadata: { readonly uid: string } };
  return { namespace: "default", name, uid: metadata.uid };
}

/** As the API server issues them, which gives none of less than ten minutes (RFC 7519, ES256). */
async function mintToken({ namespace, name, uid }: Account, expiresInSeconds: number): Promise<string> {
  const key = createPrivateKey(await readFile(plane.certificates.accountKey));
  const seconds = Math.floor(Date.now() / 1000);
  const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const issuer = "https://kubernetes.default.svc";
  const text = `${encode({ alg: "ES256" })}.${encode({
    iss: issuer,
    aud: [issuer],
    sub: `system:serviceaccount:${namespace}:${name}`,
    iat: seconds - 3600,
    nbf: seconds - 3600,
    exp: seconds + expiresInSeconds,
    "kubernetes.io": { namespace, serviceaccount: { name, uid } },
  })}`;
  return `${text}.${sign("sha256", Buffer.from(text), { key, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}
