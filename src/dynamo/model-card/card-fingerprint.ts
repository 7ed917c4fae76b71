/**
 * The checksum by which Dynamo tells whether the cards of two workers may serve as one set (1.6.1: dynamo-llm, src/model_card.rs, mdcsum):
 * where files lie does not matter, what is in them does. Equal to Dynamo's own but for cards with a router_config or an
 * indexer_identity, whose text is hashed here as it stands.
 */
import { blake3 } from "@noble/hashes/blake3.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { encodeExactJson, Fields, isObject } from "../record-json.ts";
import { checksumsInOrder, contextLengthOf, parseCheckedFile } from "./card-fields.ts";

const roleOrdinals: Readonly<Record<string, number>> = { prefill: 1, decode: 2, encode: 3, aggregated: 4 };

type AppendText = (part: string) => void;

export function cardFingerprint(fields: Fields): string {
  const hash = blake3.create();
  const text: AppendText = (part) => {
    hash.update(Buffer.from(part, "utf8"));
  };
  text(fields.string("display_name"));
  text(fields.optionalString("source_path") ?? "");
  for (const checksum of checksumsInOrder(fields)) text(checksum);
  for (const [name, digest] of extraFiles(fields)) text(`${name}\0${digest}`);
  if (!fields.isAbsent("prompt_context")) text(`[${fields.strings("prompt_context").map(variantName).join(", ")}]`);
  hash.update(u32(contextLengthOf(fields)));
  hash.update(u32(fields.integer("kv_cache_block_size", 0xffff_ffff)));
  hash.update(rolesOf(fields));
  if (!fields.isAbsent("router_config")) {
    hash.update(blake3(Buffer.from(encodeExactJson(fields.object["router_config"]))));
  }
  const identity = fields.optionalFields("indexer_identity");
  if (identity !== undefined) text(`dynamo/model-card/indexer-identity/v1${encodeExactJson(sorted(identity.object))}`);
  const aliases = fields.strings("aliases");
  if (aliases.length > 0) hash.update(u32(aliases.length));
  for (const alias of aliases) {
    hash.update(u32(Buffer.byteLength(alias)));
    text(alias);
  }
  for (const contract of runtimeContracts(fields)) hash.update(contract);
  return bytesToHex(hash.digest());
}

function rolesOf(fields: Fields): Uint8Array {
  const ordinals = (role: unknown): number => (typeof role === "string" ? (roleOrdinals[role] ?? 0) : 0);
  const needs = fields.list("needs").map((group) => (Array.isArray(group) ? group : []));
  const legacyPrefill = fields.isAbsent("worker_type") && fields.string("model_type").includes("Prefill");
  const declared = legacyPrefill && needs.length === 0 ? [["decode"]] : needs;
  const parts: Uint8Array[] = [
    Uint8Array.of(legacyPrefill ? 1 : ordinals(fields.object["worker_type"])),
    u32(declared.length),
  ];
  for (const group of declared) parts.push(u32(group.length), Uint8Array.from(group, ordinals));
  return Buffer.concat(parts);
}

/** Pairs of file name and digest, sorted: the order in which a folder is listed does not matter. */
function extraFiles(fields: Fields): readonly (readonly [string, string])[] {
  return fields
    .list("extra_files")
    .map((value, index) => {
      const file = parseCheckedFile(new Fields(value, `${fields.at("extra_files")}[${index}]`));
      const name = file.path.split("/").findLast((part) => part !== "") ?? "";
      return [name, file.checksum.slice("blake3:".length)] as const;
    })
    .toSorted((a, b) => compare(a[0], b[0]) || compare(a[1], b[1]));
}

function compare(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

/** What workers of one set must agree on besides the fields: capabilities that change a prompt. */
function runtimeContracts(fields: Fields): readonly Uint8Array[] {
  const data = fields.optionalFields("runtime_config")?.optionalFields("runtime_data")?.object ?? {};
  const parts: Uint8Array[] = [];
  for (const flag of ["vllm_enable_tower_connector_lora", "vllm_inference_v1_generate"]) {
    if (data[flag] === true) parts.push(Buffer.from(`\0${flag}\0true`));
  }
  const video = "vllm_nemotron_video_processor_contract";
  if (data[video] === undefined) return parts;
  const contract = Buffer.from(encodeExactJson(sorted(data[video])));
  parts.push(Buffer.from("\0dynamo/model-card/runtime-contract/v1\0"), u64(video.length), Buffer.from(video));
  parts.push(u64(contract.length), contract);
  return parts;
}

function variantName(snake: string): string {
  return snake.replace(/(?:^|_)([a-z0-9])/g, (_match, letter: string) => letter.toUpperCase());
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (!isObject(value)) return value;
  return Object.fromEntries(
    Object.keys(value)
      .toSorted(compare)
      .map((key) => [key, sorted(value[key])]),
  );
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
