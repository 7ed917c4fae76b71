/** Discovery over a real etcd: leases that expire, restarts, compaction, long absence; nothing that lives is lost. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { Etcd3 } from "etcd3";
import { generate } from "selfsigned";
import { createEtcdDiscovery } from "../../../src/dynamo/discovery/etcd/etcd-discovery.ts";
import { etcdOptionsFromEnvironment } from "../../../src/dynamo/discovery/etcd/etcd-options.ts";
import { createEtcdRegistration } from "../../../src/dynamo/discovery/etcd/etcd-registration.ts";
import type { DynamoRegistration } from "../../../src/dynamo/discovery/registration.ts";
import { type EncodedRecord, encodeRecord } from "../../../src/dynamo/encode-record.ts";
import type { DynamoDiscovery, InstanceRecord, RecordListener } from "../../../src/dynamo/records.ts";
import { silentLogger } from "../../../src/telemetry/log.ts";
import { type RunningEtcd, startEtcd } from "../../etcd.ts";

const log = silentLogger;
let etcd: RunningEtcd;
const open: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  // The shortest election timing makes etcd grant leases of one second.
  etcd = await startEtcd(["--heartbeat-interval", "20", "--election-timeout", "200"]);
}, 60_000);
afterEach(async () => {
  for (let last = open.pop(); last !== undefined; last = open.pop()) await last.close();
});
afterAll(async () => {
  await etcd?.close();
});

function instance(id: bigint): InstanceRecord {
  return {
    type: "Endpoint",
    namespace: "ns",
    component: "backend",
    endpoint: "generate",
    instanceId: id,
    transport: { kind: "tcp", address: "127.0.0.1:4000", path: `${id.toString(16)}/ns/backend/generate` },
    codec: "msgpack",
  };
}

class Seen implements RecordListener {
  readonly records = new Map<string, unknown>();
  readonly events: string[] = [];
  put(key: string, record: unknown): void {
    this.records.set(key, record);
    this.events.push(`+${key}`);
  }
  removed(key: string): void {
    this.records.delete(key);
    this.events.push(`-${key}`);
  }
}

async function discover(endpoints = [etcd.url]): Promise<{ seen: Seen; discovery: DynamoDiscovery }> {
  const discovery = createEtcdDiscovery({ endpoints, log, startTimeoutMs: 10_000 });
  open.push(discovery);
  const seen = new Seen();
  await discovery.start(seen);
  return { seen, discovery };
}

async function register(ttlSeconds = 30): Promise<{ registration: DynamoRegistration; record: EncodedRecord }> {
  const registration = await createEtcdRegistration({ endpoints: [etcd.url], log, ttlSeconds });
  open.push(registration);
  const record = encodeRecord(instance(registration.instanceId));
  await registration.put(record);
  return { registration, record };
}

async function selfSigned(): Promise<{ readonly cert: string; readonly key: string }> {
  const pair = await generate([{ name: "commonName", value: "localhost" }], {
    extensions: [{ name: "subjectAltName", altNames: [{ type: 2, value: "localhost" }] }],
  });
  return { cert: pair.cert, key: pair.private };
}

async function until(condition: () => boolean, ms = 10_000): Promise<void> {
  const deadline = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`still not so after ${ms} ms: ${condition.toString()}`);
    await new Promise((resolve) => {
      setTimeout(resolve, 10);
    });
  }
}

describe("discovery over etcd", () => {
  it("lists what is there, follows what comes and goes, and keeps u64 ids exact", async () => {
    const first = await register();
    const { seen, discovery } = await discover();
    expect(discovery.isStale).toBe(false);
    expect(seen.records.get(first.record.key)).toEqual(instance(first.registration.instanceId));
    const second = await register();
    await until(() => seen.records.size === 2);
    await second.registration.close();
    await until(() => seen.records.size === 1);
    expect(seen.events).toEqual([`+${first.record.key}`, `+${second.record.key}`, `-${second.record.key}`]);
  });

  it("removes a record at once when its lease expires while connected", async () => {
    const { seen } = await discover();
    const client = new Etcd3({ hosts: etcd.url });
    const { ID } = await client.leaseClient.leaseGrant({ TTL: 1 });
    const { key, text } = encodeRecord(instance(BigInt(ID)));
    await client.kv.put({ key: Buffer.from(key), value: Buffer.from(text), lease: ID });
    client.close();
    await until(() => seen.records.has(key));
    await until(() => !seen.records.has(key));
  });

  it("keeps every record while etcd is away, says so, and tells nothing again when it is back", async () => {
    const { record } = await register();
    const { seen, discovery } = await discover();
    await etcd.kill();
    await until(() => discovery.isStale);
    expect(seen.records.has(record.key)).toBe(true);
    await etcd.restart();
    await until(() => !discovery.isStale);
    expect(seen.events).toEqual([`+${record.key}`]);
  }, 20_000);

  it("takes a server that hangs behind an open connection for one that is away, and catches up past a compaction", async () => {
    const { registration, record } = await register();
    const stays = await register();
    const { seen, discovery } = await discover();
    process.kill(etcd.pid, "SIGSTOP");
    try {
      await until(() => discovery.isStale, 15_000);
      expect(seen.records.size).toBe(2);
    } finally {
      process.kill(etcd.pid, "SIGCONT");
    }
    // The list it comes back with may be older or newer than these; in the end it has seen them.
    const client = new Etcd3({ hosts: etcd.url });
    await client.kv.deleteRange({ key: Buffer.from(record.key) });
    const added = encodeRecord(instance(7n));
    const { header } = await client.kv.put({ key: Buffer.from(added.key), value: Buffer.from(added.text) });
    await client.kv.compact({ revision: header.revision, physical: true });
    await until(() => !discovery.isStale && seen.records.has(added.key) && !seen.records.has(record.key));
    expect(seen.records.has(stays.record.key)).toBe(true);
    await client.kv.deleteRange({ key: Buffer.from(added.key) });
    await until(() => !seen.records.has(added.key));
    client.close();
    await registration.remove(record.key);
  }, 30_000);

  it("registers again under the same id when etcd has lost its data, and the record is back", async () => {
    const { registration, record } = await register(2);
    const { seen, discovery } = await discover();
    await etcd.restart({ keepData: false });
    await until(() => !discovery.isStale && seen.records.has(record.key), 15_000);
    expect(seen.records.get(record.key)).toEqual(instance(registration.instanceId));
    const fresh = await discover();
    expect([...fresh.seen.records.keys()]).toEqual([record.key]);
  }, 30_000);

  it("catches up with what was put and removed while etcd was away", async () => {
    const { registration, record } = await register();
    const { seen } = await discover();
    const added = encodeRecord({ ...instance(registration.instanceId), endpoint: "other" });
    await etcd.kill();
    await expect(registration.remove(record.key)).rejects.toThrow("tried again");
    await expect(registration.put(added)).rejects.toThrow("tried again");
    await etcd.restart();
    await until(() => seen.records.has(added.key) && !seen.records.has(record.key));
  }, 20_000);

  it("keeps a lease alive for longer than its TTL", async () => {
    const { record } = await register(1);
    const { seen } = await discover();
    const began = Date.now();
    await until(() => Date.now() - began > 2500);
    expect(seen.events).toEqual([`+${record.key}`]);
  });

  it("lists more records than fit one page", async () => {
    const client = new Etcd3({ hosts: etcd.url });
    for (let first = 0; first < 2500; first += 100) {
      await client.kv.txn({
        compare: [],
        failure: [],
        success: Array.from({ length: 100 }, (_, index) => {
          const { key, text } = encodeRecord(instance(BigInt(first + index)));
          return { request_put: { key: Buffer.from(key), value: Buffer.from(text) } };
        }),
      });
    }
    const { seen } = await discover();
    expect(seen.records.size).toBe(2500);
    await client.delete().prefix("v1/");
    client.close();
  }, 20_000);

  it("passes by an endpoint that does not answer", async () => {
    const { record } = await register();
    const { seen } = await discover(["http://127.0.0.1:1", etcd.url]);
    expect(seen.records.has(record.key)).toBe(true);
  });

  it("leaves out a value that is no record and keeps the one before it", async () => {
    const { record } = await register();
    const { seen, discovery } = await discover();
    const client = new Etcd3({ hosts: etcd.url });
    await client.put(record.key).value('{"type":"Endpoint",');
    await client.put("v1/instances/ns/backend/generate/1").value("[]");
    await client.put("v1/other/thing").value("{}");
    const last = encodeRecord(instance(99n));
    await client.put(last.key).value(last.text);
    await until(() => seen.records.has(last.key));
    expect(seen.events).toEqual([`+${record.key}`, `+${last.key}`]);
    expect(discovery.malformedRecords).toBe(2);
    await client.delete().prefix("v1/");
    client.close();
  });

  it("ends a start that still waits when it is closed", async () => {
    const discovery = createEtcdDiscovery({ endpoints: ["http://127.0.0.1:1"], log, startTimeoutMs: 60_000 });
    const start = discovery.start(new Seen());
    await Promise.all([expect(start).rejects.toThrow("closed before"), discovery.close()]);
  });

  it("says which etcd cannot be reached", async () => {
    const discovery = createEtcdDiscovery({ endpoints: ["http://127.0.0.1:1"], log, startTimeoutMs: 300 });
    await expect(discovery.start(new Seen())).rejects.toThrow("etcd at http://127.0.0.1:1 gave no list");
    await expect(createEtcdRegistration({ endpoints: ["http://127.0.0.1:1"], log })).rejects.toThrow("grants no lease");
  });

  it("signs in with a user and password, and is turned away with a wrong one", async () => {
    const own = await startEtcd();
    open.push(own);
    const client = new Etcd3({ hosts: own.url });
    await client.user("root").create("secret");
    await client.role("root").create();
    await client.user("root").addRole("root");
    await client.auth.authEnable();
    client.close();
    const env = { ETCD_ENDPOINTS: own.url, ETCD_AUTH_USERNAME: "root", ETCD_AUTH_PASSWORD: "secret" };
    const options = { ...etcdOptionsFromEnvironment(env), log };
    const registration = await createEtcdRegistration(options);
    open.push(registration);
    const record = encodeRecord(instance(registration.instanceId));
    await registration.put(record);
    const discovery = createEtcdDiscovery(options);
    open.push(discovery);
    const seen = new Seen();
    await discovery.start(seen);
    expect(seen.records.has(record.key)).toBe(true);
    // A restarted etcd knows the tokens of before no more.
    await own.restart();
    await until(() => !discovery.isStale);
    const other = encodeRecord(instance(1n));
    await until(() => seen.events.length === 1);
    await registration.put(other).catch(() => {});
    await until(() => seen.records.has(other.key));
    const wrong = etcdOptionsFromEnvironment({ ...env, ETCD_AUTH_PASSWORD: "guess" });
    await expect(createEtcdDiscovery({ ...wrong, log, startTimeoutMs: 500 }).start(new Seen())).rejects.toThrow(
      "gave no list",
    );
  }, 20_000);

  it("speaks TLS with a client certificate", async () => {
    const { cert, key } = await selfSigned();
    const folder = await mkdtemp(join(tmpdir(), "signalbox-tls-"));
    open.push({ close: () => rm(folder, { recursive: true, force: true }) });
    await writeFile(join(folder, "cert.pem"), cert);
    await writeFile(join(folder, "key.pem"), key);
    const own = await startEtcd([], { certFile: join(folder, "cert.pem"), keyFile: join(folder, "key.pem") });
    open.push(own);
    const options = etcdOptionsFromEnvironment({
      ETCD_ENDPOINTS: own.url.replace("127.0.0.1", "localhost"),
      ETCD_AUTH_CA: cert,
      ETCD_AUTH_CLIENT_CERT: cert,
      ETCD_AUTH_CLIENT_KEY: key,
    });
    const registration = await createEtcdRegistration({ ...options, log });
    open.push(registration);
    const record = encodeRecord(instance(registration.instanceId));
    await registration.put(record);
    const discovery = createEtcdDiscovery({ ...options, log });
    open.push(discovery);
    const seen = new Seen();
    await discovery.start(seen);
    expect([...seen.records.keys()]).toEqual([record.key]);
  }, 20_000);
});
