/** Model cards as Dynamo's workers register them, over the small model of the fixtures: files by path, with their true digests. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { blake3 } from "@noble/hashes/blake3.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import type { WorkerRole } from "../../src/dynamo/model-card/model-card.ts";
import type { JsonObject } from "../../src/dynamo/record-json.ts";

const modelFolder = join(import.meta.dirname, "../fixtures/dynamo/model");
export const peerModel = "tiny";
export const blockSize = 16;

export interface CardOptions {
  readonly role: WorkerRole;
  readonly model?: string;
  readonly contextLength?: number;
  readonly totalKvBlocks?: number;
  readonly maxNumBatchedTokens?: number;
  readonly firstRank?: number;
  readonly ranks?: number;
  readonly publishesEvents?: boolean;
  /** What the engine alone knows the meaning of. */
  readonly runtimeData?: JsonObject;
  /** Members that replace the card's own. */
  readonly changes?: JsonObject;
}

const files = new Map<string, JsonObject>();

/** A file of the model as a card names it. */
export function checkedFile(name: string): JsonObject {
  let file = files.get(name);
  if (file === undefined) {
    const path = join(modelFolder, name);
    const bytes = readFileSync(path);
    file = { path, checksum: `blake3:${bytesToHex(blake3(bytes))}`, size: bytes.length };
    files.set(name, file);
  }
  return file;
}

/** A decode worker needs prefill workers and the other way round, as Dynamo's own say. */
const needs: Readonly<Record<WorkerRole, readonly (readonly WorkerRole[])[]>> = {
  aggregated: [],
  encode: [],
  prefill: [["decode"]],
  decode: [["prefill"]],
};

export function cardOf(options: CardOptions): JsonObject {
  const { role, model = peerModel, publishesEvents = true } = options;
  return {
    display_name: model,
    slug: model,
    source_path: modelFolder,
    model_info: { hf_config_json: checkedFile("config.json") },
    tokenizer: { hf_tokenizer_json: checkedFile("tokenizer.json") },
    prompt_formatter: { hf_tokenizer_config_json: checkedFile("tokenizer_config.json") },
    context_length: options.contextLength ?? 4096,
    kv_cache_block_size: blockSize,
    migration_limit: 0,
    model_type: role === "prefill" ? "Prefill" : "Chat | Completions",
    model_input: "Tokens",
    worker_type: role,
    needs: needs[role],
    runtime_config: {
      total_kv_blocks: options.totalKvBlocks ?? 1024,
      max_num_seqs: 256,
      max_num_batched_tokens: options.maxNumBatchedTokens ?? 8192,
      data_parallel_start_rank: options.firstRank ?? 0,
      data_parallel_size: options.ranks ?? 1,
      enable_local_indexer: publishesEvents,
      kv_event_publishing_enabled: publishesEvents,
      ...(options.runtimeData === undefined ? {} : { runtime_data: options.runtimeData }),
    },
    ...options.changes,
  };
}
