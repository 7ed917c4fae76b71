/** Access to the metrics port against a stand-in for the API server that speaks the two calls over HTTPS. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "@jest/globals";
import { createMetricsAccess } from "../../../src/admin/metrics-access.ts";
import { createReviewClient, type ReviewClient } from "../../../src/admin/review-client.ts";
import { createAuthority, signed } from "./certificates.ts";

const tokenPath = "/apis/authentication.k8s.io/v1/tokenreviews";
const accessPath = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/** As kube-apiserver 1.31 answers a TokenReview of a service account's token. */
const authenticated = {
  kind: "TokenReview",
  apiVersion: "authentication.k8s.io/v1",
  metadata: { creationTimestamp: null },
  spec: { token: "scraper" },
  status: {
    authenticated: true,
    user: {
      username: "system:serviceaccount:monitoring:prometheus-k8s",
      uid: "5c1f6a5e-3a4b-4c8f-9a8e-1d2c3b4a5f60",
      groups: ["system:serviceaccounts", "system:serviceaccounts:monitoring", "system:authenticated"],
      extra: { "authentication.kubernetes.io/pod-name": ["prometheus-k8s-0"] },
    },
    audiences: ["https://kubernetes.default.svc.cluster.local"],
  },
};
/** An expired or unknown token. */
const notAuthenticated = {
  kind: "TokenReview",
  apiVersion: "authentication.k8s.io/v1",
  metadata: { creationTimestamp: null },
  spec: { token: "scraper" },
  status: { user: {}, error: "[invalid bearer token, service account token has expired]" },
};
const access = (status: Readonly<Record<string, unknown>>) => ({
  kind: "SubjectAccessReview",
  apiVersion: "authorization.k8s.io/v1",
  metadata: { creationTimestamp: null },
  spec: { user: "system:serviceaccount:monitoring:prometheus-k8s" },
  status,
});
const allowed = access({ allowed: true, reason: 'RBAC: allowed by ClusterRoleBinding "metrics-reader"' });
const denied = access({ allowed: false });

interface Asked {
  readonly path: string;
  readonly authorization: string | undefined;
  readonly body: { readonly spec: Readonly<Record<string, unknown>> };
}

let server: Server;
let folder: string;
let asked: Asked[];
let answers: Record<string, (response: ServerResponse) => void>;

const answering =
  (body: unknown, status = 201) =>
  (response: ServerResponse): void => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(typeof body === "string" ? body : JSON.stringify(body));
  };

function onReview(request: IncomingMessage, response: ServerResponse): void {
  let text = "";
  request.setEncoding("utf8");
  request.on("data", (chunk: string) => {
    text += chunk;
  });
  request.on("end", () => {
    const path = request.url ?? "";
    asked.push({ path, authorization: request.headers.authorization, body: JSON.parse(text) as Asked["body"] });
    (answers[path] ?? answering({ kind: "Status", code: 404 }, 404))(response);
  });
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metrics-access-"));
  const authority = await createAuthority();
  await writeFile(join(folder, "ca.crt"), authority.cert);
  await writeFile(join(folder, "other-ca.crt"), (await createAuthority()).cert);
  server = createServer(await signed(authority, "kube-apiserver"), onReview);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));
});

afterAll(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true });
});

let nowMs: number;
let errors: unknown[];

beforeEach(async () => {
  await writeFile(join(folder, "token"), "our-own-token\n");
  asked = [];
  nowMs = 0;
  errors = [];
  answers = { [tokenPath]: answering(authenticated), [accessPath]: answering(allowed) };
});

function realClient(
  options: { readonly timeoutMs?: number; readonly ca?: string; readonly port?: number } = {},
): ReviewClient {
  return createReviewClient({
    host: "127.0.0.1",
    port: options.port ?? (server.address() as AddressInfo).port,
    tokenFile: join(folder, "token"),
    caFile: join(folder, options.ca ?? "ca.crt"),
    timeoutMs: options.timeoutMs ?? 2_000,
  });
}

function start(client: ReviewClient = realClient()) {
  return createMetricsAccess({ client, now: () => nowMs, onError: (error) => errors.push(error) });
}

describe("access to metrics inside Kubernetes", () => {
  it("lets in whom the API server knows and allows, and asks as the pod's own service account", async () => {
    expect(await start()("Bearer scraper", "/metrics", "get")).toBe("allowed");
    expect(asked.map(({ path, authorization }) => ({ path, authorization }))).toEqual([
      { path: tokenPath, authorization: "Bearer our-own-token" },
      { path: accessPath, authorization: "Bearer our-own-token" },
    ]);
    expect(asked[0]?.body).toEqual({
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenReview",
      spec: { token: "scraper" },
    });
    expect(asked[1]?.body.spec).toEqual({
      user: authenticated.status.user.username,
      uid: authenticated.status.user.uid,
      groups: authenticated.status.user.groups,
      extra: authenticated.status.user.extra,
      nonResourceAttributes: { path: "/metrics", verb: "get" },
    });
    expect(errors).toEqual([]);
  });

  it.each([undefined, "", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Bearer two words"])(
    "asks nobody about %j",
    async (authorization) => {
      expect(await start()(authorization, "/metrics", "get")).toBe("unauthenticated");
      expect(asked).toEqual([]);
    },
  );

  it("refuses an expired token as unauthenticated", async () => {
    answers[tokenPath] = answering(notAuthenticated);
    expect(await start()("bearer scraper", "/metrics", "get")).toBe("unauthenticated");
    expect(asked).toHaveLength(1);
  });

  it.each([
    ["denied", denied],
    ["both allowed and denied", access({ allowed: true, denied: true })],
    ["allowed in words only", access({ allowed: "true" })],
  ])("forbids a user who is %s", async (_name, answer) => {
    answers[accessPath] = answering(answer);
    expect(await start()("Bearer scraper", "/metrics", "get")).toBe("forbidden");
  });

  const whole = JSON.stringify(authenticated);
  it.each<[string, string, (response: ServerResponse) => void]>([
    ["a TokenReview without a status", tokenPath, answering({ kind: "TokenReview" })],
    ["a TokenReview without a user", tokenPath, answering({ status: { authenticated: true } })],
    ["no JSON", tokenPath, answering("<html>")],
    ["a JSON array", tokenPath, answering([])],
    ["half a TokenReview", tokenPath, answering(whole.slice(0, 40))],
    ["401 to our own token", tokenPath, answering({ kind: "Status", status: "Failure" }, 401)],
    ["403 to our own rights", tokenPath, answering({ kind: "Status", status: "Failure" }, 403)],
    ["500", tokenPath, answering("etcd is slow", 500)],
    ["an endless answer", tokenPath, answering("x".repeat(2 * 1024 * 1024))],
    ["a connection that breaks off", tokenPath, (response) => response.destroy()],
    ["an access review without a status", accessPath, answering({ kind: "SubjectAccessReview" })],
    ["500 to the access review", accessPath, answering("no", 500)],
  ])("lets nobody in on %s, and says why without the token", async (_name, path, answer) => {
    answers[path] = answer;
    expect(await start()("Bearer scraper-secret", "/metrics", "get")).toBe("unavailable");
    expect(errors).toHaveLength(1);
    expect(String((errors[0] as { message: string }).message)).not.toContain("scraper");
  });

  it("lets nobody in when the API server is slow, cannot be reached, or is not who it should be", async () => {
    answers[tokenPath] = () => {};
    expect(await start(realClient({ timeoutMs: 50 }))("Bearer scraper", "/metrics", "get")).toBe("unavailable");
    expect(await start(realClient({ port: 1 }))("Bearer scraper", "/metrics", "get")).toBe("unavailable");
    expect(await start(realClient({ ca: "other-ca.crt" }))("Bearer scraper", "/metrics", "get")).toBe("unavailable");
    expect(await start(realClient({ ca: "no-such-file" }))("Bearer scraper", "/metrics", "get")).toBe("unavailable");
    expect(errors).toHaveLength(4);
  });

  it("asks with the rotated token", async () => {
    const authorize = start();
    await authorize("Bearer one", "/metrics", "get");
    await writeFile(join(folder, "token"), "rotated\n");
    await authorize("Bearer two", "/metrics", "get");
    expect(asked.map(({ authorization }) => authorization)).toEqual([
      "Bearer our-own-token",
      "Bearer our-own-token",
      "Bearer rotated",
      "Bearer rotated",
    ]);
  });
});

describe("the cache of verdicts", () => {
  /** Counts reviews; decides by table. */
  function counted(decide: (token: string) => "allowed" | "unauthenticated" | "forbidden" | "fails") {
    let reviews = 0;
    let verdict = "";
    const client: ReviewClient = {
      review: (path, body) => {
        if (path === tokenPath) {
          reviews++;
          verdict = decide(String((body as Asked["body"]).spec["token"]));
          if (verdict === "fails") return Promise.reject(new Error("down"));
          return Promise.resolve(
            verdict === "unauthenticated" ? { authenticated: false } : { authenticated: true, user: { username: "u" } },
          );
        }
        return Promise.resolve({ allowed: verdict === "allowed" });
      },
    };
    return { client, count: () => reviews };
  }

  it.each<["allowed" | "unauthenticated" | "forbidden" | "fails", number, number]>([
    ["allowed", 59_999, 60_001],
    ["unauthenticated", 9_999, 10_001],
    ["forbidden", 9_999, 10_001],
  ])("believes %s for %i ms", async (verdict, stillMs, againMs) => {
    const { client, count } = counted(() => verdict);
    const authorize = start(client);
    await authorize("Bearer t", "/metrics", "get");
    nowMs = stillMs;
    await authorize("Bearer t", "/metrics", "get");
    expect(count()).toBe(1);
    nowMs = againMs;
    await authorize("Bearer t", "/metrics", "get");
    expect(count()).toBe(2);
  });

  it("never believes a failure", async () => {
    let isDown = true;
    const { client } = counted(() => (isDown ? "fails" : "allowed"));
    const authorize = start(client);
    expect(await authorize("Bearer t", "/metrics", "get")).toBe("unavailable");
    isDown = false;
    expect(await authorize("Bearer t", "/metrics", "get")).toBe("allowed");
  });

  it("does not let one path, verb or token speak for another", async () => {
    const { client, count } = counted(() => "allowed");
    const authorize = start(client);
    await authorize("Bearer t", "/metrics", "get");
    await authorize("Bearer t", "/debug/config", "get");
    await authorize("Bearer t", "/metrics", "head");
    await authorize("Bearer u", "/metrics", "get");
    expect(count()).toBe(4);
  });

  it("asks once for questions alike that come together", async () => {
    const { client, count } = counted(() => "allowed");
    const authorize = start(client);
    const together = Array.from({ length: 50 }, () => authorize("Bearer t", "/metrics", "get"));
    expect(new Set(await Promise.all(together))).toEqual(new Set(["allowed"]));
    expect(count()).toBe(1);
  });

  it("keeps a flood of guesses away from the API server", async () => {
    const { client, count } = counted(() => "unauthenticated");
    const authorize = start(client);
    const guesses = Array.from({ length: 100 }, (_, guess) => authorize(`Bearer ${guess}`, "/metrics", "get"));
    const answered = await Promise.all(guesses);
    expect(count()).toBe(16);
    expect(answered.filter((answer) => answer === "unavailable")).toHaveLength(84);
    expect(answered).not.toContain("allowed");
  });

  it("forgets the oldest verdicts beyond its bound", async () => {
    const { client, count } = counted(() => "allowed");
    const authorize = start(client);
    for (let token = 0; token < 513; token++) await authorize(`Bearer ${token}`, "/metrics", "get");
    await authorize("Bearer 512", "/metrics", "get");
    expect(count()).toBe(513);
    await authorize("Bearer 0", "/metrics", "get");
    expect(count()).toBe(514);
  });
});
