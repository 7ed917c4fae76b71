/** What workers cache and where the running picker sends a prompt because of it: over ZeroMQ and NATS, past gaps, restarts of either side, and workers that lie. */
import { afterEach, beforeEach, describe, expect, it, jest } from "@jest/globals";
import type { DynamoPeer, PeerOptions } from "../../dynamo-peer/peer.ts";
import type { PeerSite } from "../../dynamo-peer/site.ts";
import { type RunningNats, startNats } from "../../nats.ts";
import { eventually } from "../../stack.ts";
import { createFixture } from "./fixture.ts";
import type { Picking, PickingOptions } from "./picking.ts";

jest.setTimeout(90_000);

const fixture = createFixture();

afterEach(() => fixture.closeAll());

/** A prompt of its own for each number: eight whole blocks, none of them another prompt's. */
function prompt(number: number): number[] {
  return Array.from({ length: 8 * 16 + 3 }, (_, index) => (index === 0 ? number : index));
}

describe.each(["zmq", "nats"] as const)("KV events over %s", (plane) => {
  let nats: RunningNats | undefined;
  let site: PeerSite;
  let picking: Picking;
  let peers: readonly DynamoPeer[];

  beforeEach(async () => {
    nats = undefined;
    if (plane === "nats") {
      const server = await startNats();
      fixture.keep({ close: () => server.kill() });
      nats = server;
    }
    site = fixture.site(nats === undefined ? {} : { natsUrl: nats.url });
  });
  afterEach(async () => picking?.idle());

  async function start(count: number, peer: PeerOptions = {}, options: PickingOptions = {}): Promise<void> {
    peers = await fixture.peers(site, count, peer);
    picking = await fixture.picker(site, options);
    await listens();
  }

  const listens = (): Promise<unknown> =>
    eventually("every source is live", async () => {
      const { events } = await picking.set();
      const wanted = peers.reduce((sum, { caches }) => sum + caches.size, 0);
      return events.sources.length === wanted && events.sources.every(({ state }) => state === "live");
    });

  async function isHeldBy(tokens: readonly number[], peer: DynamoPeer | undefined, blocks = 8, dpRank = 0) {
    const wanted = { workerId: String(peer?.instanceId), dpRank, deviceBlocks: blocks };
    let last: unknown;
    await eventually(
      "the match",
      async () => {
        last = await picking.matchOf(tokens);
        return JSON.stringify(last) === JSON.stringify(wanted);
      },
      15_000,
    ).catch((error: unknown) => {
      throw new Error(`${JSON.stringify(last)} is not ${JSON.stringify(wanted)}`, { cause: error });
    });
  }

  it("sends a prompt to who holds it, follows what is evicted and cleared, and knows it all after its own restart", async () => {
    await start(3);
    const [first, second, third] = peers;
    for (const [index, peer] of peers.entries()) peer.cache.store(prompt(index + 1));
    await isHeldBy(prompt(1), first);
    await isHeldBy(prompt(2), second);
    second?.cache.evict(prompt(2), 3);
    await isHeldBy(prompt(2), second, 3);
    third?.cache.clear();
    third?.cache.store(prompt(4));
    await isHeldBy(prompt(4), third);
    expect((await picking.matchOf(prompt(3))).deviceBlocks).toBe(0);

    await picking.restart("SIGKILL");
    await listens();
    expect(await picking.matchOf(prompt(1))).toEqual({
      workerId: String(first?.instanceId),
      dpRank: 0,
      deviceBlocks: 8,
    });
    expect(await picking.matchOf(prompt(2))).toMatchObject({
      workerId: String(second?.instanceId),
      deviceBlocks: 3,
    });
    expect(await picking.matchOf(prompt(4))).toMatchObject({ workerId: String(third?.instanceId), deviceBlocks: 8 });
    expect((await picking.matchOf(prompt(3))).deviceBlocks).toBe(0);
    second?.cache.store(prompt(2));
    await isHeldBy(prompt(2), second);
  });

  it("asks for events that were lost, from the first one missing", async () => {
    await start(2);
    const [first] = peers;
    first?.cache.store(prompt(1));
    await isHeldBy(prompt(1), first);
    if (first === undefined) throw new Error("two peers");
    first.cache.isMute = true;
    first.cache.store(prompt(2));
    first.cache.evict(prompt(1));
    first.cache.isMute = false;
    first.cache.store(prompt(3));
    await isHeldBy(prompt(2), first);
    await isHeldBy(prompt(3), first);
    expect((await picking.matchOf(prompt(1))).deviceBlocks).toBe(0);
    expect(first.questions.map(({ startEventId }) => startEventId)).toContain(2);
    expect((await picking.set()).events["gaps"]).toBe(1);
  });

  it("takes the whole tree where the worker has forgotten the events that were lost", async () => {
    await start(2);
    const [first] = peers;
    if (first === undefined) throw new Error("two peers");
    first.cache.store(prompt(1));
    await isHeldBy(prompt(1), first);
    first.cache.isMute = true;
    first.cache.evict(prompt(1), 2);
    for (let number = 2; number < 20; number++) first.cache.store(prompt(number));
    first.cache.isMute = false;
    first.cache.store(prompt(20));
    await isHeldBy(prompt(20), first);
    await isHeldBy(prompt(2), first);
    await isHeldBy(prompt(1), first, 2);
  });

  it("keeps the ranks of a worker apart", async () => {
    await start(1, { firstRank: 3, ranks: 3 });
    const [peer] = peers;
    for (const [rank, cache] of peer?.caches ?? []) cache.store(prompt(rank));
    for (const rank of [3, 4, 5]) await isHeldBy(prompt(rank), peer, 8, rank);
    await picking.restart();
    await listens();
    for (const rank of [3, 4, 5]) await isHeldBy(prompt(rank), peer, 8, rank);
  });

  it("forgets what a worker held when it leaves", async () => {
    await start(2);
    const [first] = peers;
    first?.cache.store(prompt(1));
    await isHeldBy(prompt(1), first);
    await first?.close();
    await eventually("it is forgotten", async () => (await picking.set()).index?.heldBlocks === 0);
    expect((await picking.matchOf(prompt(1))).deviceBlocks).toBe(0);
  });

  if (plane === "nats") {
    it("asks everybody for what was published while NATS was away", async () => {
      await start(2);
      const [first, second] = peers;
      first?.cache.store(prompt(1));
      await isHeldBy(prompt(1), first);
      await nats?.kill();
      first?.cache.store(prompt(2));
      second?.cache.store(prompt(3));
      const sent = await picking.plan({ tokens: prompt(1) });
      expect(sent.decode).toBe(String(first?.instanceId));
      await sent.answered();
      await nats?.restart();
      await isHeldBy(prompt(2), first);
      await isHeldBy(prompt(3), second);
      // Whoever publishes has found the server again too.
      await eventually(
        "new events are heard",
        async () => {
          first?.cache.store(prompt(4));
          first?.cache.evict(prompt(4), 7);
          return (await picking.matchOf(prompt(4))).deviceBlocks > 0;
        },
        15_000,
      );
    });
  } else {
    it("hears a worker that is another process, and forgets it when it dies", async () => {
      await start(1);
      const worker = await fixture.process(site);
      await worker.store(prompt(1));
      await eventually("its cache is known", async () => {
        const { workerId, deviceBlocks } = await picking.matchOf(prompt(1));
        return workerId === String(worker.instanceId) && deviceBlocks === 8;
      });
      await worker.kill();
      const sent = await picking.plan({ tokens: prompt(1) });
      expect(sent.decode).toBe(String(worker.instanceId));
      await sent.answered(502);
      const next = await picking.plan({ tokens: prompt(1) });
      expect(next.decode).toBe(String(peers[0]?.instanceId));
      await next.answered();
      await eventually("its record expires", async () => (await picking.workers()).length === 1, 20_000);
      expect((await picking.set()).index?.heldBlocks).toBe(0);
    });

    it("serves with workers that refuse, lie about or keep silent about their past, and believes none of it", async () => {
      peers = await fixture.peers(site, 4);
      const manners = ["honest", "refuses", "lies", "silent"] as const;
      for (const [index, peer] of peers.entries()) {
        peer.cache.store(prompt(index));
        peer.manner = manners[index] ?? "honest";
      }
      picking = await fixture.picker(site);
      await isHeldBy(prompt(0), peers[0]);
      for (const number of [1, 2, 3]) expect((await picking.matchOf(prompt(number))).deviceBlocks).toBe(0);
      const sent = await Promise.all(peers.map((_, index) => picking.plan({ tokens: prompt(50 + index) })));
      expect(new Set(sent.map(({ decode }) => decode)).size).toBe(4);
      for (const one of sent) await one.answered();
      // One that comes to its senses is believed at the next attempt.
      const [, refusing] = peers;
      if (refusing !== undefined) refusing.manner = "honest";
      await isHeldBy(prompt(1), refusing);
    });
  }
});
