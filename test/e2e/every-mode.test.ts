/** What must hold behind a real Envoy whichever body modes it sends: bytes, refusals, and everything given back when something dies. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { type IncomingMessage, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import type { EnvoyMode } from "../../src/app/envoy.ts";
import { chat, eventually, type Stack, startStack } from "../stack.ts";
import { type Received, sha256, startUpstream, type Upstream } from "./upstream.ts";

interface ShownEndpoint {
  readonly address: string;
  readonly load: { readonly requests: number; readonly tokens: number };
}

const objects = `
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: { name: batch, namespace: default }
spec: { priority: -1, poolRef: { name: pool } }
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: { name: alias, namespace: default }
spec:
  poolRef: { name: pool }
  rules:
    - matches: [{ model: { type: Exact, value: nice-name } }]
      targets: [{ modelRewrite: signalbox-sim }]
    - matches: [{ model: { type: Exact, value: echo-name } }]
      targets: [{ modelRewrite: a-much-longer-name-than-before }]
`;

/** A header of the client's becomes the gateway's subset hint, as a route would set it. */
const subsetFromHeader = {
  name: "envoy.filters.http.header_to_metadata",
  typed_config: {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
    request_rules: [
      {
        header: "x-test-subset",
        on_header_present: {
          metadata_namespace: "envoy.lb.subset_hint",
          key: "x-gateway-destination-endpoint-subset",
          type: "STRING",
        },
        remove: true,
      },
    ],
  },
};

describe.each<EnvoyMode>(["full-duplex", "response-none", "buffered"])("with deploy/envoy/%s.yaml", (mode) => {
  let folder: string;
  let upstream: Upstream;
  let stack: Stack;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "signalbox-e2e-"));
    await writeFile(join(folder, "objects.yaml"), objects);
    upstream = await startUpstream();
    stack = await startStack({
      mode,
      workers: 1,
      endpoints: [upstream.address],
      httpFilters: [subsetFromHeader],
      eppArgs: [`--manifests=${folder}`, "--pool-name=pool", "--refresh-metrics-interval=10ms"],
    });
  }, 60_000);
  afterAll(async () => {
    await stack.close();
    await upstream.close();
    await rm(folder, { recursive: true, force: true });
  });

  const worker = (): string => stack.workers.ready[0]?.hostPort ?? "";
  const to = (address: string, init: RequestInit, headers: Record<string, string> = {}): RequestInit => ({
    ...init,
    headers: { "content-type": "application/json", "x-test-subset": address, ...headers },
  });
  const ask = (init: RequestInit): Promise<Response> => fetch(`${stack.url}/v1/chat/completions`, init);
  const nothingOpen = async (): Promise<boolean> => {
    const { open } = await stack.debug<{ open: number }>("/debug/exchanges");
    const endpoints = await stack.debug<ShownEndpoint[]>("/debug/endpoints");
    return open === 0 && endpoints.every(({ load }) => load.requests === 0 && load.tokens === 0);
  };
  const runningOnWorker = async (): Promise<number> => {
    const page = await (await fetch(`http://${worker()}/metrics`)).text();
    return Number(/^vllm:num_requests_running\{[^}]*\} (\S+)$/m.exec(page)?.[1]);
  };

  it("delivers a body of 5 MiB byte for byte", async () => {
    // Keys in no order, escapes, white space, repeated keys, a number that no double holds, text of several bytes a character.
    const filler = '\\u00e9 é 漢字 🚂 \\"quoted\\" '.repeat(170_000);
    const body = `{ "seed":12345678901234567890,\n"seed" : 1.0e2, "messages":[{"content":"${filler}","role":"user"}], "model":"x" }`;
    expect(Buffer.byteLength(body)).toBeGreaterThan(5 * 1024 * 1024);
    const response = await ask(to(upstream.address, { method: "POST", body }));
    expect(response.status).toBe(200);
    const received = (await response.json()) as Received;
    expect(received.sizeBytes).toBe(Buffer.byteLength(body));
    expect(received.sha256).toBe(sha256(body));
  }, 30_000);

  it("sends a client's own headers on unchanged, and none that steer behind the picker", async () => {
    const response = await ask(
      to(upstream.address, chat("headers"), {
        "x-mine": "one, two",
        "x-request-id": "kept-as-it-is",
        "x-gateway-destination-endpoint": worker(),
        "x-prefiller-host-port": "10.0.0.1:1",
      }),
    );
    const { headers } = (await response.json()) as Received;
    expect(headers).toMatchObject({ "x-mine": "one, two", "x-gateway-destination-endpoint": upstream.address });
    expect(headers["x-prefiller-host-port"]).toBeUndefined();
    expect(response.headers.get("x-went-into-resp-headers")).toBe("true");
  });

  it("obeys the subset that the gateway hands on as metadata", async () => {
    for (const address of [upstream.address, worker(), upstream.address]) {
      const response = await ask(to(address, chat("subset")));
      expect(response.headers.get("x-signalbox-worker") !== null).toBe(address === worker());
      await response.arrayBuffer();
    }
    const none = await ask(to("10.9.8.7:1", chat("subset")));
    expect(none.status).toBe(503);
    expect(none.headers.get("x-llm-d-request-dropped-reason")).toBe("rejected-no-endpoints");
    expect(Number(none.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(none.headers.get("content-type")).toBe("application/json");
    expect(await none.json()).toMatchObject({ error: { type: "server_error", param: null } });
  });

  it("splices a rewritten model into the body and nothing else", async () => {
    const body = '{"seed":12345678901234567890, "model" : "echo-name","messages":[{"role":"user","content":"m"}]}';
    const response = await ask(to(upstream.address, { method: "POST", body }));
    const received = (await response.json()) as Received;
    expect(received.sha256).toBe(sha256(body.replace("echo-name", "a-much-longer-name-than-before")));
    expect(Number(received.headers["content-length"] ?? received.sizeBytes)).toBe(received.sizeBytes);
  });

  it.each([false, true])("restores the model's name where the answer's body is seen (stream %s)", async (stream) => {
    const response = await ask(to(worker(), chat("restore", { model: "nice-name", stream })));
    expect(response.status).toBe(200);
    const text = await response.text();
    const isSeen = mode === "full-duplex";
    expect(text).toContain(isSeen ? '"model":"nice-name"' : '"model":"signalbox-sim"');
    expect(text).not.toContain(isSeen ? '"model":"signalbox-sim"' : '"model":"nice-name"');
  });

  it("passes a request that ends with trailers", async () => {
    const body = JSON.stringify({ model: "x", messages: [{ role: "user", content: "trailers" }] });
    const response = await postWithTrailers(`${stack.url}/v1/chat/completions`, upstream.address, body);
    expect(response.status).toBe(200);
    const received = JSON.parse(response.text) as Received;
    expect(received.sha256).toBe(sha256(body));
  });

  it("sheds a sheddable objective while the pool is saturated, and no other", async () => {
    const calm = upstream.metrics;
    upstream.metrics = calm.replace("num_requests_waiting 0", "num_requests_waiting 1000");
    await eventually("the queue is seen", async () =>
      (await stack.debug<{ address: string; metrics: { waitingRequests: number } }[]>("/debug/endpoints")).some(
        ({ address, metrics }) => address === upstream.address && metrics.waitingRequests === 1000,
      ),
    );
    const shed = await ask(to(upstream.address, chat("shed"), { "x-llm-d-inference-objective": "batch" }));
    expect(shed.status).toBe(429);
    expect(await shed.json()).toMatchObject({ error: { type: "rate_limit_error" } });
    const kept = await ask(to(upstream.address, chat("kept"), { "x-llm-d-inference-objective": "unknown" }));
    expect(kept.status).toBe(200);
    await kept.arrayBuffer();
    upstream.metrics = calm;
  });

  it("gives everything back when the client leaves in mid stream, and the engine sees it leave", async () => {
    const leaving = new AbortController();
    const init = to(worker(), chat("leave me", { stream: true, max_tokens: 5_000 }));
    const response = await ask({ ...init, signal: leaving.signal });
    await response.body?.getReader().read();
    expect((await stack.debug<{ open: number }>("/debug/exchanges")).open).toBe(1);
    expect(await runningOnWorker()).toBe(1);
    leaving.abort();
    await eventually("nothing open in the picker", nothingOpen);
    await eventually("the engine stops", async () => (await runningOnWorker()) === 0);
  });

  it("gives everything back when the client leaves before the answer begins", async () => {
    let isClosed = false;
    const answer = upstream.answer;
    const arrived = new Promise<void>((resolve) => {
      upstream.answer = (_received, response) => {
        response.on("close", () => {
          isClosed = true;
        });
        resolve();
      };
    });
    const leaving = new AbortController();
    const pending = ask({ ...to(upstream.address, chat("never answered")), signal: leaving.signal });
    pending.catch(() => {});
    await arrived;
    expect((await stack.debug<{ open: number }>("/debug/exchanges")).open).toBe(1);
    leaving.abort();
    await eventually("nothing open in the picker", nothingOpen);
    await eventually("the engine sees the close", () => Promise.resolve(isClosed));
    upstream.answer = answer;
  });

  it("hands an engine's own error on as it is", async () => {
    const answer = upstream.answer;
    upstream.answer = (_received, response) => {
      response.writeHead(422, { "content-type": "application/json" }).end('{"error":{"message":"engine says no"}}');
    };
    const response = await ask(to(upstream.address, chat("refused by the engine", { stream: true })));
    expect([response.status, await response.text()]).toEqual([422, '{"error":{"message":"engine says no"}}']);
    await eventually("nothing open", nothingOpen);
    upstream.answer = answer;
  });

  it("cuts the client when the engine dies in mid stream, and gives everything back", async () => {
    const response = await ask(to(worker(), chat("die", { stream: true, max_tokens: 5_000 })));
    const reader = response.body?.getReader();
    await reader?.read();
    stack.workers.signal("SIGKILL");
    await expect(
      (async () => {
        for (;;) if ((await reader?.read())?.done !== false) return "a clean end";
      })(),
    ).rejects.toThrow();
    await eventually("nothing open", nothingOpen);
    expect(await stack.debug("/debug/exchanges")).toMatchObject({ open: 0, pending: 0, reaped: 0 });
  });

  it("logs no error about any of this", () => {
    expect(stack.picker.lines.filter((line) => line.includes('"level":"error"'))).toEqual([]);
  });
});

function postWithTrailers(url: string, subset: string, body: string): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", trailer: "x-checksum", "x-test-subset": subset };
    const outgoing = request(url, { method: "POST", headers, timeout: 5_000 }, (response: IncomingMessage) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
    });
    outgoing.on("timeout", () => outgoing.destroy(new Error("no answer to a request with trailers")));
    outgoing.on("error", reject);
    outgoing.write(body);
    outgoing.addTrailers({ "x-checksum": "42" });
    outgoing.end();
  });
}
