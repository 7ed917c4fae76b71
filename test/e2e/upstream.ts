/** A model server that the test scripts: it says what it received, and answers as its handler likes. */
import { createHash } from "node:crypto";
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What arrived, of which the upstream's default answer is the JSON. */
export interface Received {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly sizeBytes: number;
  readonly sha256: string;
  /** The body where it is short. */
  readonly body: string;
}

export interface Upstream {
  /** ip:port */
  readonly address: string;
  /** Requests but those for metrics. */
  readonly received: Received[];
  /** What /metrics says. */
  metrics: string;
  answer: (received: Received, response: ServerResponse) => void;
  close(): Promise<void>;
}

export async function startUpstream(): Promise<Upstream> {
  const server = createServer((request, response) => void serve(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const upstream: Upstream = {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    received: [],
    metrics: "vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0\n",
    answer: (received, response) => {
      response.setHeader("content-type", "application/json").end(JSON.stringify(received));
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
  const serve = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    response.on("error", () => {});
    if (request.url === "/metrics") {
      response.setHeader("content-type", "text/plain").end(upstream.metrics);
      return;
    }
    try {
      const received = await receive(request);
      upstream.received.push(received);
      upstream.answer(received, response);
    } catch {
      response.destroy();
    }
  };
  return upstream;
}

async function receive(request: IncomingMessage): Promise<Received> {
  const hash = createHash("sha256");
  const parts: Buffer[] = [];
  let sizeBytes = 0;
  for await (const chunk of request) {
    const bytes = chunk as Buffer;
    hash.update(bytes);
    sizeBytes += bytes.length;
    if (sizeBytes < 64 * 1024) parts.push(bytes);
  }
  return {
    method: request.method ?? "",
    path: request.url ?? "",
    headers: request.headers,
    sizeBytes,
    sha256: hash.digest("hex"),
    body: sizeBytes < 64 * 1024 ? Buffer.concat(parts).toString("utf8") : "",
  };
}

export function sha256(bytes: string | Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}
