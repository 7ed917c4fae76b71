/** Block hashes as both codecs carry them: arrays of u64. In memory u32 pairs, low word first. */
import type { MsgpackWriter } from "../encoding/msgpack-writer.ts";
import { bigintOf, MalformedMessage, type ValueReader } from "../encoding/value-reader.ts";

/** 4 million tokens of 16 a block. */
export const maxBlocks = 262_144;

/** Throws MalformedMessage, also beyond `maxBlocks`. */
export function readHashes(reader: ValueReader): Uint32Array {
  let words = new Uint32Array(256);
  let length = 0;
  reader.enterArray();
  while (reader.nextItem()) {
    reader.readU64();
    if (length === 2 * maxBlocks) throw new MalformedMessage(`has more than ${maxBlocks} blocks`);
    if (length === words.length) {
      const grown = new Uint32Array(2 * words.length);
      grown.set(words);
      words = grown;
    }
    words[length] = reader.low;
    words[length + 1] = reader.high;
    length += 2;
  }
  return words.slice(0, length);
}

export function writeHashes(writer: MsgpackWriter, hashes: Uint32Array): void {
  writer.array(hashes.length >> 1);
  for (let at = 0; at < hashes.length; at += 2) writer.u64(hashes[at] as number, hashes[at + 1] as number);
}

/** A JSON array. */
export function hashesText(hashes: Uint32Array): string {
  const texts: string[] = [];
  for (let at = 0; at < hashes.length; at += 2) {
    texts.push(bigintOf(hashes[at] as number, hashes[at + 1] as number).toString());
  }
  return `[${texts.join(",")}]`;
}
