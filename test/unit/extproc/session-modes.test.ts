/** Body modes other than full duplex, request identity, tracing, and how streams end. */
import { describe, expect, it } from "@jest/globals";
import type { BodyMode } from "../../../src/extproc/messages.ts";
import type { EndCause } from "../../../src/extproc/session-deps.ts";
import {
  chunksOf,
  endsOf,
  type HarnessOptions,
  harness,
  immediateOf,
  type Opened,
  postHeaders,
  removedHeadersOf,
  setHeadersOf,
} from "./session-harness.ts";

describe("request body modes that hide the body", () => {
  it("routes on headers alone with NONE, says so once, and counts every time", () => {
    const { open, pipeline, log, lacks } = harness();
    for (let i = 0; i < 2; i++) {
      const { stream, requestHeaders } = open();
      requestHeaders(postHeaders, false, { modes: ["NONE", "NONE"] });
      expect(stream.shape).toEqual(["requestHeaders"]);
      expect(setHeadersOf(stream.replies[0])).toEqual({ "x-gateway-destination-endpoint": "10.0.0.1:8000" });
    }
    expect(pipeline.decided.map(({ bodyless, bodyLength }) => [bodyless, bodyLength])).toEqual([
      [false, 0],
      [false, 0],
    ]);
    expect(lacks).toEqual(["request-body", "request-body"]);
    expect(log.filter((line) => line.level === "warn")).toHaveLength(1);
  });

  it("leaves each chunk unchanged with STREAMED", () => {
    const { open } = harness();
    const { stream, requestHeaders, requestBody } = open();
    requestHeaders(postHeaders, false, { modes: ["STREAMED", "NONE"] });
    requestBody("abc", false);
    requestBody("def", true);
    expect(stream.shape).toEqual(["requestHeaders", "requestBody", "requestBody"]);
    expect(chunksOf(stream, "requestBody")).toEqual([]);
  });

  it("answers STREAMED chunks and trailers that came early only after the header reply", () => {
    const { open, pipeline } = harness({ pending: true });
    const { stream, requestHeaders, requestBody, requestTrailers } = open();
    requestHeaders(postHeaders, false, { modes: ["STREAMED", "NONE"] });
    requestBody("abc", false);
    requestTrailers();
    expect(stream.shape).toEqual([]);
    pipeline.decided[0]?.finish();
    expect(stream.shape).toEqual(["requestHeaders", "requestBody", "requestTrailers"]);
  });
});

describe("BUFFERED_PARTIAL", () => {
  it("routes a body that the gateway cut on headers alone, unchanged", () => {
    const { open, pipeline, lacks } = harness();
    const { stream, requestHeaders, requestBody } = open();
    requestHeaders(postHeaders, false, { modes: ["BUFFERED_PARTIAL", "NONE"] });
    requestBody('{"model":"lla', false);
    expect(stream.shape).toEqual(["requestHeaders", "requestBody"]);
    expect(setHeadersOf(stream.replies[1])).toEqual({ "x-gateway-destination-endpoint": "10.0.0.1:8000" });
    expect(pipeline.decided[0]?.bodyLength).toBe(0);
    expect(lacks).toEqual(["request-body"]);
  });

  it("refuses a whole body that is broken", () => {
    const { open } = harness();
    const { stream, post } = open();
    post('{"model":"lla', { modes: ["BUFFERED_PARTIAL", "NONE"] });
    expect(immediateOf(stream)?.status).toBe(400);
  });
});

function answered(responseMode: BodyMode, options: HarnessOptions = {}) {
  const { open, ...rest } = harness(options);
  const opened = open();
  opened.post('{"model":"llama"}', { modes: ["FULL_DUPLEX_STREAMED", responseMode] });
  return { ...opened, ...rest };
}

const bodyMutationOf = (opened: Opened, index: number) => {
  const response = opened.stream.replies[index]?.response;
  const mutation = response?.$case === "responseBody" ? response.value.response?.bodyMutation?.mutation : undefined;
  return mutation?.$case === "body" ? mutation.value.toString() : mutation?.$case;
};

describe("response body modes", () => {
  it("restores the model in full duplex and drops the engine's content-length", () => {
    const opened = answered("FULL_DUPLEX_STREAMED", { rewriteTo: "target" });
    opened.responseHeaders({ ":status": "200", "content-type": "application/json", "content-length": "18" });
    expect(removedHeadersOf(opened.stream.replies[2])).toEqual(["content-length"]);
    opened.responseBody('{"model":"target"}', true);
    expect(chunksOf(opened.stream, "responseBody")).toEqual([{ body: '{"model":"llama"}', endOfStream: true }]);
  });

  it("keeps the engine's content-length where nothing is restored", () => {
    const opened = answered("FULL_DUPLEX_STREAMED");
    opened.responseHeaders({ ":status": "200", "content-length": "18" });
    expect(removedHeadersOf(opened.stream.replies[2])).toEqual([]);
  });

  it.each<BodyMode>(["STREAMED", "BUFFERED"])("leaves an answer unchanged with %s when nothing is restored", (mode) => {
    const opened = answered(mode);
    opened.responseHeaders();
    opened.responseBody('{"usage":5}', true);
    expect(bodyMutationOf(opened, 3)).toBeUndefined();
    expect(endsOf(opened.pipeline.decided[0])).toEqual([{ kind: "completed", status: 200 }]);
    expect(opened.pipeline.decided[0]?.exchange).toContainEqual({
      kind: "usage",
      usage: { promptTokens: 5, completionTokens: undefined, totalTokens: undefined, cachedTokens: undefined },
    });
  });

  it("replaces a chunk with STREAMED", () => {
    const opened = answered("STREAMED", { rewriteTo: "target" });
    opened.responseHeaders();
    opened.responseBody('{"model":"target"', false);
    opened.responseBody("}", true);
    expect([bodyMutationOf(opened, 3), bodyMutationOf(opened, 4)]).toEqual(['{"model":"llama"', undefined]);
  });

  it("replaces the whole answer with BUFFERED and corrects its length", () => {
    const opened = answered("BUFFERED", { rewriteTo: "target" });
    opened.responseHeaders({ ":status": "200", "content-length": "18" });
    expect(removedHeadersOf(opened.stream.replies[2])).toEqual([]);
    opened.responseBody('{"model":"target"}', true);
    expect(bodyMutationOf(opened, 3)).toBe('{"model":"llama"}');
    expect(setHeadersOf(opened.stream.replies[3])).toEqual({ "content-length": "17" });
  });

  it("says once that a hidden answer keeps the target model's name", () => {
    const opened = answered("NONE", { rewriteTo: "target" });
    expect(opened.lacks).toEqual(["model-restore"]);
    expect(opened.log.map((line) => line.level)).toEqual(["warn"]);
  });

  it("splits an answer's chunk that is larger than a reply may be", () => {
    const opened = answered("FULL_DUPLEX_STREAMED");
    opened.responseHeaders();
    opened.responseBody("x".repeat(62_001), true);
    expect(chunksOf(opened.stream, "responseBody").map((chunk) => [chunk.body.length, chunk.endOfStream])).toEqual([
      [62_000, false],
      [1, true],
    ]);
  });

  it("reads nothing of an answer whose dialect holds nothing", () => {
    let made = 0;
    const opened = answered("FULL_DUPLEX_STREAMED", {
      deps: {
        parse: () => ({
          api: "anthropic-count-tokens",
          parser: "anthropic-parser",
          model: "llama",
          modelRange: undefined,
          stream: false,
          maxOutputTokens: undefined,
          user: undefined,
          cacheSalt: undefined,
          nvextRange: undefined,
          prompt: { kind: "opaque" },
          readsResponse: false,
        }),
        createAnswerReader: () => {
          made++;
          return { push: (chunk) => [chunk], usage: () => undefined };
        },
      },
    });
    opened.responseHeaders();
    opened.responseBody("{}", true);
    expect([made, chunksOf(opened.stream, "responseBody").length]).toEqual([0, 1]);
  });
});

describe("the ends of a stream", () => {
  interface EndCase {
    readonly name: string;
    readonly mode: BodyMode;
    readonly act: (opened: Opened) => void;
    readonly cause: EndCause;
  }
  const completed: EndCause = { kind: "completed", status: 200 };
  const gone: EndCause = { kind: "client-gone" };
  const cases: readonly EndCase[] = [
    {
      name: "duplex: reset after the final end of stream is a finished answer",
      mode: "FULL_DUPLEX_STREAMED",
      act: (o) => {
        o.responseHeaders();
        o.responseBody("", true);
        o.close("reset");
      },
      cause: completed,
    },
    {
      name: "duplex: half-close and reset before an end of stream is a client that left",
      mode: "FULL_DUPLEX_STREAMED",
      act: (o) => {
        o.responseHeaders();
        o.responseBody("data", false);
        o.handler.halfClosed();
        o.close("reset");
      },
      cause: gone,
    },
    {
      name: "duplex: reset before an end of stream is a client that left",
      mode: "FULL_DUPLEX_STREAMED",
      act: (o) => {
        o.responseHeaders();
        o.close("reset");
      },
      cause: gone,
    },
    {
      name: "duplex: response headers with end of stream finish an answer without a body",
      mode: "FULL_DUPLEX_STREAMED",
      act: (o) => o.responseHeaders({ ":status": "204" }, true),
      cause: { kind: "completed", status: 204 },
    },
    {
      name: "duplex: the status decides success",
      mode: "FULL_DUPLEX_STREAMED",
      act: (o) => {
        o.responseHeaders({ ":status": "500" });
        o.responseBody("oops", true);
      },
      cause: { kind: "failed", status: 500 },
    },
    {
      name: "NONE: half-close after response headers is a finished answer",
      mode: "NONE",
      act: (o) => {
        o.responseHeaders();
        o.handler.halfClosed();
        o.close("ended");
      },
      cause: completed,
    },
    {
      name: "NONE: reset alone after response headers is a finished answer",
      mode: "NONE",
      act: (o) => {
        o.responseHeaders();
        o.close("reset");
      },
      cause: completed,
    },
    {
      name: "NONE: a refused upstream is a failure",
      mode: "NONE",
      act: (o) => {
        o.responseHeaders({ ":status": "503" });
        o.handler.halfClosed();
      },
      cause: { kind: "failed", status: 503 },
    },
    {
      name: "NONE: an end before response headers is a client that left",
      mode: "NONE",
      act: (o) => {
        o.handler.halfClosed();
        o.close("reset");
      },
      cause: gone,
    },
    {
      name: "NONE: a lost connection is no finished answer",
      mode: "NONE",
      act: (o) => {
        o.responseHeaders();
        o.close("connection-lost");
      },
      cause: gone,
    },
  ];

  it.each(cases)("$name", ({ mode, act, cause }) => {
    const opened = answered(mode);
    act(opened);
    expect(endsOf(opened.pipeline.decided[0])).toEqual([cause]);
    expect(opened.log).toEqual([]);
    opened.close("reset");
    expect(endsOf(opened.pipeline.decided[0])).toEqual([cause]);
  });

  it.each(["half-close", "reset"])("a %s while the decision is pending leaves the queue", (how) => {
    const { open, pipeline, factory, log } = harness({ pending: true });
    const { stream, post, handler, close } = open();
    post();
    if (how === "half-close") handler.halfClosed();
    close("reset");
    expect(pipeline.decided[0]?.cancelled).toEqual({ kind: "client-gone" });
    expect(stream.replies).toEqual([]);
    expect([factory.bufferedBytes, factory.open, log]).toEqual([0, 0, []]);
  });

  it("an answer that the gateway gives by itself ends the wait for a decision", () => {
    const { open, pipeline } = harness({ pending: true });
    const { stream, post, responseHeaders, responseBody } = open();
    post();
    responseHeaders({ ":status": "504" });
    responseBody("timeout", true);
    expect(pipeline.decided[0]?.cancelled).toEqual({ kind: "client-gone" });
    expect(stream.shape).toEqual(["responseHeaders", "responseBody"]);
  });
});

describe("the identity of a request", () => {
  it("keeps a request id and sets none", () => {
    const { open, pipeline } = harness();
    const { stream, post } = open();
    post();
    expect(pipeline.decided[0]?.request.id).toBe("r-1");
    expect(setHeadersOf(stream.replies[0])["x-request-id"]).toBeUndefined();
  });

  it.each([[{}], [{ "x-request-id": "" }]])("mints a UUIDv4 for %j and sets it upstream", (headers) => {
    const { open, pipeline } = harness();
    const { stream, requestHeaders, requestBody } = open();
    requestHeaders({ ":path": "/v1/completions", ...headers });
    requestBody('{"model":"llama"}', true);
    const id = pipeline.decided[0]?.request.id;
    expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(setHeadersOf(stream.replies[0])["x-request-id"]).toBe(id);
  });

  it.each([
    [{ ":path": "/a?b=c", "x-original-path": "/o" }, "/a"],
    [{ ":path": "", "x-original-path": "/o?q" }, "/o"],
    [{ "x-forwarded-path": "/f" }, "/f"],
    [{}, "/v1/completions"],
  ])("reads the path of %j as %s", (headers, path) => {
    const { open, pipeline } = harness();
    open().requestHeaders(headers, true);
    expect(pipeline.decided[0]?.request.path).toBe(path);
  });

  it("passes the trace on and ends it once, with what went wrong", () => {
    const ends: (string | undefined)[] = [];
    const { open } = harness({
      deps: {
        startTrace: () => ({ headers: [["traceparent", "00-1-2-01"]], end: (error) => ends.push(error) }),
      },
    });
    const good = open();
    good.post();
    expect(setHeadersOf(good.stream.replies[0])["traceparent"]).toBe("00-1-2-01");
    good.responseHeaders({ ":status": "200" }, true);
    good.close("reset");
    const bad = open();
    bad.post("not json");
    bad.close("ended");
    const left = open();
    left.post();
    left.handler.halfClosed();
    left.close("reset");
    expect(ends).toEqual([undefined, "BadRequest", "client-gone"]);
  });

  it("answers in the reference's words with the text format", () => {
    const { open } = harness({ deps: { errorFormat: "text" } });
    const { stream, post } = open();
    post("not json");
    expect(immediateOf(stream)).toEqual({
      status: 400,
      headers: { "content-type": "text/plain" },
      body: "inference error: BadRequest - the body is not valid JSON",
    });
  });
});
