/**
 * A Mooncake master as a subscriber of its events sees it: a real ZeroMQ publisher with Mooncake's frames, and the keys under which SGLang stores the
 * pages of a prompt there, derived here on their own.
 */
import { createHash } from "node:crypto";
import { encode } from "@msgpack/msgpack";
import { Publisher } from "zeromq";
import type { HicacheLayout } from "../src/dynamo/model-card/model-card.ts";

export const plainLayout: HicacheLayout = {
  backend: "mooncake",
  pageSize: 4,
  tpSize: 1,
  ppSize: 1,
  isMla: false,
  isEagle: false,
  tpLcmSize: undefined,
  splitsHeads: false,
  extraBackendTag: undefined,
  keyPrefix: undefined,
};

/** As a worker's card has it under runtime_data.sglang_hicache_mooncake. */
export function cardLayout(layout: HicacheLayout, eventsEndpoint?: string): Readonly<Record<string, unknown>> {
  return {
    backend: layout.backend,
    page_size: layout.pageSize,
    tp_size: layout.tpSize,
    pp_size: layout.ppSize,
    is_mla_model: layout.isMla,
    is_eagle: layout.isEagle,
    tp_lcm_size: layout.tpLcmSize ?? null,
    should_split_heads: layout.splitsHeads,
    extra_backend_tag: layout.extraBackendTag ?? null,
    key_prefix: layout.keyPrefix ?? null,
    kv_events_endpoint: eventsEndpoint ?? null,
  };
}

/** Hex, of every whole page. */
export function pageHashes(tokens: readonly number[], pageSize: number, isEagle = false): string[] {
  const words = isEagle ? tokens.slice(1).map((token, index) => [tokens[index] ?? 0, token]) : tokens.map((t) => [t]);
  const hashes: string[] = [];
  for (let from = 0; from + pageSize <= words.length; from += pageSize) {
    const hash = createHash("sha256").update(Buffer.from(hashes.at(-1) ?? "", "hex"));
    for (const word of words.slice(from, from + pageSize).flat()) {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32LE(word);
      hash.update(bytes);
    }
    hashes.push(hash.digest("hex"));
  }
  return hashes;
}

export interface ObjectEvent {
  readonly type: string;
  readonly key?: string;
  readonly tenant?: string;
  readonly group?: string;
}

/** With every member that Mooncake's publisher writes. */
function membersOf({ type, key, tenant = "default", group }: ObjectEvent, eventId: number): object {
  return {
    event_id: eventId,
    timestamp: 1_750_000_000_000,
    event_type: type,
    type: type === "stored" ? "BlockStored" : "BlockRemoved",
    model_name: null,
    block_size: null,
    additional_salt: null,
    lora_name: null,
    tenant_id: tenant,
    backend_id: "pool-0",
    group_id: group ?? null,
    medium: "cpu",
    dp_rank: null,
    ...(key === undefined ? {} : { object_key: key }),
    seq_hashes: [],
    block_hashes: [],
    base_block_idx: 0,
    ...(type === "stored" ? { parent_hash: null, parent_block_hash: null, token_ids: [] } : {}),
  };
}

export function encodeBatch(events: readonly ObjectEvent[]): Buffer {
  return Buffer.from(encode([1_750_000_000_000, events.map(membersOf), 0], { useBigInt64: false }));
}

/** Fields by position, as Dynamo's own tests write them. */
export function encodePositionalBatch(events: readonly ObjectEvent[]): Buffer {
  const fields = events.map(({ type, key, tenant = "default", group }) => [type, key ?? null, tenant, group ?? null]);
  return Buffer.from(encode([0, fields, 0]));
}

export function sequenceFrame(sequence: number): Buffer {
  const frame = Buffer.alloc(8);
  frame.writeBigUInt64BE(BigInt(sequence));
  return frame;
}

export interface Mooncake {
  readonly endpoint: string;
  /** Of the next batch; the test may change it. */
  sequence: number;
  publish(events: readonly ObjectEvent[]): Promise<void>;
  send(frames: readonly (Buffer | string)[]): Promise<void>;
  close(): Promise<void>;
}

/** On a port of its own unless an endpoint is given. */
export async function startMooncake(endpoint = "tcp://127.0.0.1:*"): Promise<Mooncake> {
  const socket = new Publisher({ linger: 0 });
  await socket.bind(endpoint);
  const master: Mooncake = {
    endpoint: socket.lastEndpoint ?? endpoint,
    sequence: 0,
    publish: (events) => socket.send(["", sequenceFrame(master.sequence++), encodeBatch(events)]),
    send: (frames) => socket.send([...frames]),
    close: () => {
      socket.close();
      return Promise.resolve();
    },
  };
  return master;
}

/** Both halves of every page of a prompt, as one rank without tensor parallelism stores them. */
export function storedPages(hashes: readonly string[], prefix = ""): ObjectEvent[] {
  return hashes.flatMap((hash) =>
    ["k", "v"].map((half) => ({
      type: "stored",
      key: `${prefix}${hash}_0_${half}`,
      group: `sglang-hicache:${prefix}${hash}`,
    })),
  );
}
