/** Two pickers over real ZeroMQ sockets or a real NATS server, who find each other through files or a real etcd: their books agree under load. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { afterEach, describe, expect, it } from "@jest/globals";
import { createEtcdDiscovery } from "../../../src/dynamo/discovery/etcd/etcd-discovery.ts";
import { etcdOptionsFromEnvironment } from "../../../src/dynamo/discovery/etcd/etcd-options.ts";
import { createEtcdRegistration } from "../../../src/dynamo/discovery/etcd/etcd-registration.ts";
import { createFileDiscovery } from "../../../src/dynamo/discovery/file/file-discovery.ts";
import { createFileRegistration } from "../../../src/dynamo/discovery/file/file-registration.ts";
import type { DynamoRegistration } from "../../../src/dynamo/discovery/registration.ts";
import { createEventPlane } from "../../../src/dynamo/event-plane/create-event-plane.ts";
import type { DynamoDiscovery, EventChannelRecord } from "../../../src/dynamo/records.ts";
import { ChannelIndex } from "../../../src/dynamo/worker-sets/channel-index.ts";
import { EventFeeds } from "../../../src/prefill-router/fleet/event-feeds.ts";
import { replicaTopic } from "../../../src/prefill-router/replica-sync/replica-link.ts";
import type { StageBooking } from "../../../src/prefill-router/stage.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { startEtcd } from "../../etcd.ts";
import { startNats } from "../../nats.ts";
import { until } from "../../unit/dynamo/until.ts";
import { type Replica, replica, scopes } from "../../unit/prefill-router/replica-sync/replica.ts";
import { chain, request } from "../../unit/prefill-router/stage/fleet.ts";

const workers = [11, 12, 13, 14];
const closers: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

type Environment = Readonly<Record<string, string>>;

async function environmentOf(kind: "zmq" | "nats"): Promise<Environment> {
  if (kind === "zmq") return { DYN_EVENT_PLANE_HOST: "127.0.0.1", DYN_ZMQ_IO_THREADS: "1" };
  const server = await startNats();
  closers.push(() => server.kill());
  return { DYN_EVENT_PLANE: "nats", NATS_SERVER: server.url };
}

/** Where pickers register, and find each other. */
interface Store {
  register(): Promise<DynamoRegistration>;
  discover(): DynamoDiscovery;
}

async function storeOf(kind: "files" | "etcd"): Promise<Store> {
  if (kind === "etcd") {
    const etcd = await startEtcd();
    closers.push(() => etcd.close());
    const options = { ...etcdOptionsFromEnvironment({ ETCD_ENDPOINTS: etcd.url }), log: silentLogger };
    return { register: () => createEtcdRegistration(options), discover: () => createEtcdDiscovery(options) };
  }
  const root = await mkdtemp(join(tmpdir(), "signalbox-replicas-"));
  closers.push(() => rm(root, { recursive: true, force: true }));
  return {
    register: async () => createFileRegistration({ root, log: silentLogger }),
    discover: () => createFileDiscovery({ root, log: silentLogger, pollMs: 50 }),
  };
}

interface Picker extends Replica {
  /** Pickers that discovery tells it of, itself included. */
  readonly known: () => number;
  /** Ends the sockets, then the records: nothing more is said. */
  die(): Promise<void>;
}

async function picker(store: Store, environment: Environment, routerId: bigint): Promise<Picker> {
  const plane = createEventPlane(environment, silentLogger);
  const channels = new ChannelIndex();
  const feeds = new EventFeeds(plane, (scope, topic) => channels.of(scope, topic), silentLogger);
  const registration = await store.register();
  const discovery = store.discover();
  const made = replica(
    {
      registration,
      hear: (scope, topic, handler) => feeds.hear(scope, topic, handler),
      publish: (scope, topic) => plane.publish(scope, topic),
    },
    routerId,
  );
  const closed = (channel: EventChannelRecord): void => {
    feeds.closed(channel);
    made.sync.channelClosed(channel);
  };
  await discovery.start({
    put: (key, record) => {
      if (record.type !== "EventChannel") return;
      channels.put(key, record);
      if (!made.sync.owns(record)) feeds.opened(record);
    },
    removed: (key, record) => {
      channels.remove(key);
      if (record.type === "EventChannel") closed(record);
    },
  });
  const die = async (): Promise<void> => {
    await discovery.close();
    await plane.close();
    await registration.close();
    await made.sync.close();
    await feeds.close();
  };
  closers.push(async () => {
    await made.sync.close();
    await die();
  });
  for (const id of workers) made.addWorker(id);
  return { ...made, known: () => channels.of(scopes.decode, replicaTopic).length, die };
}

const loads = ({ stages }: Replica): unknown => stages.decode.loads();

/** Says something until the other hears it, as ZeroMQ does not tell when a peer has connected; over NATS it is heard before discovery tells. */
async function meet(pickers: readonly Picker[]): Promise<void> {
  await until(() => pickers.every(({ known }) => known() === pickers.length), 10_000);
  let index = 0;
  await until(() => {
    for (const each of pickers) each.book(`hello-${index++}`, 11, request()).free();
    return pickers.every(({ sync }) => sync.counters.freed > 0);
  }, 10_000);
  await until(() => pickers.every(({ stages }) => stages.decode.activeBookings === 0));
}

function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

describe.each([
  { plane: "zmq", records: "files" },
  { plane: "nats", records: "files" },
  { plane: "zmq", records: "etcd" },
] as const)("two pickers over $plane with $records", ({ plane, records }) => {
  it("have the same books after a random load on both, and nothing in them once all of it has ended", async () => {
    const [store, environment] = [await storeOf(records), await environmentOf(plane)];
    const pickers = [await picker(store, environment, 1n), await picker(store, environment, 2n)] as const;
    await meet(pickers);
    const random = randomFrom(7);
    const open: StageBooking[] = [];
    let booked = 0;
    for (let round = 0; round < 60; round++) {
      for (let step = 0; step < 50; step++) {
        const of = pickers[random() < 0.5 ? 0 : 1];
        const dice = random();
        const [chosen] = dice < 0.5 ? [] : open.splice(Math.floor(random() * open.length), 1);
        if (chosen === undefined) {
          const blocks = Array.from({ length: Math.floor(random() * 8) }, () => Math.floor(random() * 3));
          const worker = workers[Math.floor(random() * workers.length)] ?? 11;
          open.push(of.book(`request-${booked++}`, worker, request({ sequenceHashes: chain(...blocks) })));
        } else if (dice < 0.7) {
          chosen.prefillCompleted();
          open.push(chosen);
        } else chosen.free();
      }
      // A turn of the loop: batches of all sizes.
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(booked).toBeGreaterThan(1000);
    const [one, other] = pickers;
    await until(
      () =>
        one.stages.decode.activeBookings === open.length &&
        other.stages.decode.activeBookings === open.length &&
        isDeepStrictEqual(loads(one), loads(other)),
      10_000,
    );
    for (const booking of open) booking.free();
    await until(() => pickers.every(({ stages }) => stages.decode.activeBookings === 0), 10_000);
    expect(loads(other)).toEqual(loads(one));
    for (const { sync } of pickers) {
      expect(sync.counters).toMatchObject({ dropped: 0, ignored: { own: 0, known: 0, full: 0 } });
    }
  }, 20_000);

  it("forget what a picker had booked that dies, and hear the one that takes its place", async () => {
    const [store, environment] = [await storeOf(records), await environmentOf(plane)];
    const one = await picker(store, environment, 1n);
    const other = await picker(store, environment, 2n);
    await meet([one, other]);
    for (let index = 0; index < 20; index++) one.book(`lost-${index}`, 12, request({ sequenceHashes: chain(index) }));
    await until(() => other.stages.decode.activeBookings === 20);
    await one.die();
    await until(() => other.stages.decode.activeBookings === 0, 10_000);
    expect(other.sync.counters.abandoned).toBe(20);
    const next = await picker(store, environment, 3n);
    const { freed } = other.sync.counters;
    let index = 0;
    await until(() => {
      next.book(`hello-again-${index++}`, 11, request()).free();
      return other.sync.counters.freed > freed;
    }, 10_000);
  }, 20_000);
});
