/** One picker's index asked by another over the request plane, through files and a real etcd: what it knows, and what becomes of requests when it fails. */

import { afterEach, describe, expect, it, jest } from "@jest/globals";
import { decode, encode } from "@msgpack/msgpack";
import { encodeRecord } from "../../../src/dynamo/encode-record.ts";
import { queryEndpoint, recordEndpoint } from "../../../src/dynamo/kv-index/index-endpoints.ts";
import type { DynamoPeer } from "../../dynamo-peer/peer.ts";
import type { PeerSite } from "../../dynamo-peer/site.ts";
import { startEtcd } from "../../etcd.ts";
import { startNats } from "../../nats.ts";
import { eventually } from "../../stack.ts";
import { type FakeWorker, startFakeWorker, type TakenRequest } from "../../unit/dynamo/request-plane/fake-worker.ts";
import { createFixture } from "./fixture.ts";
import type { Match, Picking } from "./picking.ts";

jest.setTimeout(90_000);

const fixture = createFixture();

afterEach(() => fixture.closeAll());

/** A prompt of its own for each number: eight whole blocks, none of them another prompt's. */
function prompt(number: number): number[] {
  return Array.from({ length: 8 * 16 + 3 }, (_, index) => (index === 0 ? number : index));
}

const loopback = { DYN_TCP_RPC_HOST: "127.0.0.1" };
const decisionsOnly = { DYN_ROUTER_USE_KV_EVENTS: "false" };

const server = (site: PeerSite, environment: Readonly<Record<string, string>> = {}): Promise<Picking> =>
  fixture.picker(site, { environment: { DYN_SERVE_INDEXER: "true", ...loopback, ...environment } });
const asker = (site: PeerSite, environment: Readonly<Record<string, string>> = {}): Promise<Picking> =>
  fixture.picker(site, { environment: { DYN_USE_REMOTE_INDEXER: "true", ...environment } });

interface RemoteView {
  readonly components: Readonly<Record<string, { readonly isAnswering: boolean }>>;
  readonly answered: number;
  readonly recorded: number;
  readonly cancelled: number;
  readonly failedQueries: Readonly<Record<string, number>>;
  readonly failedRecords: Readonly<Record<string, number>>;
}

const remoteOf = async (picking: Picking): Promise<RemoteView> =>
  ((await picking.set()) as unknown as { readonly remoteIndex: RemoteView }).remoteIndex;

async function matches(picking: Picking, tokens: readonly number[], wanted: Partial<Match>): Promise<void> {
  let last: Match | undefined;
  await eventually(
    "the match",
    async () => {
      last = await picking.matchOf(tokens);
      return Object.entries(wanted).every(([member, value]) => last?.[member as keyof Match] === value);
    },
    20_000,
  ).catch((error: unknown) => {
    throw new Error(`${JSON.stringify(last)} is not ${JSON.stringify(wanted)}`, { cause: error });
  });
}

const heldBy = (peer: DynamoPeer | undefined, deviceBlocks = 8): Partial<Match> => ({
  workerId: String(peer?.instanceId),
  deviceBlocks,
});

async function siteOf(kind: "files" | "etcd" | "files, by NATS"): Promise<PeerSite> {
  if (kind === "files") return fixture.site();
  if (kind === "files, by NATS") {
    const nats = await startNats();
    fixture.keep({ close: () => nats.kill() });
    const site = fixture.site({ natsUrl: nats.url });
    return { ...site, environment: { ...site.environment, DYN_REQUEST_PLANE: "nats" } };
  }
  const etcd = fixture.keep(await startEtcd());
  return fixture.site({ etcd: { url: etcd.url } });
}

describe.each(["files", "etcd", "files, by NATS"] as const)("an index served among records in %s", (kind) => {
  it("says to another picker what its own events say, also after it was killed and has come again", async () => {
    const site = await siteOf(kind);
    const peers = await fixture.peers(site, 3);
    const [first, second] = peers;
    first?.cache.store(prompt(1));
    const serving = await server(site);
    const asking = await asker(site);
    await matches(asking, prompt(1), heldBy(first));
    second?.cache.store(prompt(2));
    await matches(serving, prompt(2), heldBy(second));
    await matches(asking, prompt(2), heldBy(second));
    second?.cache.evict(prompt(2), 3);
    await matches(asking, prompt(2), heldBy(second, 3));
    const set = await asking.set();
    expect({ events: set.events, index: set.index }).toEqual({ events: null, index: null });

    await serving.restart("SIGKILL");
    await matches(asking, prompt(1), heldBy(first));
    await asking.idle();
  });

  it("is no longer asked once its picker has ended, and requests are planned without it", async () => {
    const site = await siteOf(kind);
    const [first] = await fixture.peers(site, 2);
    first?.cache.store(prompt(1));
    const serving = await server(site);
    const asking = await asker(site);
    await matches(asking, prompt(1), heldBy(first));
    const said = (): number =>
      asking.child.lines.filter((line) => line.includes("the remote index cannot be used")).length;
    const before = said();
    await serving.close();
    await matches(asking, prompt(1), { deviceBlocks: 0 });
    await eventually("its record is gone", async () => {
      await asking.matchOf(prompt(1));
      return ((await remoteOf(asking)).failedQueries["no-instance"] ?? 0) > 0;
    });
    expect(said()).toBe(before + 1);
    await asking.idle();
  });
});

describe("predictions", () => {
  it("stay with who made them, whether it serves or asks", async () => {
    const site = fixture.site();
    const [first] = await fixture.peers(site, 2);
    const predicting = { DYN_ROUTER_PREDICTED_TTL_SECS: "60" };
    const serving = await server(site, predicting);
    const asking = await asker(site, predicting);
    first?.cache.store(prompt(1));
    await matches(asking, prompt(1), heldBy(first));
    await matches(serving, prompt(2), { deviceBlocks: 8 });
    expect((await asking.matchOf(prompt(2))).deviceBlocks).toBe(0);
    expect((await asking.matchOf(prompt(2))).deviceBlocks).toBe(8);
    expect((await serving.matchOf(prompt(3))).deviceBlocks).toBe(0);
    expect((await asking.set()).index).not.toBeNull();
  });
});

describe("an index that decisions feed", () => {
  it("learns where another picker sends its prompts, and is served by one process alone", async () => {
    const site = fixture.site();
    await fixture.peers(site, 3, { publishesEvents: false });
    const serving = await server(site, decisionsOnly);
    const asking = await asker(site, decisionsOnly);
    await eventually("it is served", async () => {
      await asking.matchOf(prompt(9));
      return (await remoteOf(asking)).recorded > 0;
    });
    // The first of them goes anywhere, and is written down while the next may be asked about already.
    await matches(asking, prompt(1), { deviceBlocks: 8 });
    await matches(serving, prompt(1), { deviceBlocks: 8 });

    const other = await server(site, decisionsOnly);
    await eventually("the second is not served", () =>
      Promise.resolve(other.child.lines.some((line) => line.includes("this router's index is not served"))),
    );
    await matches(asking, prompt(1), { deviceBlocks: 8 });
    await serving.close();
    await eventually("the second takes its place", async () => {
      await asking.matchOf(prompt(3));
      return other.child.lines.some((line) => line.includes("this router's index is served"));
    });
    await matches(asking, prompt(4), { deviceBlocks: 8 });
  });

  it("is not asked by a picker that wants one fed by events", async () => {
    const site = fixture.site();
    await fixture.peers(site, 2);
    await server(site, decisionsOnly);
    const asking = await asker(site);
    await eventually("it is seen", async () => {
      await asking.matchOf(prompt(1));
      return ((await remoteOf(asking)).failedQueries["topology"] ?? 0) > 0;
    });
  });
});

describe("a disaggregated set", () => {
  it("is asked for of its prefill workers' component", async () => {
    const site = fixture.site();
    const prefill = await fixture.peers(site, 2, { role: "prefill" });
    await fixture.peers(site, 2, { role: "decode" });
    const [first, second] = prefill;
    first?.cache.store(prompt(1));
    second?.cache.store(prompt(2));
    await server(site);
    const asking = await asker(site);
    await matches(asking, prompt(1), heldBy(first));
    await matches(asking, prompt(2), heldBy(second));
    expect(Object.keys((await remoteOf(asking)).components)).toEqual(["ns/prefill"]);
  });
});

/** Serves `kv_indexer_query` of the workers' component in its own way. */
async function stub(
  site: PeerSite,
  onRequest: (request: TakenRequest, from: FakeWorker) => void,
  names: readonly string[] = [queryEndpoint],
): Promise<FakeWorker> {
  const worker = fixture.keep(await startFakeWorker(onRequest));
  const registration = fixture.keep(await site.register());
  const { transport } = worker.instance;
  for (const endpoint of names) {
    const { instanceId } = registration;
    const record = { ...worker.instance, endpoint, instanceId, transport, codec: "msgpack" } as const;
    await registration.put(encodeRecord(record));
  }
  return worker;
}

const answering =
  (answer: unknown) =>
  (request: TakenRequest, from: FakeWorker): void => {
    void from.dial(request).then((line) => {
      line.header({ error: null });
      line.item(Buffer.from(encode({ data: answer, complete_final: false }, { useBigInt64: true })));
      line.item(Buffer.from(encode({ complete_final: true })));
      line.header("sentinel");
    });
  };

const rank = (workerId: bigint, dpRank = 0) => ({ worker_id: workerId, dp_rank: dpRank });

type Manner = (request: TakenRequest, from: FakeWorker) => void;

const manners: readonly (readonly [what: string, manner: Manner, reason: string])[] = [
  ["takes questions and says nothing", () => undefined, "too-slow"],
  ["answers with an error", answering({ Error: "no such model" }), "error"],
  ["answers with something else", answering({ Events: [] }), "malformed"],
  ["lies about its sizes", answering({ TieredScores: { device: { scores: 7 } } }), "malformed"],
  ["answers with more than is kept", answering({ Error: "x".repeat(5 * 1024 * 1024) }), "item-too-large"],
  ["breaks off", (request, from) => void from.dial(request).then((line) => line.end()), "disconnected"],
];

describe("a server of an index", () => {
  it.each(manners)("that %s costs no request, and is left alone for a moment", async (_what, manner, reason) => {
    const site = fixture.site();
    await fixture.peers(site, 2);
    const { requests } = await stub(site, manner);
    const asking = await asker(site);
    expect((await asking.matchOf(prompt(1))).deviceBlocks).toBe(0);
    expect((await remoteOf(asking)).failedQueries).toEqual({ [reason]: 1 });
    for (let number = 0; number < 20; number++) await asking.matchOf(prompt(number));
    expect((await remoteOf(asking)).failedQueries["resting"]).toBeGreaterThan(10);
    expect(requests.length).toBeLessThan(10);
    await asking.idle();
  });

  it("is believed of the ranks there are, up to the prompt's length", async () => {
    const site = fixture.site();
    const peers = await fixture.peers(site, 2);
    const ids = peers.map(({ instanceId }) => instanceId);
    const [, second] = ids;
    let asked: unknown;
    const answer = {
      TieredScores: {
        device: {
          scores: [
            [rank(second ?? 0n), 1_000_000],
            [rank(0xffff_ffff_ffff_ffffn), 8],
            [rank(second ?? 0n, 9), 8],
          ],
          frequencies: [3],
        },
        lower_tier: [
          ["host_pinned", { hits: [[rank(second ?? 0n), 4]] }],
          ["tape", { hits: [] }],
        ],
      },
    };
    await stub(site, (request, from) => {
      asked = decode(request.body, { useBigInt64: true });
      answering(answer)(request, from);
    });
    const asking = await asker(site);
    await matches(asking, prompt(1), { workerId: String(second), deviceBlocks: 8 });
    expect(asked).toMatchObject({ model_name: "tiny", device_only: false });
    expect((asked as { readonly block_hashes: readonly unknown[] }).block_hashes).toHaveLength(8);
  });

  it("is let go of when the client leaves while it is asked", async () => {
    const site = fixture.site();
    await fixture.peers(site, 2);
    const asked: TakenRequest[] = [];
    await stub(site, (request) => void asked.push(request));
    const asking = await asker(site);
    const pending = asking.begin({ tokens: prompt(1) });
    const left = expect(pending.outcome).rejects.toThrow("neither sent nor refused");
    await eventually("the question is asked", () => Promise.resolve(asked.length === 1));
    pending.cancel();
    await left;
    await eventually("nothing is kept", async () => {
      const state = await asking.debug<Readonly<Record<string, { readonly inflight: number }>>>("plugins/state");
      return state["dynamo-prefill-router"]?.inflight === 0;
    });
    expect(await remoteOf(asking)).toMatchObject({ cancelled: 1, failedQueries: {} });
    await asking.idle();
  });

  it("that is one of several indices fed by decisions is neither asked nor told", async () => {
    const site = fixture.site();
    await fixture.peers(site, 2, { publishesEvents: false });
    const asked: TakenRequest[] = [];
    const taking = (request: TakenRequest): void => void asked.push(request);
    await stub(site, taking, [queryEndpoint, recordEndpoint]);
    await stub(site, taking, [queryEndpoint, recordEndpoint]);
    const asking = await asker(site, decisionsOnly);
    await asking.matchOf(prompt(1));
    expect(asked).toEqual([]);
    const { failedQueries, failedRecords } = await remoteOf(asking);
    expect({ failedQueries, failedRecords }).toEqual({
      failedQueries: { topology: 1 },
      failedRecords: { topology: 1 },
    });
  });
});
