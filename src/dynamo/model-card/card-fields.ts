/** The fields of card_json that both the card and its fingerprint are made of. All throw FieldFault. */
import { FieldFault, Fields, isObject } from "../record-json.ts";
import type { CheckedFile } from "./model-card.ts";

export const maxU32 = 0xffff_ffff;

/** What the engine enforces, else what the model was built for; 0 = no limit known. */
export function contextLengthOf(fields: Fields): number {
  return (
    fields.optionalFields("runtime_config")?.optionalInteger("context_length", maxU32) ??
    fields.optionalInteger("architectural_max_context_length", maxU32) ??
    fields.optionalInteger("context_length", maxU32) ??
    0
  );
}

/** The digest becomes a file name of the cache: nothing but hex passes. */
export function parseCheckedFile(fields: Fields): CheckedFile {
  const checksum = fields.string("checksum");
  if (!/^blake3:[0-9a-f]{64}$/.test(checksum)) {
    throw new FieldFault(fields.at("checksum"), '"blake3:" and 64 lower-case hex digits');
  }
  const path = fields.string("path");
  if (path === "" || path.length > 4096 || path.includes("\0"))
    throw new FieldFault(fields.at("path"), "a path or URL");
  return { path, checksum, sizeBytes: fields.optionalInteger("size", Number.MAX_SAFE_INTEGER) };
}

/** Every file the card names that is hashed into its fingerprint, extras left out, in the order of the hash. */
export function checksumsInOrder(fields: Fields): readonly string[] {
  const checksums: string[] = [];
  for (const key of ["model_info", "tokenizer", "prompt_formatter", "chat_template_file", "gen_config"]) {
    const holder = fields.optionalFields(key);
    const value = holder === undefined ? undefined : Object.values(holder.object)[0];
    if (holder === undefined || !isObject(value)) continue;
    const path = holder.at(Object.keys(holder.object)[0] ?? "");
    const file = isObject(value["file"]) ? new Fields(value["file"], `${path}.file`) : new Fields(value, path);
    checksums.push(parseCheckedFile(file).checksum);
  }
  return checksums;
}
