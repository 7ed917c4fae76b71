/**
 * The metrics port: /metrics, /healthz, /readyz and what /debug shows. Read only; routes are a table of exact paths and prefixes, and a fault
 * in one answer never reaches another.
 */
import { createServer as createPlainServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";

export interface AdminAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string | Buffer;
}

/** `rest` is what follows a prefix route's path; "" for an exact one. */
export type AdminRoute = (rest: string, query: URLSearchParams) => AdminAnswer | Promise<AdminAnswer>;

export interface AdminServerOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: { readonly key: string; readonly cert: string; readonly clientCa: string | undefined } | undefined;
  /** Path → answer; a path that ends with "/" answers everything below it. */
  readonly routes: ReadonlyMap<string, AdminRoute>;
  /** Whether the request may read; undefined = open. Asked for every path but /healthz and /readyz. */
  readonly authorize:
    | ((authorization: string | undefined) => Promise<"allowed" | "unauthenticated" | "forbidden">)
    | undefined;
  readonly onError: (error: unknown) => void;
}

export interface AdminServer {
  readonly port: number;
  close(): Promise<void>;
}

export function json(value: unknown, status = 200): AdminAnswer {
  return { status, contentType: "application/json", body: `${JSON.stringify(value, undefined, 2)}\n` };
}

export function text(body: string, status = 200): AdminAnswer {
  return { status, contentType: "text/plain; charset=utf-8", body };
}

const open: ReadonlySet<string> = new Set(["/healthz", "/readyz"]);

function routeOf(routes: AdminServerOptions["routes"], path: string): { route: AdminRoute; rest: string } | undefined {
  const exact = routes.get(path);
  if (exact !== undefined) return { route: exact, rest: "" };
  for (let slash = path.lastIndexOf("/"); slash > 0; slash = path.lastIndexOf("/", slash - 1)) {
    const route = routes.get(path.slice(0, slash + 1));
    if (route !== undefined) return { route, rest: path.slice(slash + 1) };
  }
  return undefined;
}

async function answerOf(options: AdminServerOptions, request: IncomingMessage): Promise<AdminAnswer> {
  if (request.method !== "GET" && request.method !== "HEAD") return text("method not allowed\n", 405);
  const url = new URL(request.url ?? "/", "http://admin");
  if (options.authorize !== undefined && !open.has(url.pathname)) {
    const verdict = await options.authorize(request.headers.authorization);
    if (verdict === "unauthenticated") return text("Unauthorized\n", 401);
    if (verdict === "forbidden") return text("Forbidden\n", 403);
  }
  const found = routeOf(options.routes, url.pathname);
  if (found === undefined) return text(`not found; try one of\n${[...options.routes.keys()].join("\n")}\n`, 404);
  return await found.route(decodeURIComponent(found.rest), url.searchParams);
}

function serve(options: AdminServerOptions, request: IncomingMessage, response: ServerResponse): void {
  request.resume();
  const send = (answer: AdminAnswer): void => {
    response.writeHead(answer.status, {
      "content-type": answer.contentType,
      "content-length": Buffer.byteLength(answer.body),
      "cache-control": "no-store",
    });
    response.end(request.method === "HEAD" ? undefined : answer.body);
  };
  answerOf(options, request).then(send, (error: unknown) => {
    options.onError(error);
    send(text("internal error\n", 500));
  });
}

/** Resolves once bound; rejects with the system's error (EADDRINUSE, EACCES). */
export async function startAdminServer(options: AdminServerOptions): Promise<AdminServer> {
  const handler = (request: IncomingMessage, response: ServerResponse): void => serve(options, request, response);
  const limits = { maxHeaderSize: 16_384, requestTimeout: 10_000, headersTimeout: 10_000 };
  const server: Server =
    options.tls === undefined
      ? createPlainServer(limits, handler)
      : createTlsServer(
          {
            ...limits,
            key: options.tls.key,
            cert: options.tls.cert,
            ...(options.tls.clientCa === undefined
              ? {}
              : { ca: options.tls.clientCa, requestCert: true, rejectUnauthorized: true }),
          },
          handler,
        );
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
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
