/** The metrics port by its flags: who may read it inside and outside Kubernetes, and its certificates. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, request as httpsRequest, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "@jest/globals";
import { text } from "../../src/admin/http-server.ts";
import { type MetricsPortOptions, startMetricsPort } from "../../src/app/metrics-port.ts";
import { silentLogger } from "../../src/telemetry/log.ts";
import { eventually } from "../stack.ts";
import { createAuthority, type Pair, signed } from "../unit/admin/certificates.ts";

let folder: string;
let authority: Pair;
let apiServer: Server;
const open: { close(): Promise<void> }[] = [];
const warnings: string[] = [];

/** Knows the token "prometheus", whom it lets read /metrics only. */
const apiServerAnswer = (path: string, spec: Readonly<Record<string, unknown>>): unknown => {
  if (path.endsWith("/tokenreviews")) {
    return spec["token"] === "prometheus"
      ? { status: { authenticated: true, user: { username: "system:serviceaccount:m:prometheus" } } }
      : { status: { authenticated: false, error: "unknown" } };
  }
  const { path: asked, verb } = spec["nonResourceAttributes"] as { path: string; verb: string };
  return { status: { allowed: asked === "/metrics" && verb === "get" } };
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metrics-port-"));
  authority = await createAuthority();
  await writeFile(join(folder, "token"), "own");
  await writeFile(join(folder, "ca.crt"), authority.cert);
  apiServer = createServer(await signed(authority), (request, response) => {
    let body = "";
    request.on("data", (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on("end", () => {
      const { spec } = JSON.parse(body) as { spec: Record<string, unknown> };
      response.writeHead(201).end(JSON.stringify(apiServerAnswer(request.url ?? "", spec)));
    });
  });
  await new Promise<void>((resolve) => apiServer.listen(0, "127.0.0.1", () => resolve()));
});

afterEach(async () => {
  for (const port of open.splice(0)) await port.close();
  warnings.length = 0;
});

afterAll(async () => {
  apiServer.closeAllConnections();
  await new Promise((resolve) => apiServer.close(resolve));
  await rm(folder, { recursive: true });
});

const inKubernetes = (): Record<string, string> => ({
  KUBERNETES_SERVICE_HOST: "127.0.0.1",
  KUBERNETES_SERVICE_PORT: String((apiServer.address() as AddressInfo).port),
});

async function start(
  settings: Partial<MetricsPortOptions["settings"]> = {},
  options: Partial<MetricsPortOptions> = {},
): Promise<number> {
  const port = await startMetricsPort({
    settings: {
      "bind-address": "127.0.0.1",
      "metrics-port": 0,
      "metrics-endpoint-auth": true,
      "metrics-cert-dir": "",
      "metrics-client-ca-file": "",
      ...settings,
    },
    given: new Set(),
    environment: {},
    routes: new Map([
      ["/metrics", () => text("metric 1\n")],
      ["/debug/config", () => text("{}")],
      ["/healthz", () => text("ok\n")],
    ]),
    log: { ...silentLogger, error: (_fields, message) => warnings.push(message) },
    now: () => performance.now(),
    serviceAccountFolder: folder,
    ...options,
  });
  open.push(port);
  return port.port;
}

async function status(port: number, path: string, token?: string): Promise<number> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, { headers });
  await answer.text();
  return answer.status;
}

describe("access to the metrics port", () => {
  it("inside Kubernetes is the API server's to give, path by path", async () => {
    const port = await start({}, { environment: inKubernetes() });
    expect(await status(port, "/metrics", "prometheus")).toBe(200);
    expect(await status(port, "/debug/config", "prometheus")).toBe(403);
    expect(await status(port, "/metrics", "guess")).toBe(401);
    expect(await status(port, "/metrics")).toBe(401);
    expect(await status(port, "/healthz")).toBe(200);
    expect(warnings).toEqual([]);
  });

  it("inside Kubernetes is nobody's while the API server is away", async () => {
    const port = await start({}, { environment: { ...inKubernetes(), KUBERNETES_SERVICE_PORT: "1" } });
    expect(await status(port, "/metrics", "prometheus")).toBe(503);
    expect(await status(port, "/healthz")).toBe(200);
    expect(warnings).toHaveLength(1);
  });

  it("inside Kubernetes is open where the flag says so", async () => {
    const port = await start({ "metrics-endpoint-auth": false }, { environment: inKubernetes() });
    expect(await status(port, "/metrics")).toBe(200);
  });

  it.each([
    ["no API server", {}],
    ["no service account", { KUBERNETES_SERVICE_HOST: "127.0.0.1" }],
  ])("outside Kubernetes (%s) is open", async (_name, environment) => {
    const serviceAccountFolder = join(folder, "absent");
    expect(await status(await start({}, { environment, serviceAccountFolder }), "/metrics")).toBe(200);
  });

  it("outside Kubernetes cannot be asked for: the start fails and names what is missing", async () => {
    const given = new Set(["metrics-endpoint-auth"]);
    await expect(start({}, { given })).rejects.toMatchObject({
      code: "INVALID_CONFIG",
      message: expect.stringContaining("KUBERNETES_SERVICE_HOST is not set"),
    });
    const serviceAccountFolder = join(folder, "absent");
    await expect(start({}, { given, environment: inKubernetes(), serviceAccountFolder })).rejects.toMatchObject({
      message: expect.stringContaining("absent/token cannot be read"),
    });
    expect(await status(await start({ "metrics-endpoint-auth": false }, { given }), "/metrics")).toBe(200);
  });
});

describe("certificates of the metrics port", () => {
  function secure(port: number, client: Partial<Pair> = {}): Promise<{ status: number | undefined; name: string }> {
    return new Promise((resolve, reject) => {
      const options = { host: "127.0.0.1", port, path: "/metrics", ca: authority.cert, agent: false, ...client };
      const sent = httpsRequest(options, (answer) => {
        const socket = answer.socket as unknown as { getPeerCertificate(): { subject: { CN: string } } };
        const name = socket.getPeerCertificate().subject.CN;
        answer.resume().once("end", () => resolve({ status: answer.statusCode, name }));
      });
      sent.once("error", reject).end();
    });
  }

  async function writePair(name: string): Promise<void> {
    const pair = await signed(authority, name);
    await writeFile(join(folder, "tls.key"), pair.key);
    await writeFile(join(folder, "tls.crt"), pair.cert);
  }

  it("are read from --metrics-cert-dir, and again when they change", async () => {
    await writePair("first");
    const port = await start({ "metrics-cert-dir": folder });
    expect(await secure(port)).toEqual({ status: 200, name: "first" });
    await expect(fetch(`http://127.0.0.1:${port}/metrics`)).rejects.toBeDefined();
    await writePair("second");
    await eventually("the new certificate", async () => (await secure(port)).name === "second");
  });

  it("are asked of clients with --metrics-client-ca-file", async () => {
    await writePair("server");
    const port = await start({ "metrics-cert-dir": folder, "metrics-client-ca-file": join(folder, "ca.crt") });
    await expect(secure(port)).rejects.toBeDefined();
    await expect(secure(port, await signed(await createAuthority()))).rejects.toBeDefined();
    expect((await secure(port, await signed(authority, "scraper"))).status).toBe(200);
  });

  it("cannot be asked of clients without TLS", async () => {
    await expect(start({ "metrics-client-ca-file": join(folder, "ca.crt") })).rejects.toMatchObject({
      code: "INVALID_CONFIG",
      message: expect.stringContaining("--metrics-cert-dir"),
    });
  });

  it("must be there", async () => {
    await expect(start({ "metrics-cert-dir": join(folder, "absent") })).rejects.toMatchObject({
      code: "BAD_CERTIFICATE",
    });
    await writePair("server");
    const absent = { "metrics-cert-dir": folder, "metrics-client-ca-file": join(folder, "absent") };
    await expect(start(absent)).rejects.toMatchObject({ code: "INVALID_CONFIG" });
    await writeFile(join(folder, "not-a-certificate"), "hello");
    const wrong = { "metrics-cert-dir": folder, "metrics-client-ca-file": join(folder, "not-a-certificate") };
    await expect(start(wrong)).rejects.toMatchObject({ code: "INVALID_CONFIG" });
  });

  it("names the port that is taken", async () => {
    const port = await start();
    await expect(start({ "metrics-port": port })).rejects.toMatchObject({
      message: `port ${port} (--metrics-port) cannot be bound`,
    });
  });
});
