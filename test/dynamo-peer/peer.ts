/**
 * One Dynamo worker as discovery, the event plane and a router's recovery see it: instance, card, event channel and sources registered, its
 * caches' events published, its past told to who asks. It serves no requests.
 */

import { type EncodedRecord, encodeModelRecord, encodeRecord } from "../../src/dynamo/encode-record.ts";
import type { EventPublisher } from "../../src/dynamo/event-plane/event-plane.ts";
import type { WorkerRole } from "../../src/dynamo/model-card/model-card.ts";
import type { EventScope, InstanceRecord } from "../../src/dynamo/records.ts";
import { encodeActiveLoad, type PeerLoad } from "./active-load.ts";
import { PeerCache } from "./cache.ts";
import { type CardOptions, cardOf } from "./card.ts";
import { type Question, type RecoveryManner, startRecoveryServer } from "./recovery.ts";
import type { PeerSite } from "./site.ts";

export interface PeerOptions extends Partial<CardOptions> {
  readonly namespace?: string;
  /** With files only, where a worker takes any id it likes; over etcd it is the lease's. */
  readonly instanceId?: bigint;
}

export interface DynamoPeer {
  readonly role: WorkerRole;
  readonly namespace: string;
  readonly instanceId: bigint;
  /** Of the first rank. */
  readonly cache: PeerCache;
  readonly caches: ReadonlyMap<number, PeerCache>;
  /** What has been asked of its local indexer. */
  readonly questions: readonly Question[];
  /** How it answers from now on. */
  manner: RecoveryManner;
  readonly records: readonly EncodedRecord[];
  /** Tells the topic kv_metrics how full it is. */
  reportLoad(load: PeerLoad): void;
  /** Takes its records out and closes. */
  close(): Promise<void>;
}

/** Dynamo's own prefill workers are in a component of that name, all others in "backend". */
const componentOf = (role: WorkerRole): string => (role === "prefill" ? "prefill" : "backend");
const kvEvents = "kv-events";

/** Visible in discovery when it resolves. */
export async function startPeer(site: PeerSite, options: PeerOptions = {}): Promise<DynamoPeer> {
  const { role = "aggregated", namespace = "ns", firstRank = 0, ranks = 1, publishesEvents = true } = options;
  const open: { close(): Promise<void> }[] = [];
  const close = async (): Promise<void> => {
    for (let last = open.pop(); last !== undefined; last = open.pop()) await last.close();
  };
  try {
    const caches = new Map<number, PeerCache>();
    const rankAt = new Map<string, number>();
    const server = await startRecoveryServer((path, dpRank) =>
      rankAt.get(path) === dpRank ? caches.get(dpRank) : undefined,
    );
    open.push(server);
    const registration = await site.register();
    open.push(registration);
    const { instanceId = registration.instanceId } = options;
    const scope = { namespace, component: componentOf(role), endpoint: "generate" };
    const endpointAt = (endpoint: string): InstanceRecord => ({
      type: "Endpoint",
      ...scope,
      endpoint,
      instanceId,
      transport: {
        kind: "tcp",
        address: server.address,
        path: `${instanceId.toString(16)}/${namespace}/${scope.component}/${endpoint}`,
      },
      codec: "msgpack",
    });
    const records: EncodedRecord[] = [];
    for (let dpRank = firstRank; dpRank < firstRank + ranks; dpRank++) {
      const identity = { workerId: instanceId, dpRank };
      if (!publishesEvents) {
        caches.set(dpRank, new PeerCache(identity, () => undefined));
        continue;
      }
      const publisher = await site.events.publish(scope, kvEvents);
      open.push(publisher);
      caches.set(dpRank, new PeerCache(identity, (payload) => publisher.publish(payload)));
      const recovery = endpointAt(`worker_kv_query_source_${publisher.publisherId.toString(16)}`);
      rankAt.set(recovery.transport.kind === "tcp" ? recovery.transport.path : "", dpRank);
      records.push(encodeRecord(publisher.channel), encodeRecord(sourceOf(scope, publisher, identity, recovery)));
    }
    const metrics = await site.events.publish(scope, "kv_metrics");
    open.push(metrics);
    records.push(
      encodeRecord(metrics.channel),
      encodeModelRecord({ ...scope, instanceId, modelSuffix: undefined }, cardOf({ ...options, role })),
      encodeRecord(endpointAt("generate")),
    );
    for (const record of records) await registration.put(record);
    const [cache] = caches.values();
    if (cache === undefined) throw new RangeError("a worker has at least one rank");
    return {
      role,
      namespace,
      instanceId,
      cache,
      caches,
      questions: server.questions,
      get manner() {
        return server.manner;
      },
      set manner(manner) {
        server.manner = manner;
      },
      records,
      reportLoad: (load) => metrics.publish(encodeActiveLoad(instanceId, load)),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function sourceOf(
  scope: EventScope,
  { publisherId }: EventPublisher,
  { workerId, dpRank }: { readonly workerId: bigint; readonly dpRank: number },
  recovery: InstanceRecord,
) {
  return { type: "EventSource", scope, topic: kvEvents, publisherId, workerId, dpRank, recovery } as const;
}
