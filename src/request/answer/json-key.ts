/** Byte tests for a key of a JSON object met in a stream whose beginning is no longer there. */

/** Whether a quote behind this byte can open a key: one inside a string is escaped, so that a backslash stands before it. */
export function isKeyOpening(before: number): boolean {
  return before === 0x7b || before === 0x2c || isSpace(before);
}

export function isSpace(byte: number): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

/** Length of the longest end of bytes[from..] that is a beginning of `pattern`, but not all of it. */
export function tailPrefixLength(bytes: Buffer, from: number, pattern: Buffer): number {
  for (let start = Math.max(from, bytes.length - pattern.length + 1); start < bytes.length; start++) {
    let length = 0;
    while (start + length < bytes.length && bytes[start + length] === pattern[length]) length++;
    if (start + length === bytes.length) return length;
  }
  return 0;
}
