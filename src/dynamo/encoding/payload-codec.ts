/** Tells the two codecs apart by their first byte: what Dynamo sends is a map or an array, and JSON's brackets are small numbers in msgpack. */
import type { PayloadCodec } from "./value-reader.ts";

export function payloadCodecOf(bytes: Uint8Array): PayloadCodec {
  for (const byte of bytes) {
    if (byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09) continue;
    return byte === 0x7b || byte === 0x5b || byte === 0x22 ? "json" : "msgpack";
  }
  return "msgpack";
}
