/**
 * String literals of HPACK (RFC 7541 §5.2), read where they are Huffman-coded or plain. The code is canonical, so the lengths of its words say it
 * all; only visible ASCII and the space are known, and a string with anything else is not read.
 */

/** Bits of the code of each character from " " to "~" (RFC 7541 appendix B), by its place there. */
const bitsOf =
  "6aacd68baa8b8666555666666678f6cad" + // space to @
  "67777777777777777777777878djde6f" + // A to `
  "56565666577666567655677777fbed"; // a to ~

/** Letters stand for lengths from ten on. */
function lengthOf(letter: string): number {
  return Number.parseInt(letter, 36);
}

/** Characters by code, of one length of code. */
interface Words {
  readonly first: number;
  readonly characters: string;
}

/** By length in bits; undefined where no character has it. */
const wordsByLength: readonly (Words | undefined)[] = (() => {
  const words: (Words | undefined)[] = [];
  let code = 0;
  for (let length = 5; length <= 15; length++) {
    const characters = bitsOf
      .split("")
      .flatMap((letter, place) => (lengthOf(letter) === length ? [String.fromCharCode(32 + place)] : []));
    // NUL has the first of the words of thirteen bits.
    const unknown = length === 13 ? 1 : 0;
    words[length] = characters.length === 0 ? undefined : { first: code + unknown, characters: characters.join("") };
    code = (code + unknown + characters.length) << 1;
  }
  return words;
})();

/** Undefined where it is not the code of visible ASCII. */
export function decodeHuffman(bytes: Uint8Array): string | undefined {
  let text = "";
  let code = 0;
  let length = 0;
  for (const byte of bytes) {
    for (let bit = 7; bit >= 0; bit--) {
      code = (code << 1) | ((byte >> bit) & 1);
      length++;
      const words = wordsByLength[length];
      const place = words === undefined ? -1 : code - words.first;
      if (words !== undefined && place >= 0 && place < words.characters.length) {
        text += words.characters.charAt(place);
        code = 0;
        length = 0;
      } else if (length > 15) return undefined;
    }
  }
  // What is left pads to a byte with ones.
  return length < 8 && code === (1 << length) - 1 ? text : undefined;
}
