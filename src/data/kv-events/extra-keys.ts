/**
 * What an engine hashed into blocks beside their tokens: for each block nil or a list of the adapter's name, media (a digest, or a digest with its
 * offset), the cache salt (first block of a chain only) and digests of embeddings, none of them labelled.
 */
import type { MsgpackCursor } from "../../dynamo/encoding/msgpack-cursor.ts";
import { parseMmHash, xxh3_64 } from "../../tokens/block-hash.ts";
import type { EngineEvent } from "./engine-event.ts";

/** How Dynamo's vLLM worker tells the salt from an adapter's name. */
const markedSalt = "dynamo-cache-salt:";
/** Of one block; what stands behind them is nobody's prompt. */
const maxKeys = 1024;
const digest = /^[0-9a-fA-F]{64}$/;
/** How it tells the routing hash of an object from an engine's digest. */
const markedMedia = /^[0-9a-fA-F]{16}0{48}$/;

/** Reads the next value into the event's salt (unless it has one) and media. The adapter's name is already known. */
export function readExtraKeys(cursor: MsgpackCursor, event: EngineEvent, made: "bare" | "marked"): void {
  if (cursor.takeNil()) return;
  const blocks = cursor.arrayLength();
  for (let block = 0; block < blocks; block++) {
    if (!cursor.takeNil()) readBlock(cursor, event, made, block);
  }
}

function readBlock(cursor: MsgpackCursor, event: EngineEvent, made: "bare" | "marked", block: number): void {
  const keys = cursor.arrayLength();
  let isAdapterDue = event.loraName !== undefined && event.loraName !== "";
  let salt: string | undefined;
  for (let key = 0; key < keys; key++) {
    const kind = key < maxKeys ? cursor.kind() : "too many";
    if (kind === "array") {
      const items = cursor.arrayLength();
      for (let item = 0; item < items; item++) {
        if (item === 0 && cursor.kind() === "text") addMedia(event, block, readText(cursor), made);
        else cursor.skip();
      }
    } else if (kind === "bytes" && made === "bare") {
      cursor.binary();
      addHash(event, block, xxh3_64(cursor.slice()));
    } else if (kind === "text") {
      const text = readText(cursor);
      if (isAdapterDue && text === event.loraName) isAdapterDue = false;
      else if (text.startsWith(markedSalt)) salt ??= text.slice(markedSalt.length);
      else if (digest.test(text)) addMedia(event, block, text, made);
      else if (made === "bare" && block === 0 && !event.hasParent) salt ??= text;
      else if (made === "bare") addMedia(event, block, text, made);
    } else cursor.skip();
  }
  if (block === 0 && salt !== undefined && salt !== "") event.cacheSalt ??= salt;
}

function readText(cursor: MsgpackCursor): string {
  cursor.text();
  return cursor.string();
}

function addMedia(event: EngineEvent, block: number, identifier: string, made: "bare" | "marked"): void {
  if (made === "marked" && !markedMedia.test(identifier)) return;
  const hash = parseMmHash(identifier);
  if (hash !== undefined) addHash(event, block, hash);
}

function addHash(event: EngineEvent, block: number, hash: bigint): void {
  event.media ??= [];
  while (event.media.length <= block) event.media.push(undefined);
  const objects = event.media[block];
  if (objects === undefined) event.media[block] = [hash];
  else objects.push(hash);
}
