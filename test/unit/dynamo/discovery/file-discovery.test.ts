/** Dynamo's file backend on a real folder: what appears, is touched, rewritten, half-written, expires and vanishes. */
import { readdirSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, rename, rm, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "@jest/globals";
import {
  createFileDiscovery,
  type FileDiscoveryOptions,
} from "../../../../src/dynamo/discovery/file/file-discovery.ts";
import { createFileRegistration } from "../../../../src/dynamo/discovery/file/file-registration.ts";
import { encodeRecord } from "../../../../src/dynamo/encode-record.ts";
import { fileNameOf } from "../../../../src/dynamo/record-keys.ts";
import type { DynamoDiscovery, InstanceRecord, RecordListener } from "../../../../src/dynamo/records.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

let root: string;
const open: { close(): Promise<void> }[] = [];

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "signalbox-files-"));
});
afterEach(async () => {
  for (let last = open.pop(); last !== undefined; last = open.pop()) await last.close();
  await rm(root, { recursive: true, force: true });
});

function instance(id: number, address = "127.0.0.1:4000"): InstanceRecord {
  return {
    type: "Endpoint",
    namespace: "ns",
    component: "backend",
    endpoint: "generate",
    instanceId: BigInt(id),
    transport: { kind: "tcp", address, path: "p" },
    codec: "json",
  };
}

class Seen implements RecordListener {
  readonly records = new Map<string, InstanceRecord>();
  readonly events: string[] = [];
  put(key: string, record: unknown): void {
    this.records.set(key, record as InstanceRecord);
    this.events.push(`+${key}`);
  }
  removed(key: string): void {
    this.records.delete(key);
    this.events.push(`-${key}`);
  }
}

function fileOf(id: number): string {
  return join(root, "v1/instances", fileNameOf(`ns/backend/generate/${id.toString(16)}`));
}

function keyOf(id: number): string {
  return `v1/instances/ns/backend/generate/${id.toString(16)}`;
}

async function write(id: number, text = encodeRecord(instance(id)).text): Promise<void> {
  await mkdir(dirname(fileOf(id)), { recursive: true });
  await writeFile(`${dirname(fileOf(id))}/.tmp_x`, text);
  await rename(`${dirname(fileOf(id))}/.tmp_x`, fileOf(id));
}

async function discover(
  options: Partial<FileDiscoveryOptions> = {},
): Promise<{ seen: Seen; discovery: DynamoDiscovery }> {
  const discovery = createFileDiscovery({ root, log: silentLogger, pollMs: 40, ...options });
  open.push(discovery);
  const seen = new Seen();
  await discovery.start(seen);
  return { seen, discovery };
}

async function until(condition: () => boolean, ms = 20_000): Promise<void> {
  const deadline = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`still not so after ${ms} ms: ${condition.toString()}`);
    await new Promise((resolve) => {
      setTimeout(resolve, 5);
    });
  }
}

describe("discovery over files", () => {
  it("starts before there is any folder and sees buckets that appear later", async () => {
    await rm(root, { recursive: true });
    const { seen } = await discover();
    await write(1);
    await until(() => seen.records.has(keyOf(1)));
    expect(seen.records.get(keyOf(1))).toEqual(instance(1));
  });

  it("hears of a new and a removed file long before it looks at all of them", async () => {
    await write(1);
    const { seen } = await discover({ pollMs: 60_000 });
    await write(2);
    await until(() => seen.records.has(keyOf(2)), 2000);
    await rm(fileOf(1));
    await until(() => !seen.records.has(keyOf(1)), 2000);
  });

  it("replaces a record that is renamed over and one that is rewritten in place", async () => {
    await write(1);
    const { seen } = await discover();
    await write(1, encodeRecord(instance(1, "127.0.0.1:5000")).text);
    await until(() => seen.records.get(keyOf(1))?.transport.kind === "tcp" && seen.events.length === 2);
    await writeFile(fileOf(1), encodeRecord(instance(1, "127.0.0.1:60000")).text);
    await until(() => seen.events.length === 3);
    expect(seen.records.get(keyOf(1))).toEqual(instance(1, "127.0.0.1:60000"));
  });

  it("keeps the last good record while a file is half-written, and takes a new one when it is whole", async () => {
    await write(1);
    const { seen } = await discover();
    const { text } = encodeRecord(instance(2));
    await writeFile(fileOf(1), text.slice(0, 30));
    await writeFile(fileOf(2), text.slice(0, 30));
    await write(3);
    await until(() => seen.records.has(keyOf(3)));
    expect(seen.events).toEqual([`+${keyOf(1)}`, `+${keyOf(3)}`]);
    await writeFile(fileOf(2), text);
    await until(() => seen.records.has(keyOf(2)));
  });

  it("passes by temporary files, foreign names and folders", async () => {
    await mkdir(join(root, "v1/instances/folder"), { recursive: true });
    await writeFile(join(root, "v1/instances/.tmp_0123456789abcdef"), encodeRecord(instance(1)).text);
    await writeFile(join(root, "v1/instances/plain-name"), encodeRecord(instance(1)).text);
    await write(2);
    const { seen } = await discover();
    expect([...seen.records.keys()]).toEqual([keyOf(2)]);
  });

  it("removes a record whose file nobody touches, though nobody deletes it, and takes it back when it is touched", async () => {
    await write(1);
    await write(2);
    const { seen } = await discover({ ttlMs: 300 });
    const touching = setInterval(() => void utimes(fileOf(1), new Date(), new Date()), 50);
    try {
      await until(() => !seen.records.has(keyOf(2)));
      expect(seen.records.has(keyOf(1))).toBe(true);
    } finally {
      clearInterval(touching);
    }
    await utimes(fileOf(2), new Date(), new Date());
    await until(() => seen.records.has(keyOf(2)));
  });

  it("does not take a file for alive that had expired before it was first seen", async () => {
    await write(1);
    await utimes(fileOf(1), new Date(Date.now() - 60_000), new Date(Date.now() - 60_000));
    const { seen } = await discover();
    expect(seen.events).toEqual([]);
    await utimes(fileOf(1), new Date(), new Date());
    await until(() => seen.records.has(keyOf(1)));
  });

  it("lets nothing expire for the time in which it could not look", async () => {
    await write(1);
    let skippedMs = 0;
    const { seen } = await discover({ ttlMs: 5000, monotonic: () => performance.now() + skippedMs });
    skippedMs = 3_600_000;
    const later = seen.events.length;
    await write(2);
    await until(() => seen.records.has(keyOf(2)));
    expect(seen.events.slice(later)).toEqual([`+${keyOf(2)}`]);
  });

  it("follows a folder that was deleted and made again", async () => {
    await write(1);
    const { seen } = await discover();
    await rm(join(root, "v1"), { recursive: true });
    await until(() => !seen.records.has(keyOf(1)));
    await write(2);
    await until(() => seen.records.has(keyOf(2)));
  });

  it("tells nothing after it was closed", async () => {
    const { seen, discovery } = await discover();
    await discovery.close();
    await write(1);
    await new Promise((resolve) => {
      setTimeout(resolve, 100);
    });
    expect(seen.events).toEqual([]);
  });

  const isRoot = process.getuid?.() === 0;
  it("keeps what it knows while a folder cannot be listed, and says so", async () => {
    await write(1);
    const { seen, discovery } = await discover();
    if (isRoot) {
      // Nothing is forbidden to root: a path that leads round in a circle cannot be listed either.
      await rename(join(root, "v1/instances"), join(root, "kept"));
      await symlink("instances", join(root, "v1/instances"));
    } else await chmod(join(root, "v1/instances"), 0);
    await until(() => discovery.isStale);
    expect(seen.records.has(keyOf(1))).toBe(true);
    if (isRoot) {
      await rm(join(root, "v1/instances"));
      await rename(join(root, "kept"), join(root, "v1/instances"));
    } else await chmod(join(root, "v1/instances"), 0o755);
    await until(() => !discovery.isStale);
    expect(seen.events).toEqual([`+${keyOf(1)}`]);
  });
});

describe("registration in files", () => {
  it("is seen, stays alive for longer than the TTL, survives deletion by others, and is gone after close", async () => {
    const ttlMs = 1_000;
    const { seen } = await discover({ ttlMs });
    const registration = createFileRegistration({ root, log: silentLogger, ttlMs });
    open.push(registration);
    const record = encodeRecord({ ...instance(1), instanceId: registration.instanceId });
    await registration.put(record);
    await until(() => seen.records.has(record.key));
    const began = Date.now();
    await until(() => Date.now() - began > 2.5 * ttlMs);
    expect(seen.events).toEqual([`+${record.key}`]);
    const [name = ""] = await readdir(join(root, "v1/instances"));
    await rm(join(root, "v1/instances", name));
    // Written anew before anybody looks, it was never gone.
    const files = () => readdirSync(join(root, "v1/instances"));
    await until(() => files().length === 1 && seen.events.at(-1) === `+${record.key}`);
    expect(seen.records.has(record.key)).toBe(true);
    await registration.close();
    expect(await readdir(join(root, "v1/instances"))).toEqual([]);
    await until(() => !seen.records.has(record.key));
  });

  it("removes one record and keeps the others", async () => {
    const registration = createFileRegistration({ root, log: silentLogger });
    open.push(registration);
    await registration.put(encodeRecord(instance(1)));
    await registration.put(encodeRecord(instance(2)));
    await registration.remove(keyOf(1));
    expect(await readdir(join(root, "v1/instances"))).toEqual([fileNameOf("ns/backend/generate/2")]);
  });

  it("says which file could not be written", async () => {
    await writeFile(join(root, "v1"), "a file where a folder is to be");
    const registration = createFileRegistration({ root, log: silentLogger });
    open.push(registration);
    await expect(registration.put(encodeRecord(instance(1)))).rejects.toThrow("cannot write");
  });
});
