/** The running picker over a real etcd: restarts, a long absence, compaction, lost data, leases that expire. No live worker is lost, no dead one kept. */
import { once } from "node:events";
import { createServer } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from "@jest/globals";
import { Etcd3 } from "etcd3";
import type { DynamoPeer } from "../../dynamo-peer/peer.ts";
import type { PeerSite } from "../../dynamo-peer/site.ts";
import { type RunningEtcd, startEtcd } from "../../etcd.ts";
import { eventually } from "../../stack.ts";
import { createFixture, idsOf, knows } from "./fixture.ts";
import type { Picking } from "./picking.ts";

jest.setTimeout(90_000);

/** The shortest election timing makes etcd grant leases of seconds. */
const hasty = ["--heartbeat-interval", "20", "--election-timeout", "200"];
/** Long enough for a machine that is short of breath to renew in time. */
const ttlSeconds = 5;
const lasting = createFixture();
const fixture = createFixture();
let etcd: RunningEtcd;
let site: PeerSite;
let peers: DynamoPeer[];
let picking: Picking;

beforeAll(async () => {
  etcd = lasting.keep(await startEtcd(hasty));
  site = lasting.site({ etcd: { url: etcd.url, ttlSeconds } });
  picking = await lasting.picker(site);
});
beforeEach(async () => {
  peers = await fixture.peers(site, 3);
  await knows(picking, peers);
  await picking.planUntil("it serves", {}, ({ kind }) => kind === "sent");
});
afterEach(async () => {
  await fixture.closeAll();
  await picking.idle();
});
afterAll(() => lasting.closeAll());

/** Resolves when somebody has connected to the port, which is free again then. */
async function knockedAt(port: number): Promise<void> {
  const server = createServer((socket) => socket.destroy()).listen(port, "127.0.0.1");
  await once(server, "connection");
  server.close();
  await once(server, "close");
}

async function isStale(): Promise<boolean> {
  return (await picking.discovery()).isStale;
}

/** Asks until the time is over: each request is planned, on one of these workers. */
async function servesFor(ms: number, live: readonly DynamoPeer[] = peers): Promise<number> {
  const ids = new Set(idsOf(live));
  const end = performance.now() + ms;
  let asked = 0;
  for (; performance.now() < end; asked++) {
    const sent = await picking.plan({ tokens: [asked % 200, 1, 2] });
    expect(ids).toContain(sent.decode);
    await sent.answered();
  }
  return asked;
}

describe("the picker over etcd", () => {
  it("serves with exact ids above 2^53 and loses nobody while etcd restarts", async () => {
    for (const { instanceId } of peers) expect(instanceId).toBeGreaterThan(2n ** 53n);
    await etcd.kill();
    await eventually("staleness is seen", isStale);
    expect(await picking.workers()).toEqual(idsOf(peers));
    await etcd.restart();
    await eventually("etcd is back", async () => !(await isStale()));
    expect(await picking.workers()).toEqual(idsOf(peers));
    expect(await servesFor(200)).toBeGreaterThan(0);
  });

  it("serves on while etcd is away for longer than every lease, and afterwards", async () => {
    await etcd.kill();
    await eventually("staleness is seen", isStale);
    const asked = await servesFor(1.3 * ttlSeconds * 1000);
    expect(asked).toBeGreaterThan(10);
    expect(await picking.workers()).toEqual(idsOf(peers));
    await etcd.restart();
    await eventually("etcd is back", async () => !(await isStale()));
    await servesFor(1.2 * ttlSeconds * 1000);
    expect(await picking.workers()).toEqual(idsOf(peers));
  });

  it("goes on serving workers that register again after etcd has lost its data", async () => {
    await etcd.restart({ keepData: false });
    await eventually("etcd is back", async () => !(await isStale()));
    await knows(picking, peers);
    await picking.planUntil("it serves", {}, ({ kind }) => kind === "sent");
    await servesFor(200);
  });

  it("catches up past a compaction with who came and went meanwhile", async () => {
    // Leases that outlast the standstill.
    const patient = fixture.site({ etcd: { url: etcd.url } });
    for (const peer of peers) await peer.close();
    const [leaving, ...staying] = await fixture.peers(patient, 3);
    if (leaving === undefined) throw new Error("three peers");
    await knows(picking, [leaving, ...staying]);
    await picking.planUntil("it serves", {}, ({ kind }) => kind === "sent");
    process.kill(etcd.pid, "SIGSTOP");
    try {
      await eventually("staleness is seen", isStale, 20_000);
    } finally {
      process.kill(etcd.pid, "SIGCONT");
    }
    expect(await picking.workers()).toEqual(idsOf([leaving, ...staying]));
    await leaving.close();
    const added = await fixture.peer(patient);
    const client = new Etcd3({ hosts: etcd.url });
    const { header } = await client.kv.range({ key: Buffer.from("v1/") });
    await client.kv.compact({ revision: header.revision, physical: true });
    client.close();
    await knows(picking, [...staying, added]);
    await servesFor(200, [...staying, added]);
  });

  it("lets a killed worker go when its lease expires, and keeps the others", async () => {
    const victim = await fixture.process(site);
    await knows(picking, [...peers, victim]);
    await victim.kill();
    await knows(picking, peers);
    await servesFor(200);
  });

  it("lets a worker go at once when it leaves in order", async () => {
    const [leaving, ...staying] = peers;
    await leaving?.close();
    await knows(picking, staying, 3_000);
    await servesFor(100, staying);
  });

  it("starts while etcd is away, and serves once it is there", async () => {
    await etcd.kill();
    const knocked = knockedAt(Number(new URL(etcd.url).port));
    const starting = fixture.picker(site);
    await knocked;
    await etcd.restart();
    const later = await starting;
    await knows(later, peers);
    const sent = await later.plan();
    expect(idsOf(peers)).toContain(sent.decode);
    await sent.answered();
    await later.idle();
  });

  it("leaves out what is no record, counts it, and serves the others", async () => {
    const client = new Etcd3({ hosts: etcd.url });
    const before = (await picking.discovery()).malformedRecords;
    await client.put("v1/instances/ns/backend/generate/1").value('{"type":"Endpoint",');
    await client.put("v1/mdc/ns/backend/generate/1").value("[]");
    await eventually("both are counted", async () => (await picking.discovery()).malformedRecords === before + 2);
    expect(await picking.workers()).toEqual(idsOf(peers));
    await servesFor(100);
    await client.delete().key("v1/instances/ns/backend/generate/1");
    await client.delete().key("v1/mdc/ns/backend/generate/1");
    client.close();
  });
});
