/**
 * The worker's own tokenizer: a token is up to four UTF-8 bytes of one text, packed little endian and padded with zeros. Texts are
 * cut separately, with marker tokens (no UTF-8 text contains byte 0xff) between them, so a prompt that repeats another's
 * messages repeats its tokens.
 */

export const startToken = 0xffffff00;
export const endOfTurnToken = 0xffffff01;
const roleTokens: Readonly<Record<string, number>> = {
  system: 0xffffff10,
  developer: 0xffffff11,
  user: 0xffffff12,
  assistant: 0xffffff13,
  tool: 0xffffff14,
};
const otherRoleToken = 0xffffff1f;
const partToken = 0xffffff20;

/** A text, or a marker token. */
export type PromptPiece = string | number;

export interface ChatMessage {
  readonly role: string;
  /** The texts of the message, in order; anything but text stands as its JSON. */
  readonly parts: readonly string[];
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Tokens of texts and markers in a row. */
export function tokensOfPieces(pieces: readonly PromptPiece[]): Uint32Array {
  let count = 0;
  for (const piece of pieces) count += typeof piece === "number" ? 1 : (Buffer.byteLength(piece) + 3) >>> 2;
  const tokens = new Uint32Array(count);
  const bytes = new Uint8Array(tokens.buffer);
  let at = 0;
  for (const piece of pieces) {
    if (typeof piece === "number") tokens[at++] = piece;
    else at += (encoder.encodeInto(piece, bytes.subarray(at * 4)).written + 3) >>> 2;
  }
  return tokens;
}

/** The chat template: start, then role, texts and end of turn for each message, then the assistant's role. */
export function piecesOfChat(messages: readonly ChatMessage[], tools: string | undefined): PromptPiece[] {
  const pieces: PromptPiece[] = [startToken];
  if (tools !== undefined) pieces.push(otherRoleToken, tools, endOfTurnToken);
  for (const message of messages) {
    pieces.push(roleTokens[message.role] ?? otherRoleToken);
    for (const [index, part] of message.parts.entries()) {
      if (index > 0) pieces.push(partToken);
      pieces.push(part);
    }
    pieces.push(endOfTurnToken);
  }
  pieces.push(roleTokens["assistant"] ?? otherRoleToken);
  return pieces;
}

/** The text of tokens; markers have none. */
export function textOfTokens(tokens: readonly number[]): string {
  const bytes: number[] = [];
  for (const token of tokens) {
    for (let shift = 0; shift < 32; shift += 8) {
      const byte = (token >>> shift) & 0xff;
      if (byte === 0 || byte === 0xff) break;
      bytes.push(byte);
    }
  }
  return decoder.decode(Uint8Array.from(bytes));
}
