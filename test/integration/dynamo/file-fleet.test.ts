/** The running picker over Dynamo's file discovery: files removed, expired, half written, temporary; generations of a rolling update; workers that flap. */
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, jest } from "@jest/globals";
import { bucketOf, fileNameOf } from "../../../src/dynamo/record-keys.ts";
import { type DynamoPeer, startPeer } from "../../dynamo-peer/peer.ts";
import type { PeerSite } from "../../dynamo-peer/site.ts";
import { eventually } from "../../stack.ts";
import { createFixture, idsOf, knows } from "./fixture.ts";
import type { Picking } from "./picking.ts";

jest.setTimeout(90_000);

const fixture = createFixture();
let site: PeerSite;
let picking: Picking;

beforeEach(() => {
  site = fixture.site();
});
afterEach(async () => {
  await picking?.idle();
  await fixture.closeAll();
});

/** The file of the peer's record in this bucket. */
function fileOf(peer: DynamoPeer, bucket: string): { readonly path: string; readonly text: string } {
  const record = peer.records.find(({ key }) => bucketOf(key) === bucket);
  if (record === undefined) throw new Error(`no record in ${bucket}`);
  return {
    path: join(site.options.folder, bucket, fileNameOf(record.key.slice(bucket.length + 1))),
    text: record.text,
  };
}

describe("the picker over files", () => {
  it("lets workers go whose instance or card is removed", async () => {
    const peers = await fixture.peers(site, 3);
    const [first, second, third] = peers;
    if (first === undefined || second === undefined || third === undefined) throw new Error("three peers");
    picking = await fixture.picker(site);
    await knows(picking, peers);
    await rm(fileOf(first, "v1/instances").path);
    await rm(fileOf(second, "v1/mdc").path);
    // Whoever still touches its files writes a missing one again: a third of the TTL later they are back.
    await knows(picking, [third], 3_000);
    await knows(picking, peers);
  });

  it("keeps a killed worker until its files are old, not until somebody removes them", async () => {
    const stays = await fixture.peer(site);
    const victim = await fixture.process(site);
    picking = await fixture.picker(site);
    await knows(picking, [stays, victim]);
    await victim.kill();
    const killedAt = performance.now();
    await knows(picking, [stays]);
    expect(performance.now() - killedAt).toBeGreaterThan(5_000);
    expect((await readdir(join(site.options.folder, "v1/instances"))).length).toBe(2);
    const sent = await picking.plan();
    expect(sent.decode).toBe(String(stays.instanceId));
    await sent.answered();
  });

  it("looks past temporary and half-written files, and takes a record once it is whole", async () => {
    const peer = await fixture.peer(site);
    const other = await startPeer(site);
    const { path, text } = fileOf(other, "v1/mdc");
    const instance = fileOf(other, "v1/instances");
    await other.close();
    picking = await fixture.picker(site);
    await knows(picking, [peer]);
    const folder = join(site.options.folder, "v1/mdc");
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, ".tmp_1"), text);
    await writeFile(instance.path, instance.text);
    await writeFile(path, text.slice(0, text.length / 2));
    await eventually("the half is seen", async () => (await picking.discovery()).malformedRecords > 0);
    expect(await picking.workers()).toEqual(idsOf([peer]));
    await writeFile(path, text);
    await knows(picking, [peer, other]);
  });

  it("keeps the last good record of a worker whose file is overwritten with half of it", async () => {
    const peer = await fixture.peer(site);
    picking = await fixture.picker(site);
    await knows(picking, [peer]);
    const { path, text } = fileOf(peer, "v1/mdc");
    await writeFile(path, text.slice(0, 40));
    await eventually("it is seen", async () => (await picking.discovery()).malformedRecords > 0);
    const sent = await picking.plan();
    expect(sent.decode).toBe(String(peer.instanceId));
    await sent.answered();
  });
});

describe("a rolling update", () => {
  it("never mixes generations: both legs of a request are of one namespace", async () => {
    const generations = ["ns-0123abcd", "ns-89abcdef"];
    const byId = new Map<string, string>();
    for (const namespace of generations) {
      for (const role of ["prefill", "prefill", "decode", "decode"] as const) {
        const peer = await fixture.peer(site, { namespace, role });
        byId.set(String(peer.instanceId), namespace);
      }
    }
    const foreign = await fixture.peer(site, { namespace: "ns-other", role: "aggregated" });
    picking = await fixture.picker(site, {
      environment: { DYN_NAMESPACE_PREFIX: "ns", DYN_NAMESPACE_PREFIX_STRICT: "true" },
      discovery: { namespace: undefined },
    });
    await eventually("both generations", async () => {
      const sets = await picking.sets();
      return sets.length === 2 && sets.every(({ router, isReady }) => isReady && router.workers.length === 4);
    });
    expect(await picking.workers()).not.toContain(String(foreign.instanceId));
    const used = new Map<string, number>();
    const sent = await Promise.all(Array.from({ length: 40 }, (_, index) => picking.plan({ tokens: [index, 2, 3] })));
    for (const one of sent) {
      const { decode = "", prefill = "" } = one;
      const namespace = byId.get(decode);
      expect(namespace).toBeDefined();
      expect(byId.get(prefill)).toBe(namespace);
      used.set(namespace ?? "", (used.get(namespace ?? "") ?? 0) + 1);
      await one.answered();
    }
    expect([...used.keys()].sort()).toEqual(generations);
  });

  it("goes over to the new generation as the old one leaves, with every request served", async () => {
    const old = await Promise.all(
      (["prefill", "decode"] as const).map((role) => startPeer(site, { namespace: "ns-0123abcd", role })),
    );
    picking = await fixture.picker(site, { discovery: { namespace: undefined, namespacePrefix: "ns" } });
    await knows(picking, old);
    const [prefill, decode] = old;
    const running = await picking.plan();
    expect([running.prefill, running.decode]).toEqual([String(prefill?.instanceId), String(decode?.instanceId)]);
    const fresh = await Promise.all(
      (["prefill", "decode"] as const).map((role) => fixture.peer(site, { namespace: "ns-89abcdef", role })),
    );
    await eventually("the new generation serves", async () => {
      const sets = await picking.sets();
      return sets.length === 2 && sets.every(({ isReady, router }) => isReady && router.workers.length === 2);
    });
    let isLeaving = true;
    const leave = (async () => {
      for (const peer of old) await peer.close();
      await knows(picking, fresh);
      isLeaving = false;
    })();
    // One generation is whole at every moment, so nobody is refused.
    const generations = [new Set(idsOf(old)), new Set(idsOf(fresh))];
    while (isLeaving) {
      const sent = await picking.plan();
      const own = generations.find((ids) => ids.has(sent.decode ?? ""));
      expect(own?.has(sent.prefill ?? "")).toBe(true);
      await sent.answered();
    }
    await leave;
    await running.answered();
    const sent = await picking.plan();
    expect(idsOf(fresh)).toContain(sent.decode);
    await sent.answered();
  });
});

describe("200 workers", () => {
  it("come and go again and again; nothing is lost, left over or booked on who has left", async () => {
    const stays = await fixture.peers(site, 100);
    picking = await fixture.picker(site, { args: ["--decision-log-size=10"] });
    let flapping: DynamoPeer[] = [];
    let isFlapping = true;
    const flap = (async () => {
      for (let round = 0; round < 3; round++) {
        flapping = await Promise.all(Array.from({ length: 100 }, () => startPeer(site)));
        for (const [index, peer] of flapping.entries()) peer.cache.store([index, ...many]);
        await knows(picking, [...stays, ...flapping]);
        await Promise.all(flapping.map((peer) => peer.close()));
        await knows(picking, stays);
      }
      isFlapping = false;
    })();
    let served = 0;
    while (isFlapping) {
      const sent = await picking.plan({ tokens: [served++, ...many] });
      await sent.answered();
    }
    await flap;
    expect(served).toBeGreaterThan(50);
    const { router, events, index } = await picking.set();
    expect(router.workers).toHaveLength(100);
    expect(events.sources).toHaveLength(100);
    await eventually("the index is empty", async () => (await picking.set()).index?.heldBlocks === 0);
    expect(index).not.toBeNull();
    expect(picking.child.lines.filter((line) => line.includes('"level":"error"'))).toEqual([]);
  });
});

const many = Array.from({ length: 64 }, (_, index) => index);
