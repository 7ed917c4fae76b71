/**
 * The service's HTTP port: bodies up to a bound, one answer a request, nothing kept of a client that has gone. A fault in one answer reaches no other;
 * at close what is being answered is answered, and new connections are refused.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { RouteAnswer, Routes } from "../../prefill-router/service/routes.ts";
import { writeTexts } from "../../prefill-router/service/write-texts.ts";

export interface ServiceServerOptions {
  readonly host: string;
  readonly port: number;
  readonly routes: Routes;
  readonly onError: (error: unknown) => void;
  /** Told of every answer; -1 where the client did not wait. */
  readonly answered: (route: string, status: number, seconds: number) => void;
}

export interface ServiceServer {
  readonly port: number;
  /** Resolves when the last answer is out, at the latest after the grace. */
  close(graceMs: number): Promise<void>;
}

/** Dynamo's. */
const maxBodyBytes = 8 * 1024 * 1024;
const requestTimeoutMs = 30_000;
const maxConnections = 4_096;

export async function startServiceServer(options: ServiceServerOptions): Promise<ServiceServer> {
  const settings = { requestTimeout: requestTimeoutMs, keepAliveTimeout: 75_000 };
  const server = createServer(settings, (request, response) => {
    serve(options, request, response).catch((error: unknown) => {
      options.onError(error);
      if (!response.headersSent) send(request, response, 500, "application/json", '{"error":"internal error"}');
      else response.destroy();
    });
  });
  server.maxConnections = maxConnections;
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, options.host, () => {
      server.off("error", reject);
      resolve();
    });
  });
  server.on("error", options.onError);
  return {
    port: (server.address() as AddressInfo).port,
    close: (graceMs) =>
      new Promise((resolve) => {
        const cut = setTimeout(() => server.closeAllConnections(), graceMs);
        server.close(() => {
          clearTimeout(cut);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}

async function serve(options: ServiceServerOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const startedMs = performance.now();
  const gone = new AbortController();
  response.once("close", () => {
    if (!response.writableFinished) gone.abort();
  });
  const body = await readBody(request);
  if (body === undefined) {
    if (!response.destroyed) {
      response.setHeader("connection", "close");
      send(
        request,
        response,
        413,
        "application/json",
        '{"error":"Failed to buffer the request body: length limit exceeded"}',
      );
    }
    return;
  }
  const policyClass = request.headers["x-dynamo-meta-policy-class"];
  const answer = await options.routes({
    method: request.method ?? "",
    target: request.url ?? "/",
    contentType: request.headers["content-type"],
    policyClass: typeof policyClass === "string" && policyClass.trim() !== "" ? policyClass.trim() : undefined,
    body,
    signal: gone.signal,
  });
  const seconds = (performance.now() - startedMs) / 1000;
  options.answered(answer.route, gone.signal.aborted ? -1 : answer.status, seconds);
  if (response.destroyed) return;
  if (typeof answer.body === "string") send(request, response, answer.status, answer.contentType, answer.body);
  else await stream(request, response, answer, answer.body);
}

/** Undefined where it is longer than the bound, or did not come whole. */
async function readBody(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of request as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > maxBodyBytes) return undefined;
      chunks.push(chunk);
    }
  } catch {
    return undefined;
  }
  return Buffer.concat(chunks).toString("utf8");
}

function send(request: IncomingMessage, response: ServerResponse, status: number, type: string, body: string): void {
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) });
  response.end(request.method === "HEAD" ? undefined : body);
}

async function stream(
  request: IncomingMessage,
  response: ServerResponse,
  { status, contentType }: RouteAnswer,
  texts: AsyncIterable<string>,
): Promise<void> {
  response.writeHead(status, { "content-type": contentType });
  if (request.method !== "HEAD") await writeTexts(response, texts);
  response.end();
}
