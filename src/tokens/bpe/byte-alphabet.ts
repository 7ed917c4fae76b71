/** The byte-level alphabet of GPT-2: each of the 256 bytes has a printable character, and a token of the vocabulary is a string of those. */

const characterOfByte: readonly string[] = alphabet();
const byteOfCharacter: ReadonlyMap<string, number> = new Map(
  characterOfByte.map((character, byte) => [character, byte]),
);

function alphabet(): string[] {
  const isPrintable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  const characters: string[] = [];
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) characters.push(String.fromCharCode(isPrintable(byte) ? byte : next++));
  return characters;
}

export function characterForByte(byte: number): string {
  return characterOfByte[byte] ?? "";
}

/** The bytes a token stands for; a token with a character outside the alphabet stands for its own UTF-8 text, as the native decoder has it. */
export function bytesOfToken(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let at = 0; at < token.length; at++) {
    const byte = byteOfCharacter.get(token.charAt(at));
    if (byte === undefined) return Buffer.from(token, "utf8");
    bytes[at] = byte;
  }
  return bytes;
}
