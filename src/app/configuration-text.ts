/** Reads a configuration file: bounded, and UTF-8 or refused. Whatever is wrong with the file is a fault of the configuration. */
import { open } from "node:fs/promises";
import { ConfigError } from "../config/complete-config.ts";
import { maxDocumentBytes } from "../config/document.ts";

const reasons: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file",
  EACCES: "permission denied",
  EISDIR: "it is a folder",
};

/** Throws ConfigError. */
export async function readConfigurationFile(path: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readAtMost(path, maxDocumentBytes + 1);
  } catch (error) {
    const code = String((error as { code?: unknown }).code ?? error);
    throw new ConfigError(path, [`cannot be read: ${reasons[code] ?? code}`]);
  }
  if (bytes.length > maxDocumentBytes) {
    throw new ConfigError(path, [`the document is larger than ${maxDocumentBytes} bytes`]);
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new ConfigError(path, ["is not UTF-8 text"]);
  }
}

async function readAtMost(path: string, maxBytes: number): Promise<Buffer> {
  await using file = await open(path, "r");
  const chunks: Buffer[] = [];
  for (let left = maxBytes; left > 0; ) {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(Math.min(left, 65_536)), 0, Math.min(left, 65_536));
    if (bytesRead === 0) break;
    chunks.push(buffer.subarray(0, bytesRead));
    left -= bytesRead;
  }
  return Buffer.concat(chunks);
}
