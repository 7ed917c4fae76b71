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

  it("is brought up to a complete list by what has gone and what is new", () => {
    const { table: records, told } = table();
    records.reconcile(new Map([[one.key, one.text]]));
    records.reconcile(new Map([[two.key, two.text]]));
    records.reconcile(new Map([[two.key, two.text]]));
    expect(told).toEqual([`+${one.key}`, `-${one.key}`, `+${two.key}`]);
  });
});
