/** A client's request through a real Envoy: the picker decides, Envoy sends it there, the answer comes back. */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import type { EnvoyMode } from "../../src/app/envoy.ts";
import { chat, eventually, type Stack, startStack } from "../stack.ts";

interface OpenExchanges {
  readonly open: number;
}

interface Decision {
  readonly requestId: string;
  readonly outcome: { readonly kind: string; readonly destinations: readonly string[] };
  readonly end: { readonly kind: string; readonly usage: { readonly promptTokens: number } | null } | null;
}

describe.each<EnvoyMode>(["full-duplex", "response-none", "buffered"])("with deploy/envoy/%s.yaml", (mode) => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await startStack({ mode });
  }, 60_000);
  afterAll(() => stack.close());

  it("answers a unary request from the worker that was picked", async () => {
    const response = await fetch(`${stack.url}/v1/chat/completions`, chat("hello"));
    expect(response.status).toBe(200);
    expect(response.headers.get("x-went-into-resp-headers")).toBe("true");
    const answer = (await response.json()) as { usage: { completion_tokens: number } };
    expect(answer.usage.completion_tokens).toBe(5);
    const [latest] = await stack.debug<Decision[]>("/debug/decisions?limit=1");
    const worker = stack.workers.ready.find(({ name }) => name === response.headers.get("x-signalbox-worker"));
    expect(latest?.outcome.destinations).toEqual([worker?.hostPort]);
  });

  it("streams an answer to its end", async () => {
    const response = await fetch(
      `${stack.url}/v1/chat/completions`,
      chat("stream please", { stream: true, stream_options: { include_usage: true }, max_tokens: 20 }),
    );
    const text = await response.text();
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    expect(text.match(/"delta":\{"content"/g)).toHaveLength(20);
    expect(text.trimEnd().endsWith("data: [DONE]")).toBe(true);
  });

  it("keeps no exchange open once the answers are over", async () => {
    await eventually("no open exchange", async () => (await stack.debug<OpenExchanges>("/debug/exchanges")).open === 0);
    const decisions = await stack.debug<Decision[]>("/debug/decisions");
    expect(decisions.map((decision) => decision.end?.kind)).toEqual(["completed", "completed"]);
  });

  it("passes a body of 5 MiB unchanged in size", async () => {
    const content = "x".repeat(5 * 1024 * 1024);
    const response = await fetch(`${stack.url}/tokenize`, chat(content));
    expect(response.status).toBe(200);
    expect(((await response.json()) as { count: number }).count).toBeGreaterThan(1_000_000);
  }, 30_000);

  it("routes a request without a body", async () => {
    const response = await fetch(`${stack.url}/v1/models`);
    expect(response.status).toBe(200);
    expect(((await response.json()) as { data: { id: string }[] }).data[0]?.id).toBe("signalbox-sim");
  });

  it("answers bad JSON with 400 and OpenAI's error object", async () => {
    const response = await fetch(`${stack.url}/v1/chat/completions`, { method: "POST", body: "{bad" });
    expect(response.status).toBe(400);
    expect(response.headers.get("content-type")).toBe("application/json");
    expect(await response.json()).toMatchObject({ error: { type: "invalid_request_error", param: null } });
  });
});
