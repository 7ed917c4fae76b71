import { describe, expect, it } from "@jest/globals";
import { RecordTable } from "../../../../src/dynamo/discovery/record-table.ts";
import { encodeRecord } from "../../../../src/dynamo/encode-record.ts";
import { silentLogger } from "../../../../src/telemetry/log.ts";

function channel(id: bigint, endpoint = "tcp://127.0.0.1:1"): ReturnType<typeof encodeRecord> {
  return encodeRecord({
    type: "EventChannel",
    scope: { namespace: "ns", component: undefined, endpoint: undefined },
    topic: "t",
    publisherId: id,
    transport: { kind: "zmq", endpoint },
  });
}

function table(): { readonly table: RecordTable; readonly told: string[] } {
  const told: string[] = [];
  const listener = {
    put(key: string): void {
      told.push(`+${key}`);
    },
    removed(key: string): void {
      told.push(`-${key}`);
    },
    unreadable(key: string, reason: string | undefined): void {
      told.push(`${reason === undefined ? "readable" : "unreadable"} ${key}`);
    },
  };
  return { table: new RecordTable(listener, silentLogger), told };
}

describe("what a backend last said", () => {
  const one = channel(1n);
  const two = channel(2n);

  it("is told once for the same text, and again for another", () => {
    const { table: records, told } = table();
    records.put(one.key, one.text);
    records.put(one.key, one.text);
    records.put(one.key, channel(1n, "tcp://127.0.0.1:2").text);
    expect(told).toEqual([`+${one.key}`, `+${one.key}`]);
  });

  it("keeps a record while its text cannot be read, says so, and says when it can be again", () => {
    const { table: records, told } = table();
    records.put(one.key, one.text);
    records.put(one.key, "{");
    records.put(one.key, one.text);
    records.put(two.key, "{");
    records.remove(two.key);
    records.remove(one.key);
    expect(told).toEqual([
      `+${one.key}`,
      `unreadable ${one.key}`,
      `readable ${one.key}`,
      `+${one.key}`,
      `unreadable ${two.key}`,
      `readable ${two.key}`,
      `-${one.key}`,
    ]);
    expect(records.malformed).toBe(2);
  });

  it("is bounded in all that it keeps, and takes texts again when others have gone", () => {
    const { table: records, told } = table();
    const long = `{${" ".repeat(1024 * 1024 - 1)}`;
    for (let id = 1n; id <= 256n; id++) records.put(channel(id).key, long);
    told.length = 0;
    records.put(channel(1000n).key, channel(1000n).text);
    expect(told).toEqual([]);
    records.remove(channel(2n).key);
    records.put(channel(1000n).key, channel(1000n).text);
    expect(told).toEqual([`readable ${channel(2n).key}`, `+${channel(1000n).key}`]);
  });

  it("writes few lines for many texts that cannot be read", () => {
    const lines: unknown[] = [];
    const log = { ...silentLogger, warn: (fields: unknown) => lines.push(fields) };
    const records = new RecordTable({ put: () => {}, removed: () => {} }, log);
    for (let count = 0; count < 10_000; count++) records.put(one.key, `{${count}`);
    expect(records.malformed).toBe(10_000);
    expect(lines.length).toBeLessThan(50);
  });

  it("is brought up to a complete list by what has gone and what is new", () => {
    const { table: records, told } = table();
    records.reconcile(new Map([[one.key, one.text]]));
    records.reconcile(new Map([[two.key, two.text]]));
    records.reconcile(new Map([[two.key, two.text]]));
    expect(told).toEqual([`+${one.key}`, `-${one.key}`, `+${two.key}`]);
  });
});
