/**
 * Unicode classes of code points as the reference tokenizers' regular expressions see them (Oniguruma, Unicode 16), in pages of 256 that are
 * filled when first touched. What this runtime's newer Unicode adds counts as unassigned.
 */

export const letter = 1;
export const digit = 2;
export const space = 4;
export const lineBreak = 8;
export const mark = 16;

const pages: (Uint8Array | undefined)[] = Array.from({ length: 0x1100 });

/** First and last of the ranges that Unicode 17 assigned. */
const newRanges: readonly (readonly [number, number])[] = [
  [0x88f, 0x88f],
  [0xc5c, 0xc5c],
  [0xcdc, 0xcdc],
  [0x1acf, 0x1add],
  [0x1ae0, 0x1aeb],
  [0x20c1, 0x20c1],
  [0x2b96, 0x2b96],
  [0xa7ce, 0xa7cf],
  [0xa7d2, 0xa7d2],
  [0xa7d4, 0xa7d4],
  [0xa7f1, 0xa7f1],
  [0xfbc3, 0xfbd2],
  [0xfd90, 0xfd91],
  [0xfdc8, 0xfdce],
  [0x10940, 0x10959],
  [0x10ec5, 0x10ed8],
  [0x10efa, 0x10efb],
  [0x11b60, 0x11b67],
  [0x11db0, 0x11de9],
  [0x16ea0, 0x16ed3],
  [0x16ff2, 0x16ff6],
  [0x187f8, 0x187ff],
  [0x18d09, 0x18d1e],
  [0x18d80, 0x18df2],
  [0x1ccfa, 0x1ccfc],
  [0x1ceba, 0x1ced0],
  [0x1cee0, 0x1cef0],
  [0x1e6c0, 0x1e6ff],
  [0x1f6d8, 0x1f6d8],
  [0x1f777, 0x1f77a],
  [0x1f8d0, 0x1f8d8],
  [0x1fa54, 0x1fa54],
  [0x1fa8a, 0x1fa8a],
  [0x1fa8e, 0x1fa8e],
  [0x1fac8, 0x1fac8],
  [0x1facd, 0x1facd],
  [0x1faea, 0x1faea],
  [0x1faef, 0x1faef],
  [0x1fbfa, 0x1fbfa],
  [0x2b73a, 0x2b73f],
  [0x2cea2, 0x2cead],
  [0x323b0, 0x33479],
];

const newCharacter = new RegExp(
  `[${newRanges.map(([first, last]) => `\\u{${first.toString(16)}}-\\u{${last.toString(16)}}`).join("")}]`,
  "u",
);

/** Whether an expression of this runtime may class a character of the text otherwise than the reference does. */
export function hasNewCharacters(text: string): boolean {
  return newCharacter.test(text);
}

export function classOf(codePoint: number): number {
  const page = pages[codePoint >>> 8] ?? fillPage(codePoint >>> 8);
  return page[codePoint & 0xff] ?? 0;
}

function fillPage(index: number): Uint8Array {
  const page = new Uint8Array(256);
  for (let low = 0; low < 256; low++) page[low] = classify((index << 8) | low);
  pages[index] = page;
  return page;
}

function classify(codePoint: number): number {
  if (codePoint >= 0xd800 && codePoint <= 0xdfff) return 0;
  const character = String.fromCodePoint(codePoint);
  if (/\p{White_Space}/u.test(character)) return character === "\n" || character === "\r" ? space | lineBreak : space;
  if (newCharacter.test(character)) return 0;
  if (/\p{L}/u.test(character)) return letter;
  if (/\p{N}/u.test(character)) return digit;
  return /\p{M}/u.test(character) ? mark : 0;
}

/** Of the first 128 code points. */
export const asciiClasses: Uint8Array = Uint8Array.from({ length: 128 }, (_, codePoint) => classify(codePoint));
