/** An answer in pieces, no faster than its reader takes them. */
import type { ServerResponse } from "node:http";

/** Resolves when all are written, or the reader has gone; the answer is the caller's to end. Rejects where the pieces do. */
export async function writeTexts(
  response: ServerResponse,
  texts: AsyncIterable<string> | Iterable<string>,
): Promise<void> {
  for await (const text of texts) {
    if (response.destroyed) return;
    if (!response.write(text)) await drained(response);
  }
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      response.off("drain", done);
      response.off("close", done);
      resolve();
    };
    response.on("drain", done);
    response.on("close", done);
  });
}
