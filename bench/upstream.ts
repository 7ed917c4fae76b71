/**
 * Cheap model servers in a process of their own: `node bench/upstream.ts COUNT`. GET /metrics is a 42 KB page whose values move, GET
 * /count how many pages all of them have served, a POST a short SSE answer at once. Prints its ports as a JSON array.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { metricsPage } from "./metrics-page.ts";

const pages = Array.from({ length: 16 }, (_, turn) => metricsPage(turn * 17 + 3));
const event = Buffer.from(
  'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1732174080,"model":"base-model","choices":[{"index":0,"delta":{"content":" the"},"finish_reason":null}]}\n\n',
);
const done = Buffer.from("data: [DONE]\n\n");
let served = 0;

function answer(request: IncomingMessage, response: ServerResponse): void {
  if (request.method === "POST") {
    request.resume();
    request.once("end", () => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(event);
      response.end(done);
    });
    return;
  }
  if (request.url === "/count") {
    response.end(String(served));
    return;
  }
  served++;
  const page = pages[served % pages.length] ?? Buffer.alloc(0);
  response.writeHead(200, {
    "content-type": "text/plain; version=1.0.0; charset=utf-8",
    "content-length": page.length,
  });
  response.end(page);
}

const servers = await Promise.all(
  Array.from({ length: Number(process.argv[2] ?? 4) }, async () => {
    const server = createServer(answer);
    server.keepAliveTimeout = 600_000;
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return server;
  }),
);
process.stdout.write(`${JSON.stringify(servers.map((server) => (server.address() as AddressInfo).port))}\n`);
