/** Two pickers of the same engines over real sockets: each books what the other books, and nothing of anybody else's. */
import { isDeepStrictEqual } from "node:util";
import { afterEach, describe, expect, it, jest } from "@jest/globals";
import type { PeerAddress, PeerSource } from "../../../../src/data/peers/peer-addresses.ts";
import { createWorkerStage } from "../../../../src/prefill-router/stage/worker-stage.ts";
import type { StageBooking, StageRequest, WorkerStage } from "../../../../src/prefill-router/stage.ts";
import { SlotPeers } from "../../../../src/prefill-router/standalone/slot-peers.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";
import { until } from "../../dynamo/until.ts";
import { chain, only, plainSettings, request, select, worker } from "../stage/fleet.ts";

jest.setTimeout(30_000);

class Source implements PeerSource {
  tell: (addresses: readonly PeerAddress[]) => void = () => undefined;
  isClosed = false;

  async start(found: (addresses: readonly PeerAddress[]) => void): Promise<void> {
    this.tell = found;
  }

  async close(): Promise<void> {
    this.isClosed = true;
  }
}

interface Picker {
  readonly peers: SlotPeers;
  readonly source: Source;
  readonly stage: WorkerStage;
  readonly room: () => number;
  book(id: string, members?: Partial<StageRequest>): StageBooking;
}

const open: Picker[] = [];
afterEach(async () => {
  for (const { peers } of open.splice(0)) await peers.close();
});

async function picker(modelName = "m", port = 0): Promise<Picker> {
  const stage = createWorkerStage({ stage: "decode", blockSize: 8 });
  for (const id of [1, 2]) stage.upsertWorker(worker(id));
  const source = new Source();
  let room = 0;
  const peers = new SlotPeers({
    modelName,
    blockSize: 8,
    port,
    source,
    stage,
    capacityChanged: () => room++,
    bookingExpiryMs: 300_000,
    now: () => 0,
    log: silentLogger,
  });
  const made: Picker = {
    peers,
    source,
    stage,
    room: () => room,
    book(id, members = {}) {
      const of = request({ ...members, allowedWorkerIds: only(1) });
      return stage.book(id, select(stage, of), of, 0);
    },
  };
  open.push(made);
  peers.begin();
  await until(() => peers.port !== undefined || peers.state()["failure"] !== null);
  return made;
}

function addressOf({ peers }: Picker): PeerAddress {
  return { host: "127.0.0.1", port: peers.port ?? 0 };
}

/** Of all pickers: one that is told of a booking has its id, too, until it is told of its end. */
let probes = 0;

/** A subscription takes its time: what is said before it is heard by nobody. */
async function meet(one: Picker, other: Picker): Promise<void> {
  one.source.tell([addressOf(other)]);
  other.source.tell([addressOf(one), addressOf(other)]);
  const isHeard = async (from: Picker, to: Picker): Promise<void> => {
    const before = to.peers.counters.heard;
    await until(() => {
      from.book(`probe ${probes++}`).free();
      return to.peers.counters.heard > before;
    });
  };
  await isHeard(one, other);
  await isHeard(other, one);
  await agree(one, other);
}

const agree = (one: Picker, other: Picker): Promise<void> =>
  until(() => isDeepStrictEqual(one.stage.loads(), other.stage.loads()));

describe("pickers of the same engines", () => {
  it("book what the others book, until its first token and its end", async () => {
    const [one, other] = [await picker(), await picker()];
    await meet(one, other);
    const booking = one.book("a", { sequenceHashes: chain(1, 2, 3) });
    await until(() => other.stage.activeBookings === 1, 5_000);
    expect(other.stage.loads()).toEqual(one.stage.loads());
    expect(other.stage.loads()[0]).toMatchObject({ activePrefillTokens: 48, activeDecodeBlocks: 3, activeRequests: 1 });
    booking.prefillCompleted();
    await until(() => other.stage.loads()[0]?.activePrefillTokens === 0, 5_000);
    const room = other.room();
    booking.free();
    await until(() => other.stage.activeBookings === 0, 5_000);
    expect(other.room()).toBe(room + 1);
    await agree(one, other);
    expect(one.peers.state()).toMatchObject({ failure: null, malformed: 0, dropped: 0, ignored: { own: 0, known: 0 } });
  });

  it("keep to themselves which blocks they do not share, and what other models run", async () => {
    const [one, other, stranger] = [await picker(), await picker(), await picker("another")];
    await meet(one, other);
    one.source.tell([addressOf(other), addressOf(stranger)]);
    stranger.book("theirs", { sequenceHashes: chain(9) });
    const apart = { ...plainSettings, assumeKvReuse: false };
    other.book("b", { sequenceHashes: chain(1, 2), settings: apart });
    other.book("c", { sequenceHashes: chain(1, 2), settings: apart });
    await until(() => one.stage.activeBookings === 2, 5_000);
    expect(one.stage.loads()[0]).toMatchObject({ activeDecodeBlocks: 4, activeRequests: 2 });
    await until(() => {
      stranger.book(`theirs ${stranger.stage.activeBookings}`);
      return one.peers.counters.ignored.unshared > 0;
    }, 5_000);
    expect(one.stage.activeBookings).toBe(2);
  });

  it("follow who their peers are, and are told the end of all that one had running when it ends", async () => {
    const [one, other] = [await picker(), await picker()];
    await meet(one, other);
    expect(other.peers.state()["peers"]).toHaveLength(2);
    const booking = one.book("a");
    await until(() => other.stage.activeBookings === 1, 5_000);
    booking.free();
    await one.peers.close();
    await until(() => other.stage.activeBookings === 0, 5_000);
    expect(one.source.isClosed).toBe(true);
    other.source.tell([]);
    expect(other.peers.state()["peers"]).toEqual([]);
  });

  it("serve alone on a port that somebody else has, say so, and take it once it is free", async () => {
    const one = await picker();
    const late = await picker("m", one.peers.port);
    expect(late.peers.state()).toMatchObject({ failure: expect.stringContaining("cannot bind"), port: null });
    late.book("a").free();
    expect(late.peers.counters.published).toBe(0);
    const { port } = one.peers;
    await one.peers.close();
    await until(() => late.peers.port === port, 10_000);
    expect(late.peers.state()["failure"]).toBeNull();
    late.book("b").free();
    expect(late.peers.counters.published).toBe(2);
  });

  it("that end while they still wait for their port end at once", async () => {
    const one = await picker();
    const late = await picker("m", one.peers.port);
    const startedAtMs = performance.now();
    await late.peers.close();
    expect(performance.now() - startedAtMs).toBeLessThan(5_000);
    expect(late.source.isClosed).toBe(true);
  });
});
