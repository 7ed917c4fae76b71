/** Records as Dynamo 1.6.1 wrote them: read whole, written alike, and never trusted. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "@jest/globals";
import { encodeModelRecord, encodeRecord } from "../../../src/dynamo/encode-record.ts";
import { instanceIdOfPod } from "../../../src/dynamo/instance-id.ts";
import { maxRecordBytes, parseRecord } from "../../../src/dynamo/parse-record.ts";
import { encodeExactJson, type JsonObject, parseExactJson } from "../../../src/dynamo/record-json.ts";
import { bucketOf, fileNameOf, keyOf, pathOfFileName } from "../../../src/dynamo/record-keys.ts";
import type { DynamoRecord, EventChannelRecord } from "../../../src/dynamo/records.ts";
import fc from "../../properties.ts";

interface Fixture {
  readonly layouts: Readonly<
    Record<string, { readonly mdcsums: readonly string[]; readonly files: Readonly<Record<string, string>> }>
  >;
}

const { layouts } = JSON.parse(readFileSync("test/fixtures/dynamo/discovery-records.json", "utf8")) as Fixture;
const disagg = layouts["disagg"] ?? { mdcsums: [], files: {} };
const dp2 = layouts["agg-dp2"] ?? { mdcsums: [], files: {} };
const files = [...Object.entries(disagg.files), ...Object.entries(dp2.files)];

function keyOfFile(file: string): string {
  const bucket = bucketOf(file) ?? "";
  return `${bucket}/${pathOfFileName(file.slice(bucket.length + 1)) ?? ""}`;
}

function recordOf(file: string, text: string): DynamoRecord {
  const parsed = parseRecord(keyOfFile(file), text);
  if (parsed.kind !== "record") throw new Error(`${file}: ${parsed.reason}`);
  return parsed.record;
}

const records = files.map(([file, text]) => recordOf(file, text));

describe("discovery records", () => {
  it.each(files)("reads the recorded file %s and writes it under the same name", (file, text) => {
    const record = recordOf(file, text);
    const key = keyOf(record);
    const bucket = bucketOf(key) ?? "";
    expect(`${bucket}/${fileNameOf(key.slice(bucket.length + 1))}`).toBe(file);
    const encoded =
      record.type === "Model"
        ? encodeModelRecord(record, (parseExactJson(text) as { card_json: JsonObject }).card_json)
        : encodeRecord(record);
    const withoutDevice = text.replaceAll(/"device_type":"\w+",/g, "");
    expect(encoded.key).toBe(key);
    expect(parseExactJson(encoded.text)).toEqual(parseExactJson(withoutDevice));
  });

  it("reads what a worker of two ranks registers", () => {
    const ofDp2 = Object.entries(dp2.files).map(([file, text]) => recordOf(file, text));
    const endpoint = ofDp2.find((record) => record.type === "Endpoint" && record.endpoint === "generate");
    const sources = ofDp2.filter((record) => record.type === "EventSource");
    expect(endpoint).toMatchObject({ codec: "msgpack", transport: { kind: "tcp" } });
    expect(new Set(sources.map((source) => source.dpRank))).toEqual(new Set([0, 1]));
    for (const source of sources) {
      expect(source.recovery?.endpoint).toBe(`worker_kv_query_source_${source.publisherId.toString(16)}`);
      expect(source.workerId).toBe(endpoint?.type === "Endpoint" ? endpoint.instanceId : 0n);
    }
  });

  it("gives cards the checksums by which Dynamo's own frontend knows them", () => {
    const cards = records.filter((record) => record.type === "Model").map((record) => record.card);
    expect(new Set(cards.map((card) => card.fingerprint))).toEqual(new Set([...disagg.mdcsums, ...dp2.mdcsums]));
    expect(cards.find((card) => card.role === "prefill")).toMatchObject({ modelTypes: [], needs: [["decode"]] });
    expect(cards.find((card) => card.role === "aggregated")).toMatchObject({
      displayName: "tiny",
      kvCacheBlockSize: 16,
      contextLength: 0,
      modelTypes: ["Chat", "Completions"],
      runtime: { dataParallelSize: 2, totalKvBlocks: 16384, maxNumBatchedTokens: 8192, hasLocalIndexer: true },
    });
  });

  it("keeps every u64 exact, in records and in keys", () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
        fc.string({ minLength: 1, maxLength: 20 }),
        (id, topic) => {
          const record: EventChannelRecord = {
            type: "EventChannel",
            scope: { namespace: "n.s", component: "c", endpoint: undefined },
            topic,
            publisherId: id,
            transport: { kind: "zmq", endpoint: "tcp://127.0.0.1:1" },
          };
          const { key, text } = encodeRecord(record);
          expect(parseRecord(key, text)).toEqual({ kind: "record", record });
        },
      ),
      { numRuns: 200 },
    );
  });

  it("turns any key into a file name and back", () => {
    fc.assert(
      fc.property(fc.string({ unit: "grapheme", minLength: 1 }), (path) => {
        const name = fileNameOf(path);
        expect(name).toMatch(/^[A-Za-z0-9%]+$/);
        expect(pathOfFileName(name)).toBe(path);
      }),
    );
    expect(pathOfFileName("ns/backend")).toBeUndefined();
    expect(pathOfFileName("%zz")).toBeUndefined();
    expect(fileNameOf("ns/a_b-c%2E")).toBe("ns%2Fa%5Fb%2Dc%252E");
  });

  it("says of anything that is no record what is wrong, and never throws", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
        expect(parseRecord("v1/instances/ns/c/e/1", text).kind).toBe("malformed");
      }),
      { numRuns: 300 },
    );
  });

  const instance = {
    type: "Endpoint",
    namespace: "ns",
    component: "c",
    endpoint: "e",
    instance_id: 1,
    transport: { tcp: "h:1/p" },
  };
  const [modelFile = "", modelText = ""] = Object.entries(dp2.files).find(([file]) => file.startsWith("v1/mdc/")) ?? [];
  const card = (change: (card: Record<string, unknown>) => void): string => {
    const model = parseExactJson(modelText) as { card_json: Record<string, unknown> };
    change(model.card_json);
    return encodeExactJson(model);
  };
  const cases: readonly (readonly [string, string, string, string])[] = [
    [
      "another key than its own",
      "v1/instances/ns/c/e/2",
      JSON.stringify(instance),
      "it names itself v1/instances/ns/c/e/1",
    ],
    ...["h:0/p", "h:65536/p", "h:99999", "a\0b:1", "[::1:1", "a b:1", `${"h".repeat(256)}:1`, "h"].map(
      (tcp): readonly [string, string, string, string] => [
        `the address ${JSON.stringify(tcp).slice(0, 20)}`,
        "v1/instances/ns/c/e/1",
        JSON.stringify({ ...instance, transport: { tcp } }),
        "transport.tcp: expected host:port/path",
      ],
    ),
    [
      "a namespace that is a path",
      "v1/instances/ns/x/c/e/1",
      JSON.stringify({ ...instance, namespace: "ns/x" }),
      "namespace: expected a name without slashes",
    ],
    ["more values than a record has", "v1/instances/ns/c/e/1", `[${"0,".repeat(400_000)}0]`, "more than 20000 values"],
    ["a number of a million digits", "v1/instances/ns/c/e/1", `[${"9".repeat(1_000_000)}]`, "expected an object"],
    ...["inproc://x", "udp://127.0.0.1:1", "pgm://eth0;1.2.3.4:1", "tcp://\n", "/etc/passwd"].map(
      (endpoint): readonly [string, string, string, string] => [
        `the event endpoint ${JSON.stringify(endpoint)}`,
        "v1/event_channels/namespace/ns/topic/t/1",
        JSON.stringify({
          type: "EventChannel",
          scope: { kind: "namespace", name: "ns" },
          topic: "t",
          instance_id: 1,
          transport: { kind: "Zmq", config: { endpoint } },
        }),
        "transport.config.endpoint: expected tcp://host:port",
      ],
    ),
    ...(
      [
        ["kv_cache_block_size", 4_294_967_295],
        ["kv_cache_block_size", -16],
        ["kv_cache_block_size", 1e300],
        ["kv_cache_block_size", 16.5],
      ] as const
    ).map(([field, value]): readonly [string, string, string, string] => [
      `a card with ${field} ${value}`,
      keyOfFile(modelFile),
      card((changed) => {
        changed[field] = value;
      }),
      field,
    ]),
    ...(
      [
        ["data_parallel_start_rank", 2_147_483_647],
        ["data_parallel_start_rank", -1],
        ["data_parallel_size", 1e9],
        ["total_kv_blocks", -1],
        ["total_kv_blocks", 1e300],
        ["max_num_batched_tokens", "many"],
      ] as const
    ).map(([field, value]): readonly [string, string, string, string] => [
      `a card with runtime_config.${field} ${value}`,
      keyOfFile(modelFile),
      card((changed) => {
        (changed["runtime_config"] as Record<string, unknown>)[field] = value;
      }),
      "runtime_config.",
    ]),
    ["a key of no bucket", "v1/other/ns/c/e/1", JSON.stringify(instance), "no bucket"],
    ["half a text", "v1/instances/ns/c/e/1", JSON.stringify(instance).slice(0, 40), "not JSON"],
    ["too much text", "v1/instances/ns/c/e/1", " ".repeat(maxRecordBytes + 1), "longer than"],
    [
      "a negative id",
      "v1/instances/ns/c/e/1",
      JSON.stringify({ ...instance, instance_id: -1 }),
      "instance_id: expected an unsigned",
    ],
    [
      "an id beyond u64",
      "v1/instances/ns/c/e/1",
      '{"type":"Endpoint","namespace":"ns","component":"c","endpoint":"e","instance_id":18446744073709551616}',
      "instance_id",
    ],
    ["an unknown type", "v1/instances/ns/c/e/1", JSON.stringify({ ...instance, type: "Other" }), "type: expected"],
    [
      "no transport",
      "v1/instances/ns/c/e/1",
      JSON.stringify({ ...instance, transport: {} }),
      "transport: expected one of",
    ],
    [
      "an address without port",
      "v1/instances/ns/c/e/1",
      JSON.stringify({ ...instance, transport: { tcp: "h/p" } }),
      "host:port",
    ],
    [
      "a digest that is a path",
      keyOfFile(modelFile),
      card((c) => {
        c["tokenizer"] = { hf_tokenizer_json: { path: "t", checksum: "blake3:../../x" } };
      }),
      "card_json.tokenizer.hf_tokenizer_json.checksum",
    ],
    [
      "blocks of no tokens",
      keyOfFile(modelFile),
      card((c) => {
        c["kv_cache_block_size"] = 0;
      }),
      "kv_cache_block_size: expected a positive",
    ],
    [
      "an unknown role",
      keyOfFile(modelFile),
      card((c) => {
        c["worker_type"] = "boss";
      }),
      "worker_type",
    ],
    [
      "more ranks than Dynamo takes",
      keyOfFile(modelFile),
      card((c) => {
        c["runtime_config"] = { data_parallel_size: 5000 };
      }),
      "data_parallel_size",
    ],
  ];
  it.each(cases)("refuses %s", (_name, key, text, reason) => {
    expect(parseRecord(key, text)).toEqual({ kind: "malformed", reason: expect.stringContaining(reason) });
  });

  it("passes over fields it does not know and fills in those that older releases leave out", () => {
    const text = card((c) => {
      c["runtime_config"] = {};
      c["new_in_2_0"] = { x: 1 };
      delete c["worker_type"];
      c["model_type"] = "Prefill";
    });
    const parsed = parseRecord(keyOfFile(modelFile), text);
    expect(parsed).toMatchObject({
      kind: "record",
      record: {
        card: {
          role: "prefill",
          needs: [["decode"]],
          contextLength: 262144,
          runtime: { dataParallelSize: 1, isEagle: false },
        },
      },
    });
  });

  it("keeps from KV events whose kind of source is unknown", () => {
    const text = card((c) => {
      c["runtime_config"] = {
        kv_event_source_mode: "state_agent_v2",
        kv_state_endpoint: { namespace: "ns", component: "kv", name: "state" },
      };
    });
    expect(parseRecord(keyOfFile(modelFile), text)).toMatchObject({
      record: {
        card: { runtime: { publishesKvEvents: false, kvStateEndpoint: { component: "kv", endpoint: "state" } } },
      },
    });
  });
});

describe("the instance id of a pod", () => {
  it.each([
    ["worker-0", 1186445869714687n],
    ["worker-1", 6167992384364830n],
    ["worker-99999", 7410589986301036n],
    ["deployment-with-hash-suffix-a1b2c3d4e5f6", 2590930466072916n],
    ["fake-name-1-0-worker-nrdfv", 1009006049675451n],
    ["vllm-0", 1943803597606491n],
    ["", 121655548788207n],
    ["worker-0-engine-0", 8051026481054291n],
    ["worker-0-engine-1", 4054906713372226n],
  ])("of %s is %d", (name, id) => {
    expect(instanceIdOfPod(name)).toBe(id);
  });
});
