/** What a naive picker gets wrong, one test for each, named by its number in the inventory of the reference's subtle behaviours. */
import { describe, expect, it } from "@jest/globals";
import { generatedCodec } from "../../../src/extproc/codec/generated.ts";
import { viewsCodec } from "../../../src/extproc/codec/views.ts";
import { reject } from "../../../src/request/rejection.ts";
import {
  chunksOf,
  encodeMessage,
  endpoint,
  endsOf,
  type HarnessOptions,
  harness as harnessWith,
  immediateOf,
  postHeaders,
  removedHeadersOf,
  setHeadersOf,
} from "./session-harness.ts";

const destinationOf = (reply: Parameters<typeof setHeadersOf>[0]) =>
  setHeadersOf(reply)["x-gateway-destination-endpoint"];

describe.each([
  ["views", viewsCodec],
  ["generated", generatedCodec],
])("the session, by protocol subtlety, over the %s codec", (_name, codec) => {
  const harness = (options: HarnessOptions = {}) => harnessWith({ ...options, deps: { codec, ...options.deps } });

  it("Protocol 1: answers request headers only when the whole body is in, header reply first", () => {
    const { open } = harness();
    const { stream, requestHeaders, requestBody } = open();
    requestHeaders();
    requestBody('{"model":', false);
    expect(stream.shape).toEqual([]);
    requestBody('"llama"}', true);
    expect(stream.shape).toEqual(["requestHeaders", "requestBody"]);
  });

  it("Protocol 2: every duplex body reply is a streamed_response", () => {
    const { open } = harness();
    const { stream, post, responseHeaders, responseBody } = open();
    post();
    responseHeaders();
    responseBody("{}", false);
    responseBody("", true);
    const kinds = stream.replies.flatMap(({ response }) =>
      response?.$case === "requestBody" || response?.$case === "responseBody"
        ? [response.value.response?.bodyMutation?.mutation?.$case]
        : [],
    );
    expect(kinds).toEqual(["streamedResponse", "streamedResponse", "streamedResponse"]);
  });

  it("Protocol 3: chunks replies at 62,000 bytes, end of stream only on the last", () => {
    const { open } = harness();
    const body = `{"model":"llama","prompt":"${"é".repeat(64_000)}"}`;
    const { stream, post } = open();
    post(body);
    const chunks = chunksOf(stream, "requestBody");
    expect(chunks.map((chunk) => [chunk.body.length, chunk.endOfStream])).toEqual([
      [62_000, false],
      [62_000, false],
      [Buffer.byteLength(body) - 124_000, true],
    ]);
    expect(Buffer.from(chunks.map((chunk) => chunk.body).join(""), "latin1").toString()).toBe(body);
  });

  it("Protocol 3: a body of exactly 62,000 bytes is one chunk", () => {
    const { open } = harness();
    const { stream, post } = open();
    post(`{"model":"${"m".repeat(62_000 - 12)}"}`);
    expect(chunksOf(stream, "requestBody").map((chunk) => [chunk.body.length, chunk.endOfStream])).toEqual([
      [62_000, true],
    ]);
  });

  it("Protocol 3: chunks a spliced body across the boundaries of its pieces", () => {
    const { open } = harness({ rewriteTo: "target-model" });
    const tail = `,"prompt":"${"p".repeat(70_000)}"}`;
    const { stream, post } = open();
    post(`{"model":"llama"${tail}`);
    const chunks = chunksOf(stream, "requestBody");
    expect(chunks.map((chunk) => chunk.body).join("")).toBe(`{"model":"target-model"${tail}`);
    expect(chunks.map((chunk) => chunk.endOfStream)).toEqual([false, true]);
  });

  it("Protocol 3: an empty body is one empty chunk with end of stream", () => {
    const { open } = harness({ deps: { parse: () => ({ ...parsed, model: "" }) } });
    const { stream, post } = open();
    post("");
    expect(stream.shape).toEqual(["requestHeaders", "requestBody"]);
    expect(chunksOf(stream, "requestBody")).toEqual([{ body: "", endOfStream: true }]);
    expect(setHeadersOf(stream.replies[0])["Content-Length"]).toBeUndefined();
  });

  it.each([
    ["the header message", "headers"],
    ["the body message", "body"],
  ])("Protocol 4: reads the subset from %s", (_name, where) => {
    const { open, pipeline } = harness();
    const { requestHeaders, requestBody } = open();
    const metadata = {
      "envoy.lb.subset_hint": { "x-gateway-destination-endpoint-subset": ["10.0.0.1:8000", 7, "10.0.0.2"] },
    };
    requestHeaders(postHeaders, false, where === "headers" ? { metadata } : {});
    requestBody('{"model":"llama"}', false);
    requestBody("", true, where === "body" ? { metadata } : {});
    expect(pipeline.decided[0]?.subset).toEqual(["10.0.0.1:8000", "10.0.0.2"]);
  });

  it.each([
    ["10.0.0.1:8000, 10.0.0.2", ["10.0.0.1:8000", "10.0.0.2"]],
    ["", []],
  ])("Protocol 4: reads the subset %j as a comma string", (value, expected) => {
    const { open, pipeline } = harness();
    open().post('{"model":"llama"}', {
      metadata: { "envoy.lb.subset_hint": { "x-gateway-destination-endpoint-subset": value } },
    });
    expect(pipeline.decided[0]?.subset).toEqual(expected);
  });

  it("Protocol 4: reads the served endpoint from the response header message", () => {
    const { open, pipeline } = harness();
    const { post, responseHeaders } = open();
    post();
    responseHeaders({ ":status": "200" }, false, {
      metadata: { "envoy.lb": { "x-gateway-destination-endpoint-served": "10.0.0.9:8000" } },
    });
    expect(pipeline.decided[0]?.exchange[0]).toEqual({ kind: "headers", status: 200, served: "10.0.0.9:8000" });
  });

  it("Protocol 5: reads value where there is no raw_value", () => {
    const { open, pipeline } = harness();
    const { handler, requestBody } = open();
    const header = (key: string, value: string) => ({ key, value, rawValue: Buffer.alloc(0) });
    const headers = { headers: [header(":path", "/v1/completions"), header("X-Request-Id", "from-value")] };
    handler.message(encodeMessage({ $case: "requestHeaders", value: { headers, endOfStream: false } }));
    requestBody('{"model":"llama"}', true);
    expect(pipeline.decided[0]?.request.id).toBe("from-value");
  });

  it("Protocol 5: writes raw_value only", () => {
    const { open } = harness();
    const { stream, post } = open();
    post();
    const response = stream.replies[0]?.response;
    const options =
      response?.$case === "requestHeaders" ? response.value.response?.headerMutation?.setHeaders : undefined;
    expect(options?.[0]?.header).toEqual({
      key: "x-gateway-destination-endpoint",
      value: "",
      rawValue: Buffer.from("10.0.0.1:8000"),
    });
  });

  it("Protocol 6: answers a response phase that has no request phase", () => {
    const { open, pipeline } = harness();
    const { stream, responseHeaders, responseBody } = open();
    responseHeaders();
    responseBody("data: {}\n\n", false);
    responseBody("", true);
    expect(stream.shape).toEqual(["responseHeaders", "responseBody", "responseBody"]);
    expect(chunksOf(stream, "responseBody")).toEqual([
      { body: "data: {}\n\n", endOfStream: false },
      { body: "", endOfStream: true },
    ]);
    expect(pipeline.decided).toEqual([]);
  });

  it("Protocol 7: trailers end a request body and are answered after the body replies", () => {
    const { open } = harness();
    const { stream, requestHeaders, requestBody, requestTrailers } = open();
    requestHeaders();
    requestBody('{"model":"llama"}', false);
    requestTrailers();
    expect(stream.shape).toEqual(["requestHeaders", "requestBody", "requestTrailers"]);
    expect(chunksOf(stream, "requestBody")).toEqual([{ body: '{"model":"llama"}', endOfStream: false }]);
    expect(setHeadersOf(stream.replies[0])["Content-Length"]).toBeUndefined();
  });

  it.each(["", '{"model":"again"}'])("Protocol 8: ignores a second end of stream with body %j", (again) => {
    const { open, pipeline } = harness();
    const { stream, post, requestBody } = open();
    post();
    requestBody(again, true);
    expect(stream.shape).toEqual(["requestHeaders", "requestBody"]);
    expect(pipeline.decided).toHaveLength(1);
  });

  it("Protocol 8: ignores a second end of stream while the decision is pending", () => {
    const { open, pipeline } = harness({ pending: true });
    const { stream, post, requestBody } = open();
    post();
    requestBody("", true);
    pipeline.decided[0]?.finish();
    expect(stream.shape).toEqual(["requestHeaders", "requestBody"]);
  });

  it("Protocol 9: response trailers end the body without end of stream and are answered last", () => {
    const { open, pipeline } = harness();
    const { stream, post, responseHeaders, responseBody, responseTrailers } = open();
    post();
    responseHeaders();
    responseBody("grpc bytes", false);
    responseTrailers();
    expect(stream.shape.slice(2)).toEqual(["responseHeaders", "responseBody", "responseTrailers"]);
    expect(chunksOf(stream, "responseBody")).toEqual([{ body: "grpc bytes", endOfStream: false }]);
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "completed", status: 200 }]);
  });

  it("Protocol 9: bytes that the answer reader held back leave before the trailers reply", () => {
    const { open } = harness({
      deps: {
        createAnswerReader: () => ({
          push: (chunk, endOfStream) => (endOfStream ? [Buffer.from("held")] : [chunk.subarray(0, 1)]),
          usage: () => undefined,
        }),
      },
    });
    const { stream, post, responseHeaders, responseBody, responseTrailers } = open();
    post();
    responseHeaders();
    responseBody("abc", false);
    responseTrailers();
    expect(chunksOf(stream, "responseBody")).toEqual([
      { body: "a", endOfStream: false },
      { body: "held", endOfStream: false },
    ]);
    expect(stream.shape.at(-1)).toBe("responseTrailers");
  });

  it("Protocol 9: with the body hidden, trailers get the trailers reply alone", () => {
    const { open, pipeline } = harness();
    const { stream, post, responseHeaders, responseTrailers } = open();
    post('{"model":"llama"}', { modes: ["FULL_DUPLEX_STREAMED", "NONE"] });
    responseHeaders();
    responseTrailers();
    expect(stream.shape.slice(2)).toEqual(["responseHeaders", "responseTrailers"]);
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "completed", status: 200 }]);
  });

  it("Protocol 10: takes the body that arrives before the header reply, and names one address", () => {
    const { open } = harness();
    const { stream, requestHeaders, requestBody, requestTrailers } = open();
    requestHeaders(postHeaders, false, { modes: ["FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED"] });
    requestBody('{"model":"llama"}', false);
    requestTrailers();
    expect(destinationOf(stream.replies[0])).toBe("10.0.0.1:8000");
  });

  it("Protocol 11: response headers carry the proof header, whatever the mode", () => {
    const { open } = harness({ responseHeaders: [["x-session", "s1"]] });
    const { stream, post, responseHeaders } = open();
    post();
    responseHeaders();
    expect(setHeadersOf(stream.replies[2])).toEqual({ "x-went-into-resp-headers": "true", "x-session": "s1" });
  });

  it("Protocol 12: Content-Length is the length of the body that leaves", () => {
    const { open } = harness({ rewriteTo: "a-longer-model-name" });
    const { stream, post } = open();
    post();
    const leaving = chunksOf(stream, "requestBody")[0]?.body ?? "";
    expect(leaving).toBe('{"model":"a-longer-model-name"}');
    expect(setHeadersOf(stream.replies[0])["Content-Length"]).toBe(String(leaving.length));
  });

  it("Protocol 13: sends real changes only", () => {
    const { open } = harness();
    const { stream, requestHeaders, requestBody } = open();
    requestHeaders({ ...postHeaders, hi: "mom", cookie: "a=b" });
    requestBody('{"model":"llama"}', true);
    expect(Object.keys(setHeadersOf(stream.replies[0]))).toEqual(["x-gateway-destination-endpoint", "Content-Length"]);
  });

  it("Protocol 13: echoes every header but the picker's own when told to", () => {
    const { open } = harness({ deps: { echoRequestHeaders: true } });
    const { stream, requestHeaders, requestBody, responseHeaders } = open();
    requestHeaders({ ...postHeaders, hi: "mom", "x-llm-d-inference-objective": "o", "content-length": "17" });
    requestBody('{"model":"llama"}', true);
    expect(setHeadersOf(stream.replies[0])).toEqual({
      "x-gateway-destination-endpoint": "10.0.0.1:8000",
      "Content-Length": "17",
      ":method": "POST",
      ":path": "/v1/chat/completions?x=1",
      "content-type": "application/json",
      "x-request-id": "r-1",
      hi: "mom",
    });
    responseHeaders({ ":status": "200", "content-type": "application/json", "content-length": "2" });
    expect(setHeadersOf(stream.replies[2])).toEqual({
      "x-went-into-resp-headers": "true",
      ":status": "200",
      "content-type": "application/json",
    });
  });

  it("Protocol 13: echoes the last of a repeated header, and no value that is not UTF-8", () => {
    const { open } = harness({ deps: { echoRequestHeaders: true } });
    const { stream, requestHeaders, requestBody, responseHeaders } = open();
    requestHeaders({ ...postHeaders, note: "caf\ufffd" });
    requestBody('{"model":"llama"}', true);
    expect(setHeadersOf(stream.replies[0])).not.toHaveProperty("note");
    responseHeaders([
      [":status", "200"],
      ["x-went-into-resp-headers", "no"],
      ["set-cookie", "a=1"],
      ["set-cookie", "b=2"],
      ["note", "caf\ufffd"],
    ]);
    expect(setHeadersOf(stream.replies[2])).toEqual({
      "x-went-into-resp-headers": "true",
      ":status": "200",
      "set-cookie": "b=2",
    });
  });

  it("Protocol 16: echoes nothing of a request without a body", () => {
    const { open } = harness({ deps: { echoRequestHeaders: true } });
    const { stream, requestHeaders } = open();
    requestHeaders({ ":method": "GET", ":path": "/v1/models", "x-request-id": "r-1", hi: "mom" }, true);
    expect(Object.keys(setHeadersOf(stream.replies[0]))).toEqual(["x-gateway-destination-endpoint"]);
  });

  it("Protocol 14: the last of a repeated header wins in the lookup, and none is sent back", () => {
    const { open, pipeline } = harness();
    const { requestHeaders, requestBody, stream } = open();
    requestHeaders([...Object.entries(postHeaders), ["cookie", "a=1"], ["cookie", "b=2"]]);
    requestBody('{"model":"llama"}', true);
    expect(pipeline.decided[0]?.request.headers.get("cookie")).toBe("b=2");
    expect(setHeadersOf(stream.replies[0])["cookie"]).toBeUndefined();
  });

  it("Protocol 15: hands an empty header on as present", () => {
    const { open, pipeline } = harness();
    const { requestHeaders, requestBody } = open();
    requestHeaders({ ...postHeaders, "x-llm-d-inference-objective": "", "x-gateway-inference-objective": "old" });
    requestBody('{"model":"llama"}', true);
    expect(pipeline.decided[0]?.request.headers.get("x-llm-d-inference-objective")).toBe("");
  });

  it("Protocol 16: a header-only request obeys the subset and gets a header reply alone", () => {
    const { open, pipeline } = harness();
    const { stream, requestHeaders } = open();
    requestHeaders({ ":method": "GET", ":path": "/v1/models", "x-request-id": "g-1" }, true, {
      metadata: { "envoy.lb.subset_hint": { "x-gateway-destination-endpoint-subset": ["10.0.0.1"] } },
    });
    expect(stream.shape).toEqual(["requestHeaders"]);
    expect(setHeadersOf(stream.replies[0])).toEqual({ "x-gateway-destination-endpoint": "10.0.0.1:8000" });
    expect(pipeline.decided[0]).toMatchObject({ bodyless: true, subset: ["10.0.0.1"] });
    expect(pipeline.decided[0]?.request.path).toBe("/v1/models");
  });

  it("Protocol 16: a header-only request on an empty pool is answered 503 in JSON", () => {
    const { open } = harness({
      rejection: reject("ServiceUnavailable", "no endpoints", { droppedReason: "rejected-no-endpoints" }),
    });
    const { stream, requestHeaders } = open();
    requestHeaders({ ":method": "GET", ":path": "/v1/models" }, true);
    expect(immediateOf(stream)).toEqual({
      status: 503,
      headers: {
        "content-type": "application/json",
        "x-llm-d-request-dropped-reason": "rejected-no-endpoints",
      },
      body: '{"error":{"message":"no endpoints","type":"server_error","code":null,"param":null}}',
    });
  });

  it.each([
    [{ ":status": "200", "content-type": "text/event-stream; charset=utf-8" }, true],
    [{ ":status": "400", "content-type": "application/json" }, false],
    [{ ":status": "200" }, true],
  ])("Protocol 17: what the engine says it sends decides how it is read: %j", (headers, streaming) => {
    const seen: boolean[] = [];
    const { open } = harness({
      deps: {
        createAnswerReader: (options) => {
          seen.push(options.streaming);
          return { push: (chunk) => [chunk], usage: () => undefined };
        },
      },
    });
    const { post, responseHeaders, responseBody } = open();
    post('{"model":"llama","stream":true}');
    responseHeaders(headers);
    responseBody("x", true);
    expect(seen).toEqual([streaming]);
  });

  it("Protocol 18: each chunk of a streaming answer is answered at once by one reply", () => {
    const { open, pipeline } = harness();
    const { stream, post, responseHeaders, responseBody } = open();
    post('{"model":"llama","stream":true}');
    responseHeaders({ ":status": "200", "content-type": "text/event-stream" });
    for (const [index, token] of ["data: a\n\n", 'data: {"usage":7}\n\n'].entries()) {
      responseBody(token, false);
      expect(stream.shape).toHaveLength(4 + index);
    }
    responseBody("", true);
    expect(chunksOf(stream, "responseBody").map((chunk) => chunk.endOfStream)).toEqual([false, false, true]);
    expect(pipeline.decided[0]?.exchange.map((event) => event.kind)).toEqual([
      "headers",
      "firstByte",
      "chunk",
      "chunk",
      "usage",
      "end",
    ]);
  });

  it("Protocol 18: with the body hidden, an answer costs one message and the end of the stream", () => {
    const { open, pipeline, log } = harness();
    const { stream, post, responseHeaders, handler, close } = open();
    post('{"model":"llama"}', { modes: ["FULL_DUPLEX_STREAMED", "NONE"] });
    responseHeaders();
    handler.halfClosed();
    close("ended");
    expect(stream.shape).toEqual(["requestHeaders", "requestBody", "responseHeaders", "end 0"]);
    expect(pipeline.decided[0]?.exchange).toEqual([
      { kind: "headers", status: 200, served: undefined },
      { kind: "firstByte", approximate: true },
      { kind: "end", cause: { kind: "completed", status: 200 } },
    ]);
    expect(log).toEqual([]);
  });

  it("Protocol 19: sends no refusal once a header reply has left", () => {
    const { open } = harness({
      deps: {
        createAnswerReader: () => ({
          push: () => {
            throw new Error("broken reader");
          },
          usage: () => undefined,
        }),
      },
    });
    const { stream, post, responseHeaders, responseBody } = open();
    post();
    responseHeaders();
    responseBody("x", false);
    expect(stream.shape).toEqual(["requestHeaders", "requestBody", "responseHeaders", "reset"]);
  });

  it("Protocol 20: a failure of the picker itself is an answer, never a gRPC error", () => {
    const { open, log } = harness({ throws: true });
    const { stream, post } = open();
    post();
    expect(stream.shape).toEqual(["immediateResponse", "end 0"]);
    expect(immediateOf(stream)?.status).toBe(500);
    expect(log.filter((line) => line.level === "error")).toHaveLength(1);
  });

  it("Protocol 21: in BUFFERED mode the header reply lets the body come and the destination rides on the body reply", () => {
    const { open, pipeline } = harness();
    const { stream, requestHeaders, requestBody, responseHeaders, close } = open();
    requestHeaders({ ...postHeaders, "content-length": "17" }, false, { modes: ["BUFFERED", "NONE"] });
    expect(stream.shape).toEqual(["requestHeaders"]);
    expect(setHeadersOf(stream.replies[0])).toEqual({});
    requestBody('{"model":"llama"}', true);
    const reply = stream.replies[1];
    expect(setHeadersOf(reply)).toEqual({ "x-gateway-destination-endpoint": "10.0.0.1:8000" });
    expect(reply?.dynamicMetadata).toEqual({ "envoy.lb": { "x-gateway-destination-endpoint": "10.0.0.1:8000" } });
    const common = reply?.response?.$case === "requestBody" ? reply.response.value.response : undefined;
    expect(common?.clearRouteCache).toBe(true);
    expect(common?.bodyMutation).toBeUndefined();
    responseHeaders();
    close("reset");
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "completed", status: 200 }]);
  });

  it("Protocol 21: in BUFFERED mode a changed body is replaced whole, with its length", () => {
    const { open } = harness({ rewriteTo: "target-model" });
    const { stream, post } = open();
    const prompt = "p".repeat(100_000);
    post(`{"model":"llama","prompt":"${prompt}"}`, { modes: ["BUFFERED", "NONE"] });
    const response = stream.replies[1]?.response;
    const mutation = response?.$case === "requestBody" ? response.value.response?.bodyMutation?.mutation : undefined;
    const leaving = `{"model":"target-model","prompt":"${prompt}"}`;
    expect(mutation?.$case === "body" ? mutation.value.toString() : undefined).toBe(leaving);
    expect(setHeadersOf(stream.replies[1])["Content-Length"]).toBe(String(leaving.length));
  });

  it("Protocol 21: in BUFFERED mode a body whose trailers follow ends without a flag", () => {
    const { open } = harness();
    const { stream, requestHeaders, requestBody, requestTrailers } = open();
    requestHeaders(postHeaders, false, { modes: ["BUFFERED", "NONE"] });
    requestBody('{"model":"llama"}', false);
    requestTrailers();
    expect(stream.shape).toEqual(["requestHeaders", "requestBody", "requestTrailers"]);
  });

  it("always names the same destinations in header and metadata, fallbacks in order, scores on request", () => {
    const { open } = harness({
      destinations: [endpoint("10.0.0.1"), endpoint("fd00::2", 9000)],
      scores: new Map([["10.0.0.1:8000", 0.5]]),
    });
    const { stream, post } = open();
    post();
    expect(destinationOf(stream.replies[0])).toBe("10.0.0.1:8000,[fd00::2]:9000");
    expect(stream.replies[0]?.dynamicMetadata).toEqual({
      "envoy.lb": {
        "x-gateway-destination-endpoint": "10.0.0.1:8000,[fd00::2]:9000",
        "x-gateway-destination-endpoint-scores": { "10.0.0.1:8000": 0.5 },
      },
    });
  });

  it("removes every order to a Dynamo frontend, known or not, and leaves what a client may say of its request", () => {
    const { open } = harness({ setHeaders: [["x-dynamo-worker-instance-id", "18446744073709551615"]] });
    const { stream, requestHeaders, requestBody } = open();
    requestHeaders({
      ...postHeaders,
      "x-dynamo-worker-instance-id": "1",
      "x-dynamo-prefill-instance-id": "2",
      "x-dynamo-anything-new": "3",
      "x-worker-instance-id": "4",
      "x-prefill-dp-rank": "5",
      "x-dynamo-session-id": "s",
      "x-dynamo-meta-policy-class": "batch",
      "x-dynamo-request-priority": "7",
    });
    requestBody('{"model":"llama"}', true);
    expect(removedHeadersOf(stream.replies[0])).toEqual([
      "x-dynamo-prefill-instance-id",
      "x-dynamo-anything-new",
      "x-worker-instance-id",
      "x-prefill-dp-rank",
    ]);
    expect(setHeadersOf(stream.replies[0])).toMatchObject({ "x-dynamo-worker-instance-id": "18446744073709551615" });
  });

  it("removes a client's own control headers unless a plugin sets them, and leaves the harmless ones", () => {
    const { open } = harness({ setHeaders: [["x-prefiller-host-port", "10.0.0.7:8000"]] });
    const { stream, requestHeaders, requestBody } = open();
    requestHeaders({
      ...postHeaders,
      "x-gateway-destination-endpoint": "6.6.6.6:1",
      "x-gateway-destination-endpoint-subset": "6.6.6.6",
      "x-gateway-destination-endpoint-served": "6.6.6.6:1",
      "x-prefiller-host-port": "6.6.6.6:1",
      "x-data-parallel-host-port": "6.6.6.6:1",
      "x-llm-d-request-dropped-reason": "evicted",
      "x-llm-d-inference-fairness-id": "team-a",
    });
    requestBody('{"model":"llama"}', true);
    expect(removedHeadersOf(stream.replies[0])).toEqual([
      "x-gateway-destination-endpoint-subset",
      "x-gateway-destination-endpoint-served",
      "x-data-parallel-host-port",
      "x-llm-d-request-dropped-reason",
    ]);
    expect(setHeadersOf(stream.replies[0])).toMatchObject({
      "x-gateway-destination-endpoint": "10.0.0.1:8000",
      "x-prefiller-host-port": "10.0.0.7:8000",
    });
  });
});

const parsed = {
  api: "opaque" as const,
  parser: "passthrough-parser",
  model: "",
  modelRange: undefined,
  stream: false,
  maxOutputTokens: undefined,
  user: undefined,
  cacheSalt: undefined,
  nvextRange: undefined,
  prompt: { kind: "opaque" as const },
  readsResponse: false,
};
