/** The port where other pickers ask for this one's index: GET /dump, as Dynamo's pickers answer it, a few at a time. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { writeTexts } from "../service/write-texts.ts";

export interface IndexServerOptions {
  readonly port: number;
  /** Undefined while there is no index that is worth having. */
  readonly dump: () => AsyncIterable<string> | undefined;
  readonly onError: (error: unknown) => void;
}

export interface IndexServer {
  readonly port: number;
  close(): Promise<void>;
}

const maxConnections = 64;
/** A dump reads the whole index. */
const maxDumps = 2;
const requestTimeoutMs = 30_000;
const closeGraceMs = 1_000;

/** Rejects where the port cannot be bound. */
export async function startIndexServer({ port, dump, onError }: IndexServerOptions): Promise<IndexServer> {
  let dumps = 0;
  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? "/", "http://index");
    if (url.pathname !== "/dump") return refuse(response, 404, "only /dump is here");
    if (request.method !== "GET") return refuse(response, 405, "GET is what is answered");
    const texts = dump();
    if (texts === undefined) return refuse(response, 503, "peer KV index not yet recovered");
    if (dumps >= maxDumps) return refuse(response, 503, "the index is being read by others");
    dumps += 1;
    try {
      await answer(response, texts, Number(url.searchParams.get("max_bytes") ?? 0));
    } finally {
      dumps -= 1;
    }
  };
  const server = createServer({ requestTimeout: requestTimeoutMs }, (request, response) => {
    serve(request, response).catch((error: unknown) => {
      onError(error);
      response.destroy();
    });
  });
  server.maxConnections = maxConnections;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, () => {
      server.off("error", reject);
      resolve();
    });
  });
  server.on("error", onError);
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        const cut = setTimeout(() => server.closeAllConnections(), closeGraceMs);
        server.close(() => {
          clearTimeout(cut);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}

/** `maxBytes`: what the asker takes; 0 or no number for anything. */
async function answer(response: ServerResponse, texts: AsyncIterable<string>, maxBytes: number): Promise<void> {
  const type = { "content-type": "application/json" };
  if (!(maxBytes > 0)) {
    await writeTexts(response.writeHead(200, type), texts);
    response.end();
    return;
  }
  const held: string[] = [];
  let bytes = 0;
  for await (const text of texts) {
    if (response.destroyed) return;
    bytes += Buffer.byteLength(text);
    if (bytes > maxBytes) return refuse(response, 413, "peer KV-index snapshot exceeds requested max_bytes");
    held.push(text);
  }
  await writeTexts(response.writeHead(200, { ...type, "content-length": bytes }), held);
  response.end();
}

function refuse(response: ServerResponse, status: number, message: string): void {
  response.writeHead(status, { "content-type": "text/plain", "content-length": Buffer.byteLength(message) });
  response.end(message);
}
