/**
 * The metrics port: /metrics, /healthz, /readyz and what /debug shows. Read only; routes are a table of exact paths and prefixes. A fault
 * in one answer never reaches another, and a slow or hostile client holds nothing but one bounded connection.
 */
import { createServer as createPlainServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer, type Server as TlsServer } from "node:https";
import type { AddressInfo } from "node:net";

export interface AdminAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string | Buffer;
  /** Further headers. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** `rest` is what follows a prefix route's path, decoded; "" for an exact one. */
export type AdminRoute = (rest: string, query: URLSearchParams) => AdminAnswer | Promise<AdminAnswer>;

/** PEM. */
export interface AdminTls {
  readonly key: string;
  readonly cert: string;
}

/** Whether a request may read; "unavailable" when whoever decides cannot be asked. */
export type Access = "allowed" | "unauthenticated" | "forbidden" | "unavailable";

export interface AdminServerOptions {
  readonly host: string;
  readonly port: number;
  /** `clientCa`: PEM; every client must then show a certificate it signed. */
  readonly tls: (AdminTls & { readonly clientCa: string | undefined }) | undefined;
  /** Path → answer; a path that ends with "/" answers everything below it. */
  readonly routes: ReadonlyMap<string, AdminRoute>;
  /** Undefined = open. Asked for every path but /healthz and /readyz; `verb` is the method in lower case. */
  readonly authorize: ((authorization: string | undefined, path: string, verb: string) => Promise<Access>) | undefined;
  readonly onError: (error: unknown) => void;
  readonly limits?: Partial<AdminLimits>;
}

export interface AdminLimits {
  /** A request's line and headers; more is answered 431. */
  readonly maxHeaderBytes: number;
  /** From the first byte of a request to its last; then 408. */
  readonly requestTimeoutMs: number;
  /** More connections than this are closed at once. */
  readonly maxConnections: number;
}

/** A service account token is 1 to 2 KiB; a scraper needs one connection and sends its request in one packet. */
const defaultLimits: AdminLimits = { maxHeaderBytes: 16_384, requestTimeoutMs: 10_000, maxConnections: 256 };

export interface AdminServer {
  readonly port: number;
  /** New connections use the new pair. No-op for a plain server. */
  setTls(tls: AdminTls): void;
  close(): Promise<void>;
}

/** 64-bit ids become text, which every reader reads exactly; maps and sets become objects and arrays. */
export function json(value: unknown, status = 200): AdminAnswer {
  return { status, contentType: "application/json", body: `${JSON.stringify(value, plain, 2)}\n` };
}

function plain(_key: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Map)
    return Object.fromEntries([...value].map(([key, entry]) => [String(key), entry as unknown]));
  return value instanceof Set ? [...value] : value;
}

export function text(body: string, status = 200): AdminAnswer {
  return { status, contentType: "text/plain; charset=utf-8", body };
}

const open: ReadonlySet<string> = new Set(["/healthz", "/readyz"]);

interface Target {
  /** As sent, without the query: what is authorized is what is looked up. */
  readonly path: string;
  readonly query: URLSearchParams;
}

/** Origin form only (RFC 9112 §3.2.1); "//" would be an authority to whoever resolves it. */
function targetOf(url: string | undefined): Target | undefined {
  if (url === undefined || !url.startsWith("/") || url.startsWith("//")) return undefined;
  const mark = url.indexOf("?");
  const path = mark < 0 ? url : url.slice(0, mark);
  return { path, query: new URLSearchParams(mark < 0 ? "" : url.slice(mark + 1)) };
}

function decoded(part: string): string | undefined {
  try {
    return decodeURIComponent(part);
  } catch {
    return undefined;
  }
}

function routeOf(routes: AdminServerOptions["routes"], path: string): { route: AdminRoute; rest: string } | undefined {
  const exact = routes.get(path);
  if (exact !== undefined) return { route: exact, rest: "" };
  for (let slash = path.lastIndexOf("/"); slash > 0; slash = path.lastIndexOf("/", slash - 1)) {
    const route = routes.get(path.slice(0, slash + 1));
    if (route !== undefined) return { route, rest: path.slice(slash + 1) };
  }
  return undefined;
}

function refusalOf(access: Access): AdminAnswer | undefined {
  switch (access) {
    case "allowed":
      return undefined;
    case "unauthenticated":
      return { ...text("Unauthorized\n", 401), headers: { "www-authenticate": "Bearer" } };
    case "forbidden":
      return text("Forbidden\n", 403);
    case "unavailable":
      return { ...text("the API server cannot be asked who you are\n", 503), headers: { "retry-after": "5" } };
    default:
      return access satisfies never;
  }
}

async function answerOf(options: AdminServerOptions, request: IncomingMessage): Promise<AdminAnswer> {
  const method = request.method ?? "";
  if (method !== "GET" && method !== "HEAD") {
    return { ...text("method not allowed\n", 405), headers: { allow: "GET, HEAD" } };
  }
  const target = targetOf(request.url);
  if (target === undefined) return text("bad request target\n", 400);
  if (options.authorize !== undefined && !open.has(target.path)) {
    const refusal = refusalOf(
      await options.authorize(request.headers.authorization, target.path, method.toLowerCase()),
    );
    if (refusal !== undefined) return refusal;
  }
  const found = routeOf(options.routes, target.path);
  if (found === undefined) return text(`not found; try one of\n${[...options.routes.keys()].join("\n")}\n`, 404);
  const rest = decoded(found.rest);
  if (rest === undefined) return text("bad percent-encoding\n", 400);
  return await found.route(rest, target.query);
}

function serve(options: AdminServerOptions, request: IncomingMessage, response: ServerResponse): void {
  request.resume();
  const send = (answer: AdminAnswer): void => {
    if (response.headersSent || response.destroyed) return;
    response.writeHead(answer.status, {
      "content-type": answer.contentType,
      "content-length": Buffer.byteLength(answer.body),
      "cache-control": "no-store",
      "x-content-type-options": "nosniff",
      ...answer.headers,
    });
    response.end(request.method === "HEAD" ? undefined : answer.body);
  };
  answerOf(options, request)
    .then(send)
    .catch((error: unknown) => {
      options.onError(error);
      send(text("internal error\n", 500));
    });
}

/** Resolves once bound; rejects with the system's error (EADDRINUSE, EACCES). */
export async function startAdminServer(options: AdminServerOptions): Promise<AdminServer> {
  const limits = { ...defaultLimits, ...options.limits };
  const handler = (request: IncomingMessage, response: ServerResponse): void => serve(options, request, response);
  const serverLimits = {
    maxHeaderSize: limits.maxHeaderBytes,
    requestTimeout: limits.requestTimeoutMs,
    headersTimeout: limits.requestTimeoutMs,
    // The time-outs above are looked at this often.
    connectionsCheckingInterval: Math.max(10, Math.min(1_000, limits.requestTimeoutMs / 4)),
  };
  const { tls } = options;
  const tlsServer: TlsServer | undefined =
    tls === undefined
      ? undefined
      : createTlsServer({ ...serverLimits, handshakeTimeout: limits.requestTimeoutMs, ...tlsSettings(tls) }, handler);
  const server: Server = tlsServer ?? createPlainServer(serverLimits, handler);
  server.maxConnections = limits.maxConnections;
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
    setTls: (pair) => {
      if (tls !== undefined) tlsServer?.setSecureContext(tlsSettings({ ...pair, clientCa: tls.clientCa }));
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function tlsSettings({ key, cert, clientCa }: AdminTls & { readonly clientCa: string | undefined }) {
  return clientCa === undefined
    ? { key, cert }
    : { key, cert, ca: clientCa, requestCert: true, rejectUnauthorized: true };
}
