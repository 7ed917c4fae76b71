/** Where the workers of one test register and publish: a discovery backend and an event plane, both real, and the environment that a picker needs to find them. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createEtcdRegistration } from "../../src/dynamo/discovery/etcd/etcd-registration.ts";
import { createFileRegistration } from "../../src/dynamo/discovery/file/file-registration.ts";
import type { DynamoRegistration } from "../../src/dynamo/discovery/registration.ts";
import { createEventPlane } from "../../src/dynamo/event-plane/create-event-plane.ts";
import type { EventPlane } from "../../src/dynamo/event-plane/event-plane.ts";
import { silentLogger } from "../../src/telemetry/log.ts";

/** Plain data, so that a process of its own can be handed it. */
export interface SiteOptions {
  /** Files in a folder of the test when there is no etcd. */
  readonly etcd?: { readonly url: string; readonly ttlSeconds?: number };
  /** Given to processes that share a site; a new one, removed at close, when there is none. */
  readonly folder?: string;
  /** ZeroMQ when there is no NATS. */
  readonly natsUrl?: string;
}

export interface PeerSite {
  readonly options: SiteOptions & { readonly folder: string };
  /** What Dynamo's components and the picker have in common. */
  readonly environment: Readonly<Record<string, string>>;
  /** The backend's own name, as dynamo-discovery's parameter has it. */
  readonly backend: "file" | "etcd" | "kubernetes";
  readonly events: EventPlane;
  register(): Promise<DynamoRegistration>;
  close(): Promise<void>;
}

const log = silentLogger;

export function createSite(options: SiteOptions = {}): PeerSite {
  const { etcd, natsUrl } = options;
  const folder = options.folder ?? mkdtempSync(join(tmpdir(), "signalbox-dynamo-"));
  const environment = {
    ...(etcd === undefined
      ? { DYN_DISCOVERY_BACKEND: "file", DYN_FILE_KV: folder }
      : { DYN_DISCOVERY_BACKEND: "etcd", ETCD_ENDPOINTS: etcd.url }),
    ...(natsUrl === undefined ? { DYN_EVENT_PLANE: "zmq" } : { DYN_EVENT_PLANE: "nats", NATS_SERVER: natsUrl }),
    DYN_EVENT_PLANE_HOST: "127.0.0.1",
    DYN_TCP_RESPONSE_STREAM_HOST: "127.0.0.1",
  };
  const events = createEventPlane(environment, log);
  return {
    options: { ...options, folder },
    environment,
    backend: etcd === undefined ? "file" : "etcd",
    events,
    async register() {
      if (etcd === undefined) return createFileRegistration({ root: folder, log });
      const { url, ttlSeconds } = etcd;
      return await createEtcdRegistration({
        endpoints: [url],
        log,
        ...(ttlSeconds === undefined ? {} : { ttlSeconds }),
      });
    },
    async close() {
      await events.close();
      if (options.folder === undefined) rmSync(folder, { recursive: true, force: true });
    },
  };
}
