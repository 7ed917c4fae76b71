/** An engine asked for tokens over HTTP, as vLLM's releases answer, and as a broken one does. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "@jest/globals";
import { promptTokensKey } from "../../../../src/data/attributes.ts";
import { EngineTokenBackend } from "../../../../src/data/producers/token-engine-backend.ts";
import { TokenProducer } from "../../../../src/data/producers/token-producer.ts";
import { InferenceRequest } from "../../../../src/request/inference-request.ts";
import { createParserSet, defaultParserTypes } from "../../../../src/request/parser-set.ts";
import { isRejection } from "../../../../src/scheduling/contracts.ts";

const open: (() => void | Promise<void>)[] = [];

afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close();
});

type Answer = (path: string, body: string, response: ServerResponse, request: IncomingMessage) => void;

async function listen(answer: Answer): Promise<Server> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => answer(request.url ?? "", Buffer.concat(chunks).toString(), response, request));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  open.push(() => {
    server.close();
    server.closeAllConnections();
  });
  return server;
}

function backendOf(server: Server, more: { timeoutMs?: number; maxAnswerBytes?: number } = {}): EngineTokenBackend {
  const { port } = server.address() as AddressInfo;
  const backend = new EngineTokenBackend({
    url: new URL(`http://127.0.0.1:${port}`),
    timeoutMs: more.timeoutMs ?? 2000,
    mediaTimeoutMs: more.timeoutMs ?? 2000,
    maxAnswerBytes: more.maxAnswerBytes ?? 100_000,
    tls: { verifies: true, ca: undefined, cert: undefined, key: undefined },
    now: () => performance.now(),
  });
  open.push(() => backend.close());
  return backend;
}

const parsers = createParserSet(defaultParserTypes);

function requestFor(path: string, value: object): InferenceRequest {
  const body = Buffer.from(JSON.stringify(value));
  const headers = new Map([["authorization", "Bearer key"]]);
  const parsed = parsers.parse("POST", path, headers, body);
  if (isRejection(parsed)) throw new Error(parsed.message);
  return new InferenceRequest({ id: "r", method: "POST", path, headers, body, parsed, receivedAtMs: 0 });
}

const chat = (content: unknown = "hi") =>
  requestFor("/v1/chat/completions", { model: "m", messages: [{ role: "user", content }] });
const completion = (prompt: unknown) => requestFor("/v1/completions", { model: "m", prompt });

const send = (response: ServerResponse, value: unknown, status = 200): void => {
  response.writeHead(status).end(JSON.stringify(value));
};

describe("tokens of an engine", () => {
  it.each([
    ["a chat", chat(), { request_id: "x", token_ids: [1, 2, 3] }, [[1, 2, 3]]],
    ["a chat at SGLang's renderer", chat(), { rid: "x", input_ids: [6, 7], stream: false }, [[6, 7]]],
    ["a chat of an older release", chat(), [[{ role: "user" }], [{ prompt_token_ids: [4, 5] }]], [[4, 5]]],
    ["completions of two prompts", completion(["a", "b"]), [{ token_ids: [1] }, { token_ids: [2, 3] }], [[1], [2, 3]]],
  ])("are those it would compute for %s", async (_what, request, answer, ids) => {
    const server = await listen((_path, _body, response) => send(response, answer));
    await new TokenProducer(backendOf(server)).produce(request);
    const tokens = request.attribute(promptTokensKey);
    expect(tokens?.exact).toBe(true);
    expect(tokens?.ids.map((list) => [...list])).toEqual(ids);
    expect(request.promptTokens).toBe(ids.flat().length);
  });

  it("are asked with the body as it will be sent on, and the client's credentials", async () => {
    const seen: string[] = [];
    const server = await listen((path, body, response, { headers }) => {
      seen.push(path, body, headers.authorization ?? "");
      send(response, { token_ids: [1] });
    });
    const request = chat();
    request.targetModel = "adapter";
    await new TokenProducer(backendOf(server)).produce(request);
    expect(seen).toEqual([
      "/v1/chat/completions/render",
      '{"model":"adapter","messages":[{"role":"user","content":"hi"}]}',
      "Bearer key",
    ]);
  });

  it("come with the places of images in the prompt", async () => {
    const digest = "ab12".repeat(16);
    const features = {
      mm_hashes: { image: [digest, "", "name"] },
      mm_placeholders: {
        image: [
          { offset: 3, length: 5 },
          { offset: 9, length: 1 },
          { offset: -1, length: 2 },
        ],
      },
    };
    const server = await listen((_path, _body, response) => send(response, { token_ids: [1], features }));
    const request = chat();
    await new TokenProducer(backendOf(server)).produce(request);
    expect(request.attribute(promptTokensKey)?.media).toEqual([
      [{ hash: 0xab12ab12ab12ab12n, firstToken: 3, tokens: 5 }],
    ]);
  });

  it("are asked of the tokenize endpoint where there is no render endpoint, which is remembered", async () => {
    const paths: string[] = [];
    const server = await listen((path, _body, response) => {
      paths.push(path);
      if (path === "/tokenize") send(response, { count: 2, max_model_len: 10, tokens: [7, 8] });
      else send(response, { detail: "Not Found" }, 404);
    });
    const producer = new TokenProducer(backendOf(server));
    const requests = [chat(), chat()];
    for (const request of requests) await producer.produce(request);
    expect(paths).toEqual(["/v1/chat/completions/render", "/tokenize", "/tokenize"]);
    expect([...(requests[1]?.attribute(promptTokensKey)?.ids[0] ?? [])]).toEqual([7, 8]);
  });

  it.each<[string, Answer]>([
    ["refuses", (_path, _body, response) => send(response, { error: {} }, 400)],
    ["fails", (_path, _body, response) => send(response, {}, 500)],
    ["answers something else", (_path, _body, response) => send(response, { tokens: ["a"] })],
    ["answers no JSON", (_path, _body, response) => void response.end("<html>")],
    ["answers nothing", (_path, _body, response) => send(response, [])],
    ["answers ids beyond 32 bits", (_path, _body, response) => send(response, { token_ids: [2 ** 32] })],
    ["answers too much", (_path, _body, response) => send(response, { token_ids: Array(60_000).fill(1) })],
    ["stalls", () => {}],
    ["stalls in the middle", (_path, _body, response) => void response.writeHead(200).write("{")],
    ["hangs up", (_path, _body, response) => void response.destroy()],
    [
      "hangs up in the middle",
      (_path, _body, response) => void response.writeHead(200).write("{", () => response.destroy()),
    ],
  ])("are done without where the engine %s", async (_what, answer) => {
    const server = await listen(answer);
    const producer = new TokenProducer(backendOf(server, { timeoutMs: 150 }));
    const request = chat();
    await producer.produce(request);
    expect(request.attribute(promptTokensKey)).toBeUndefined();
    expect(request.promptTokens).toBeGreaterThan(0);
    expect(producer.failures).toBe(1);
  });

  it("are done without where nobody listens", async () => {
    const server = await listen(() => {});
    const backend = backendOf(server);
    server.close();
    await once(server, "close");
    const request = chat();
    await new TokenProducer(backend).produce(request);
    expect(request.attribute(promptTokensKey)).toBeUndefined();
  });

  it("are asked again on a fresh connection when an idle one turns out to be closed", async () => {
    let answered = 0;
    const server = await listen((_path, _body, response, { socket }) => {
      answered += 1;
      // The second request on a connection is read and cut off, as by an engine whose idle time is over; the third is its repetition.
      socket.once("data", () => socket.destroy());
      send(response, { token_ids: [answered] });
    });
    const producer = new TokenProducer(backendOf(server));
    for (const expected of [1, 3]) {
      const request = chat();
      await producer.produce(request);
      expect([...(request.attribute(promptTokensKey)?.ids[0] ?? [])]).toEqual([expected]);
    }
  });

  it("are not asked for where the client sent ids, or where there is no such endpoint", () => {
    const backend = {
      timeoutMs: 1,
      tokens: () => {
        throw new Error("asked");
      },
      close: () => Promise.resolve(),
    };
    const request = completion([1, 2, 3]);
    expect(new TokenProducer(backend).produce(request)).toBeUndefined();
    expect(request.attribute(promptTokensKey)?.exact).toBe(true);
  });

  it("are not waited for once the backend is closed", async () => {
    const server = await listen(() => {});
    const backend = backendOf(server);
    const request = chat();
    const producing = new TokenProducer(backend).produce(request);
    await backend.close();
    await producing;
    expect(request.attribute(promptTokensKey)).toBeUndefined();
  });
});
