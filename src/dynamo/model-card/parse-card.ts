/**
 * card_json → ModelCard (Dynamo 1.6.1: dynamo-llm, src/model_card.rs and src/local_model/runtime_config.rs). What Dynamo's own reader
 * would refuse is a fault here too; what it ignores is ignored.
 */
import { FieldFault, Fields } from "../record-json.ts";
import { contextLengthOf, maxU32, parseCheckedFile } from "./card-fields.ts";
import { cardFingerprint } from "./card-fingerprint.ts";
import { parseHicacheCard } from "./hicache-card.ts";
import type { CheckedFile, ModelCard, RuntimeConfig, WorkerRole } from "./model-card.ts";

/** dynamo-kv-router, src/sequences/topology.rs. */
const maxRanksPerWorker = 4096;

/** Ranks stand in columns of 32-bit integers; no fleet comes near. */
export const maxDpRank = 0x7fff_ffff;

/** Tokens; engines have some dozens to a few thousand. */
const maxBlockSize = 1 << 20;

/** Throws FieldFault. */
export function parseModelCard(fields: Fields): ModelCard {
  const modelTypes = fields
    .string("model_type")
    .split("|")
    .map((name) => name.trim())
    .filter((name) => name !== "");
  const runtime = readRuntime(fields);
  const legacyPrefill = fields.isAbsent("worker_type") && modelTypes.includes("Prefill");
  const needs = readNeeds(fields);
  return {
    displayName: fields.name("display_name"),
    slug: fields.name("slug"),
    sourcePath: fields.optionalString("source_path"),
    aliases: fields.strings("aliases"),
    config: fileOf(fields, "model_info", ["hf_config_json"]),
    tokenizer: fileOf(fields, "tokenizer", ["hf_tokenizer_json", "tik_token_model"]),
    tokenizerConfig: fileOf(fields, "prompt_formatter", ["hf_tokenizer_config_json"]),
    chatTemplate: templateOf(fields, "chat_template_file") ?? templateOf(fields, "prompt_formatter"),
    generationConfig: fileOf(fields, "gen_config", ["hf_generation_config_json"]),
    contextLength: contextLengthOf(fields),
    kvCacheBlockSize: blockSizeOf(fields, "kv_cache_block_size"),
    modelTypes,
    modelInput: readInput(fields),
    // A prefill worker from before there were roles says so by its model type.
    role: legacyPrefill
      ? "prefill"
      : fields.isAbsent("worker_type")
        ? undefined
        : roleOf(fields.object["worker_type"], fields.at("worker_type")),
    needs: legacyPrefill && needs.length === 0 ? [["decode"]] : needs,
    lora: readLora(fields),
    runtime,
    fingerprint: cardFingerprint(fields),
  };
}

function blockSizeOf(fields: Fields, key: string): number {
  const value = fields.integer(key, maxBlockSize);
  if (value === 0) throw new FieldFault(fields.at(key), "a positive integer");
  return value;
}

function readInput(fields: Fields): ModelCard["modelInput"] {
  const input = fields.string("model_input");
  if (input === "Tokens" || input === "Text" || input === "Tensor") return input;
  throw new FieldFault(fields.at("model_input"), "Tokens, Text or Tensor");
}

function roleOf(value: unknown, path: string): WorkerRole {
  if (value === "aggregated" || value === "prefill" || value === "decode" || value === "encode") return value;
  throw new FieldFault(path, "aggregated, prefill, decode or encode");
}

function readNeeds(fields: Fields): readonly (readonly WorkerRole[])[] {
  return fields.list("needs").map((group, index) => {
    const path = `${fields.at("needs")}[${index}]`;
    if (!Array.isArray(group)) throw new FieldFault(path, "a list of roles");
    return group.map((role: unknown) => roleOf(role, path));
  });
}

function readLora(fields: Fields): ModelCard["lora"] {
  const lora = fields.optionalFields("lora");
  return lora && { name: lora.name("name"), maxAdapters: lora.optionalInteger("max_gpu_lora_count", maxU32) };
}

/** A member of the shape {"<one of names>": CheckedFile}; undefined when it is absent or of another kind. */
function fileOf(fields: Fields, key: string, names: readonly string[]): CheckedFile | undefined {
  const holder = fields.optionalFields(key);
  const name = names.find((candidate) => holder?.isAbsent(candidate) === false);
  return holder === undefined || name === undefined ? undefined : parseCheckedFile(holder.fields(name));
}

const templateNames = ["hf_chat_template", "hf_chat_template_jinja", "hf_chat_template_json"];

function templateOf(fields: Fields, key: string): CheckedFile | undefined {
  const holder = fields.optionalFields(key);
  const name = templateNames.find((candidate) => holder?.isAbsent(candidate) === false);
  return holder === undefined || name === undefined ? undefined : parseCheckedFile(holder.fields(name).fields("file"));
}

const noRuntime = new Fields({}, "runtime_config");

function readRuntime(card: Fields): RuntimeConfig {
  const fields = card.optionalFields("runtime_config") ?? noRuntime;
  const size = fields.optionalInteger("data_parallel_size", maxU32) ?? 1;
  const start = fields.optionalInteger("data_parallel_start_rank", maxU32) ?? 0;
  if (size < 1 || size > maxRanksPerWorker || start + size > maxDpRank) {
    throw new FieldFault(fields.at("data_parallel_size"), `1 to ${maxRanksPerWorker} ranks`);
  }
  const weight = fields.optionalNumber("kv_transfer_preferred_weight");
  if (weight !== undefined && (weight < 0 || weight > 1)) {
    throw new FieldFault(fields.at("kv_transfer_preferred_weight"), "a number from 0 to 1");
  }
  const mode = fields.optionalString("kv_event_source_mode");
  const state = fields.optionalFields("kv_state_endpoint");
  const hicache = parseHicacheCard(fields);
  return {
    totalKvBlocks: fields.optionalInteger("total_kv_blocks", Number.MAX_SAFE_INTEGER),
    maxNumSeqs: fields.optionalInteger("max_num_seqs", Number.MAX_SAFE_INTEGER),
    maxNumBatchedTokens: fields.optionalInteger("max_num_batched_tokens", Number.MAX_SAFE_INTEGER),
    dataParallelStartRank: start,
    dataParallelSize: size,
    hasLocalIndexer: fields.boolean("enable_local_indexer", true),
    // A source of a kind we do not know must not be read as if it were the known one.
    publishesKvEvents:
      fields.boolean("kv_event_publishing_enabled", true) && (mode === undefined || mode === "framework_v1"),
    isEagle: fields.boolean("enable_eagle", false),
    chat: {
      toolCallParser: fields.optionalString("tool_call_parser"),
      reasoningParser: fields.optionalString("reasoning_parser"),
      toolCallArgumentsFormat: fields.optionalString("tool_call_arguments_format"),
      defaultThinkingMode: thinkingModeOf(fields),
      excludesToolsWhenChoiceNone: fields.boolean("exclude_tools_when_tool_choice_none", true),
      hasPromptContext: !card.isAbsent("prompt_context") && card.list("prompt_context").length > 0,
    },
    taints: fields.strings("taints"),
    stableRoutingId: fields.optionalString("stable_routing_id"),
    topologyDomains: fields.stringMap("topology_domains"),
    kvTransferDomain: fields.optionalString("kv_transfer_domain"),
    kvTransferEnforcement: enforcementOf(fields),
    kvTransferPreferredWeight: weight,
    ...(hicache === undefined ? {} : { hicache }),
    ...(state === undefined
      ? {}
      : {
          kvStateEndpoint: {
            namespace: state.name("namespace"),
            component: state.name("component"),
            endpoint: state.name("name"),
          },
        }),
  };
}

/** runtime_data is the engine's own: what has another shape there says nothing here. */
function thinkingModeOf(fields: Fields): string | undefined {
  const mode = fields.optionalFields("runtime_data")?.object["default_thinking_mode"];
  return typeof mode === "string" ? mode : undefined;
}

function enforcementOf(fields: Fields): RuntimeConfig["kvTransferEnforcement"] {
  const value = fields.optionalString("kv_transfer_enforcement");
  if (value === undefined || value === "required" || value === "preferred") return value;
  throw new FieldFault(fields.at("kv_transfer_enforcement"), "required or preferred");
}
