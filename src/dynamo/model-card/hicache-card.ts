/**
 * `runtime_data.sglang_hicache_mooncake` of a card: how an SGLang worker lays its KV pages out in a Mooncake store that all workers share, and where
 * the store tells what it has (Dynamo 1.6.1: dynamo.sglang's register.py writes it, dynamo-llm's src/kv_router/shared_cache.rs reads it).
 */
import { FieldFault, type Fields } from "../record-json.ts";
import { maxU32 } from "./card-fields.ts";
import type { HicacheCard, HicacheLayout } from "./model-card.ts";

const member = "sglang_hicache_mooncake";

/** Undefined where the card says nothing of it. `runtime` is the card's runtime_config. */
export function parseHicacheCard(runtime: Fields): HicacheCard | undefined {
  try {
    const fields = runtime.optionalFields("runtime_data")?.optionalFields(member);
    if (fields === undefined) return undefined;
    return { kind: "hicache", layout: readLayout(fields), eventsEndpoint: notEmpty(fields, "kv_events_endpoint") };
  } catch (error) {
    if (error instanceof FieldFault) return { kind: "unreadable", reason: error.message };
    throw error;
  }
}

function readLayout(fields: Fields): HicacheLayout {
  return {
    backend: fields.string("backend"),
    pageSize: fields.integer("page_size", maxU32),
    tpSize: fields.integer("tp_size", maxU32),
    ppSize: fields.integer("pp_size", maxU32),
    isMla: truth(fields, "is_mla_model"),
    isEagle: truth(fields, "is_eagle"),
    tpLcmSize: fields.optionalInteger("tp_lcm_size", maxU32),
    splitsHeads: truth(fields, "should_split_heads"),
    extraBackendTag: fields.optionalString("extra_backend_tag"),
    keyPrefix: fields.optionalString("key_prefix"),
  };
}

function truth(fields: Fields, key: string): boolean {
  if (fields.isAbsent(key)) throw new FieldFault(fields.at(key), "true or false");
  return fields.boolean(key, false);
}

function notEmpty(fields: Fields, key: string): string | undefined {
  const text = fields.optionalString(key);
  return text === "" ? undefined : text;
}
