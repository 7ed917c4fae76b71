import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type RequestListener, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "@jest/globals";
import {
  createKubernetesApi,
  type KubernetesApi,
  type WatchRequest,
} from "../../../../src/net/kubernetes/api-client.ts";
import {
  accountCredentials,
  findCredentials,
  kubeconfigCredentials,
} from "../../../../src/net/kubernetes/credentials.ts";

const open: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

async function serve(listener: RequestListener): Promise<KubernetesApi> {
  const server: Server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  open.push(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const tls = { ca: undefined, cert: undefined, key: undefined, serverName: undefined, verifies: true };
  const api = createKubernetesApi({
    access: async () =>
      await Promise.resolve({ server: `http://127.0.0.1:${port}`, headers: { authorization: "Bearer t" }, tls }),
  });
  open.push(() => api.close());
  return api;
}

function watching(lines: string[], more: Partial<WatchRequest> = {}): WatchRequest {
  return { path: "/w", silenceMs: 5000, opened: () => {}, line: (text) => lines.push(text), ...more };
}

const forever = new AbortController().signal;

describe("requests to the API server", () => {
  it("carry the credentials and answer with the text", async () => {
    const api = await serve((request, response) => response.end(`${request.url} ${request.headers.authorization}`));
    expect(await api.request({ path: "/a?b=1" })).toBe("/a?b=1 Bearer t");
  });

  it("are asked again where the server ends a kept connection at the moment it is used again", async () => {
    const seen: string[] = [];
    const api = await serve((request, response) => {
      seen.push(request.url ?? "");
      if (seen.length === 2) request.socket.destroy();
      else response.end("ok");
    });
    await api.request({ path: "/1" });
    expect(await api.request({ path: "/2" })).toBe("ok");
    expect(seen).toEqual(["/1", "/2", "/2"]);
    seen.length = 1;
    await expect(api.request({ path: "/3", method: "POST", body: "{}" })).rejects.toMatchObject({ status: 0 });
    expect(seen).toEqual(["/1", "/3"]);
  });

  it("use one connection for one request after the other", async () => {
    const ports = new Set<number | undefined>();
    const api = await serve((request, response) => {
      ports.add(request.socket.remotePort);
      response.end("ok");
    });
    for (let count = 0; count < 20; count++) await api.request({ path: "/" });
    expect(ports.size).toBe(1);
  });

  it.each(["POST", "PUT", "PATCH", "DELETE"] as const)(
    "of %s end with their body, and another may follow",
    async (method) => {
      const api = await serve((request, response) => {
        let text = "";
        request.on("data", (chunk: Buffer) => {
          text += chunk.toString("utf8");
        });
        request.on("end", () => response.end(`${request.method} ${text}`));
      });
      for (const body of ['{"name":"ä"}', "{}"]) {
        expect(await api.request({ method, path: "/", body })).toBe(`${method} ${body}`);
      }
    },
  );

  it("fail with the status and what the server asks to wait", async () => {
    const api = await serve((_request, response) => response.writeHead(429, { "retry-after": "2" }).end("busy"));
    await expect(api.request({ path: "/" })).rejects.toMatchObject({ status: 429, retryAfterMs: 2000 });
    await expect(api.watch(watching([]), forever)).rejects.toMatchObject({ status: 429, retryAfterMs: 2000 });
  });

  it("end when they take too long, are aborted, or the client closes", async () => {
    const api = await serve(() => {});
    await expect(api.request({ path: "/", timeoutMs: 30 })).rejects.toMatchObject({ status: 0 });
    await expect(api.request({ path: "/" }, AbortSignal.timeout(30))).rejects.toMatchObject({ status: 0 });
    const pending = api.request({ path: "/" });
    await api.close();
    await expect(pending).rejects.toMatchObject({ status: 0 });
  });

  it("fail when the answer breaks off", async () => {
    const api = await serve((_request, response) => {
      response.writeHead(200, { "content-length": "100" });
      response.write("half", () => response.destroy());
    });
    await expect(api.request({ path: "/" })).rejects.toMatchObject({ status: 0 });
  });
});

describe("a watch", () => {
  const text = '{"a":"ä"}\n\n{"b":"☃"}\n';
  const bytes = Buffer.from(text);

  it.each([...bytes.keys()])("tells whole lines when the stream is split at byte %i", async (at) => {
    const api = await serve((_request, response) => {
      response.write(bytes.subarray(0, at + 1), () => setImmediate(() => response.end(bytes.subarray(at + 1))));
    });
    const lines: string[] = [];
    await api.watch(watching(lines), forever);
    expect(lines).toEqual(['{"a":"ä"}', '{"b":"☃"}']);
  });

  it("ends with an error when the connection is lost", async () => {
    const api = await serve((_request, response) => {
      response.write("one\n", () => response.destroy());
    });
    const lines: string[] = [];
    await expect(api.watch(watching(lines), forever)).rejects.toMatchObject({ status: 0 });
    expect(lines).toEqual(["one"]);
  });

  it("ends with an error when the stream is silent for too long", async () => {
    const api = await serve((_request, response) => {
      response.write("one\n");
    });
    await expect(api.watch(watching([], { silenceMs: 50 }), forever)).rejects.toThrow("silent for 50 ms");
  });

  it("ends with what the reader of a line throws", async () => {
    const api = await serve((_request, response) => {
      response.write("one\ntwo\n");
    });
    const line = (): never => {
      throw new Error("enough");
    };
    await expect(api.watch(watching([], { line }), forever)).rejects.toThrow("enough");
  });

  it("ends when it is aborted", async () => {
    const api = await serve((_request, response) => {
      response.write("one\n");
    });
    const abort = new AbortController();
    const watch = api.watch(watching([], { line: () => abort.abort() }), abort.signal);
    await expect(watch).rejects.toMatchObject({ status: 0 });
  });
});

describe("credentials", () => {
  function folder(): string {
    const made = mkdtempSync(join(tmpdir(), "signalbox-account-"));
    open.push(() => rmSync(made, { recursive: true, force: true }));
    writeFileSync(join(made, "token"), "first\n");
    writeFileSync(join(made, "ca.crt"), "PEM");
    return made;
  }

  it("of a service account follow its token's rotation from one request to the next", async () => {
    const account = folder();
    const credentials = accountCredentials("::1", "6443", account);
    expect(await credentials.access()).toMatchObject({
      server: "https://[::1]:6443",
      headers: { authorization: "Bearer first" },
      tls: { ca: "PEM", verifies: true },
    });
    writeFileSync(join(account, "token"), "second");
    expect((await credentials.access()).headers).toEqual({ authorization: "Bearer second" });
  });

  it("of a kubeconfig follow the file that it names for the token", async () => {
    const folder = mkdtempSync(join(tmpdir(), "signalbox-test-"));
    open.push(() => rmSync(folder, { recursive: true }));
    const file = join(folder, "kubeconfig");
    const config = {
      "current-context": "here",
      clusters: [{ name: "one", cluster: { server: "https://127.0.0.1:1" } }],
      users: [{ name: "me", user: { token: "overridden", tokenFile: "token" } }],
      contexts: [{ name: "here", context: { cluster: "one", user: "me" } }],
    };
    writeFileSync(file, JSON.stringify(config));
    const credentials = kubeconfigCredentials([file]);
    for (const token of ["first", "second"]) {
      writeFileSync(join(folder, "token"), `${token}\n`);
      expect((await credentials.access()).headers).toEqual({ authorization: `Bearer ${token}` });
    }
  });

  it("come from the pod's account, and from nowhere when there is none", async () => {
    const account = folder();
    const pod = { KUBERNETES_SERVICE_HOST: "10.0.0.1", KUBERNETES_SERVICE_PORT: "443", HOME: account };
    expect((await findCredentials(pod, account)?.access())?.server).toBe("https://10.0.0.1:443");
    expect(findCredentials({ HOME: account }, account)).toBeUndefined();
    expect(findCredentials(pod, join(account, "none"))).toBeUndefined();
  });
});
