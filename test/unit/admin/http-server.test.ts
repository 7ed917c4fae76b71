/** The metrics port as hostile and ordinary clients see it: raw sockets where a client library would tidy the request up. */

import { request as httpsRequest } from "node:https";
import { connect } from "node:net";
import { afterEach, describe, expect, it } from "@jest/globals";
import {
  type Access,
  type AdminRoute,
  type AdminServer,
  type AdminServerOptions,
  json,
  startAdminServer,
  text,
} from "../../../src/admin/http-server.ts";
import { createSelfSigned } from "../../../src/net/tls.ts";
import { createAuthority, signed } from "./certificates.ts";

const servers: AdminServer[] = [];
const errors: unknown[] = [];

afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
  errors.length = 0;
});

const routes = new Map<string, AdminRoute>([
  ["/healthz", () => text("ok\n")],
  ["/metrics", () => text("metric 1\n")],
  ["/debug/decisions", (_rest, query) => json({ limit: query.get("limit") })],
  ["/debug/decisions/", (rest) => json({ rest })],
  [
    "/broken",
    () => {
      throw new Error("a route broke");
    },
  ],
  ["/rejects", () => Promise.reject(new Error("a route failed later"))],
  ["/not-latin", () => ({ ...text("x"), headers: { "x-bad": "\u0000" } })],
]);

async function start(options: Partial<AdminServerOptions> = {}): Promise<AdminServer> {
  const server = await startAdminServer({
    host: "127.0.0.1",
    port: 0,
    tls: undefined,
    routes,
    authorize: undefined,
    onError: (error) => errors.push(error),
    ...options,
  });
  servers.push(server);
  return server;
}

/** What the server writes until it closes the connection, or until `until` is in it. */
function raw(port: number, bytes: string, until?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(bytes));
    let read = "";
    socket.setEncoding("latin1");
    socket.on("data", (chunk: string) => {
      read += chunk;
      if (until !== undefined && read.includes(until)) socket.end();
    });
    socket.on("close", () => resolve(read));
    socket.on("error", (error: NodeJS.ErrnoException) => (read === "" ? reject(error) : resolve(read)));
  });
}

function statusOf(answer: string): number {
  return Number(/^HTTP\/1\.1 (\d+)/.exec(answer)?.[1]);
}

const get = (target: string): string => `GET ${target} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n`;

describe("the metrics port", () => {
  it.each([
    ["/metrics", 200, "metric 1\n"],
    ["/metrics?name[]=x", 200, "metric 1\n"],
    ["/debug/decisions?limit=5", 200, '"limit": "5"'],
    ["/debug/decisions/req%2F1", 200, '"rest": "req/1"'],
    ["/debug/decisions/a/b", 200, '"rest": "a/b"'],
    ["/debug/decisions/", 200, '"rest": ""'],
    ["/nothing", 404, "/debug/decisions/\n"],
    ["/", 404, "try one of"],
    ["/metrics/", 404, "try one of"],
    ["//", 400, "bad request target"],
    ["//evil.example/metrics", 400, "bad request target"],
    ["http://admin/metrics", 400, "bad request target"],
    ["/debug/decisions/%", 400, "bad percent-encoding"],
    ["/debug/decisions/%ff", 400, "bad percent-encoding"],
    ["/%6detrics", 404, "try one of"],
    ["/debug/../metrics", 404, "try one of"],
    ["/debug/decisions?limit=%", 200, '"limit": "%"'],
  ])("answers GET %s with %i", async (target, status, part) => {
    const { port } = await start();
    const answer = await raw(port, get(target));
    expect(statusOf(answer)).toBe(status);
    expect(answer).toContain(part);
    expect(errors).toEqual([]);
  });

  it("answers HEAD with the headers of GET and no body", async () => {
    const { port } = await start();
    const answer = await raw(port, get("/metrics").replace("GET", "HEAD"));
    expect(statusOf(answer)).toBe(200);
    expect(answer.toLowerCase()).toContain("content-length: 9");
    expect(answer.endsWith("\r\n\r\n")).toBe(true);
  });

  it.each(["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])(
    "refuses %s with 405 and says what is allowed",
    async (method) => {
      const { port } = await start();
      const answer = await raw(port, get("/metrics").replace("GET", method));
      expect(statusOf(answer)).toBe(405);
      expect(answer.toLowerCase()).toContain("allow: get, head");
    },
  );

  it.each(["/broken", "/rejects", "/not-latin"])(
    "answers a route that breaks (%s) with 500 and serves on",
    async (path) => {
      const { port } = await start();
      const answer = await raw(port, get(path));
      expect(statusOf(answer)).toBe(500);
      expect(answer).not.toContain("broke");
      expect(errors).toHaveLength(1);
      expect(statusOf(await raw(port, get("/metrics")))).toBe(200);
    },
  );

  it("refuses headers beyond its limit with 431", async () => {
    const { port } = await start({ limits: { maxHeaderBytes: 4096 } });
    const answer = await raw(port, `GET /metrics HTTP/1.1\r\nhost: a\r\nx-big: ${"x".repeat(5000)}\r\n\r\n`);
    expect(statusOf(answer)).toBe(431);
  });

  it.each(["", "GET /metrics HT", "GET /metrics HTTP/1.1\r\nhost: a\r\nx-slow: "])(
    "closes a connection whose request does not come to its end (%j)",
    async (bytes) => {
      const { port } = await start({ limits: { requestTimeoutMs: 60 } });
      const answer = await raw(port, bytes);
      expect(["", "408"]).toContain(answer === "" ? "" : String(statusOf(answer)));
    },
  );

  it("answers before a body that never comes to its end, which it does not keep", async () => {
    const { port } = await start();
    const answer = await raw(
      port,
      "GET /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\nxxxx",
      "metric 1\n",
    );
    expect(statusOf(answer)).toBe(200);
  });

  it("closes connections beyond its limit at once", async () => {
    const { port } = await start({ limits: { maxConnections: 1 } });
    const held = connect(port, "127.0.0.1");
    await new Promise<void>((resolve) => held.once("connect", () => resolve()));
    held.write(get("/metrics").replace("connection: close\r\n", ""));
    await new Promise<void>((resolve) => held.once("data", () => resolve()));
    expect(await raw(port, get("/metrics")).catch(() => "")).toBe("");
    held.destroy();
  });

  it.each<[number, Access]>([
    [200, "allowed"],
    [401, "unauthenticated"],
    [403, "forbidden"],
    [503, "unavailable"],
  ])("answers %i when access is %s", async (status, access) => {
    const asked: unknown[] = [];
    const { port } = await start({
      authorize: (...question) => {
        asked.push(question);
        return Promise.resolve(access);
      },
    });
    const answer = await raw(port, get("/metrics?x").replace("host", "authorization: Bearer t\r\nhost"));
    expect(statusOf(answer)).toBe(status);
    expect(asked).toEqual([["Bearer t", "/metrics", "get"]]);
    expect(statusOf(await raw(port, get("/healthz")))).toBe(200);
    expect(asked).toHaveLength(1);
  });

  it("never opens when the access check itself breaks", async () => {
    const { port } = await start({ authorize: () => Promise.reject(new Error("the check broke")) });
    expect(statusOf(await raw(port, get("/metrics")))).toBe(500);
  });

  it("does not tell an unauthorized client which paths exist", async () => {
    const { port } = await start({ authorize: () => Promise.resolve("forbidden") });
    const answer = await raw(port, get("/nothing"));
    expect(statusOf(answer)).toBe(403);
    expect(answer).not.toContain("/debug");
  });
});

describe("TLS on the metrics port", () => {
  /** Status and the certificate shown, or the error's code. */
  function secure(
    port: number,
    client: { key?: string; cert?: string } = {},
  ): Promise<{ status: number; shown: string }> {
    return new Promise((resolve, reject) => {
      const sent = httpsRequest(
        { host: "127.0.0.1", port, path: "/metrics", rejectUnauthorized: false, agent: false, ...client },
        (answer) => {
          const shown = (
            answer.socket as unknown as { getPeerCertificate(): { fingerprint256: string } }
          ).getPeerCertificate().fingerprint256;
          answer.resume();
          answer.once("end", () => resolve({ status: answer.statusCode ?? 0, shown }));
        },
      );
      sent.once("error", reject);
      sent.end();
    });
  }

  it("shows a replaced certificate to new connections", async () => {
    const [first, second] = [await createSelfSigned(), await createSelfSigned()];
    const server = await start({ tls: { key: first.key, cert: first.cert, clientCa: undefined } });
    const before = await secure(server.port);
    expect(before.status).toBe(200);
    server.setTls(second);
    const after = await secure(server.port);
    expect(after.status).toBe(200);
    expect(after.shown).not.toBe(before.shown);
  });

  it("requires a certificate of the client CA where one is given", async () => {
    const [own, authority, other] = [await createSelfSigned(), await createAuthority(), await createAuthority()];
    const { port } = await start({ tls: { key: own.key, cert: own.cert, clientCa: authority.cert } });
    await expect(secure(port)).rejects.toBeDefined();
    await expect(secure(port, await signed(other))).rejects.toBeDefined();
    expect((await secure(port, await signed(authority))).status).toBe(200);
  });
});
