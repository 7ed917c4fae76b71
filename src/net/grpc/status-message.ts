/** Longer messages are cut: a header that a peer refuses would cost the status as well. */
const maxCharacters = 1024;

/** grpc-message is percent-encoded UTF-8 (gRPC over HTTP/2, "Responses"): printable ASCII but "%" stays as it is. */
export function encodeStatusMessage(text: string): string {
  const message = text.slice(0, maxCharacters);
  if (/^[\x20-\x24\x26-\x7e]*$/.test(message)) return message;
  let encoded = "";
  for (const byte of Buffer.from(message)) {
    encoded +=
      byte >= 0x20 && byte <= 0x7e && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return encoded;
}
