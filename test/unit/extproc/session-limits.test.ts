/** Deadlines, limits and drains: what the session refuses, and what it gives back. */
import { describe, expect, it } from "@jest/globals";
import { chunksOf, encodeMessage, endsOf, harness, immediateOf, postHeaders } from "./session-harness.ts";

describe("the deadline of the request phase", () => {
  it("answers 504 to a body that does not arrive in time", () => {
    const { open, advance, pipeline, factory } = harness({ limits: { requestTimeoutMs: 1_000 } });
    const { stream, requestHeaders, requestBody } = open();
    requestHeaders();
    requestBody('{"model"', false);
    advance(999);
    expect(stream.shape).toEqual([]);
    advance(1);
    expect(stream.shape).toEqual(["immediateResponse", "end 0"]);
    expect(immediateOf(stream)?.status).toBe(504);
    expect(pipeline.refusals.map((refusal) => refusal.rejection.code)).toEqual(["GatewayTimeout"]);
    expect(factory.bufferedBytes).toBe(0);
  });

  it("cancels a decision that takes too long, and answers 504 once", () => {
    const { open, advance, pipeline } = harness({ pending: true, limits: { requestTimeoutMs: 1_000 } });
    const { stream, post } = open();
    post();
    advance(1_000);
    advance(1_000);
    expect(stream.shape).toEqual(["immediateResponse", "end 0"]);
    expect(pipeline.decided[0]?.cancelled).toEqual({ kind: "timeout" });
    expect(pipeline.refusals).toEqual([]);
  });

  it("ends a stream on which nothing came", () => {
    const { open, advance } = harness({ limits: { requestTimeoutMs: 1_000 } });
    const { stream } = open();
    advance(1_000);
    expect(stream.shape).toEqual(["end 4"]);
  });

  it("does not bound an answer", () => {
    const { open, advance, factory } = harness({ limits: { requestTimeoutMs: 1_000 } });
    const { stream, post, responseHeaders } = open();
    expect(factory.waiting).toBe(1);
    post();
    expect(factory.waiting).toBe(0);
    responseHeaders();
    advance(1_000_000);
    expect(stream.shape).toEqual(["requestHeaders", "requestBody", "responseHeaders"]);
  });

  it("expires the oldest only, in the order they came", () => {
    const { open, advance } = harness({ limits: { requestTimeoutMs: 1_000 } });
    const first = open();
    first.requestHeaders();
    advance(600);
    const second = open();
    second.requestHeaders();
    advance(400);
    expect([first.stream.shape.length, second.stream.shape.length]).toEqual([2, 0]);
    advance(600);
    expect(second.stream.shape).toEqual(["immediateResponse", "end 0"]);
  });
});

describe("the limits of a request", () => {
  it.each([
    ["announced", { "content-length": "101" }, ""],
    ["received", {}, "x".repeat(101)],
  ])("answers 413 to a body that is %s larger than the limit", (_name, headers, body) => {
    const { open, pipeline, factory } = harness({ limits: { maxRequestBodyBytes: 100 } });
    const { stream, requestHeaders, requestBody } = open();
    requestHeaders({ ...postHeaders, ...headers });
    requestBody(body.slice(0, 60), false);
    requestBody(body.slice(60), false);
    requestBody("", true);
    expect(stream.shape).toEqual(["immediateResponse", "end 0"]);
    expect(immediateOf(stream)?.status).toBe(413);
    expect(pipeline.refusals.map((refusal) => refusal.rejection.code)).toEqual(["PayloadTooLarge"]);
    expect(factory.bufferedBytes).toBe(0);
  });

  it("answers 413 in BUFFERED mode before the body is sent", () => {
    const { open } = harness({ limits: { maxRequestBodyBytes: 100 } });
    const { stream, requestHeaders } = open();
    requestHeaders({ ...postHeaders, "content-length": "101" }, false, { modes: ["BUFFERED", "NONE"] });
    expect(stream.shape).toEqual(["immediateResponse", "end 0"]);
  });

  it("takes a body of exactly the limit", () => {
    const { open } = harness({ limits: { maxRequestBodyBytes: 17 } });
    const { stream, post } = open();
    post('{"model":"llama"}');
    expect(stream.shape).toEqual(["requestHeaders", "requestBody"]);
  });

  it("answers 431 to headers beyond the limit", () => {
    const { open } = harness({ limits: { maxHeaderBytes: 200 } });
    const { stream, requestHeaders } = open();
    requestHeaders({ ...postHeaders, padding: "x".repeat(200) });
    expect(immediateOf(stream)?.status).toBe(431);
  });

  it("answers 503 with Retry-After when all sessions together hold too much, and takes more once they gave it back", () => {
    const { open, factory } = harness({ pending: true, limits: { maxBufferedBytes: 30 } });
    const first = open();
    first.post('{"model":"llama"}');
    expect(factory.bufferedBytes).toBe(17);
    const second = open();
    second.post('{"model":"llama"}');
    expect(immediateOf(second.stream)).toMatchObject({ status: 503, headers: { "retry-after": "1" } });
    expect(factory.bufferedBytes).toBe(17);
    first.close("reset");
    expect(factory.bufferedBytes).toBe(0);
    const third = open();
    third.post('{"model":"llama"}');
    expect(third.stream.shape).toEqual([]);
    expect(factory.bufferedBytes).toBe(17);
  });

  it("gives the body back when the answer begins", () => {
    const { open, factory, pipeline } = harness();
    const { post, responseHeaders } = open();
    post('{"model":"llama"}');
    expect([factory.bufferedBytes, pipeline.decided[0]?.request.body.length]).toEqual([17, 17]);
    responseHeaders();
    expect([factory.bufferedBytes, pipeline.decided[0]?.request.body.length]).toEqual([0, 0]);
  });

  it("resets a stream whose replies are not read, and ends its exchange", () => {
    const { open, pipeline } = harness({ limits: { maxPendingReplyBytes: 1_000 } });
    const { stream, post, responseHeaders, responseBody } = open();
    post();
    responseHeaders();
    stream.pendingBytes = 1_001;
    responseBody("more", false);
    expect(stream.shape.at(-1)).toBe("reset");
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "error" }]);
  });

  it("ends only the stream whose message is malformed, with INVALID_ARGUMENT before any reply", () => {
    const { open, log } = harness();
    const healthy = open();
    healthy.requestHeaders();
    const broken = open();
    broken.handler.message(Buffer.from([0x12, 0xff]));
    expect(broken.stream.shape).toEqual(["end 3"]);
    healthy.requestBody('{"model":"llama"}', true);
    expect(healthy.stream.shape).toEqual(["requestHeaders", "requestBody"]);
    expect(log.filter((line) => line.level === "error")).toEqual([]);
  });

  it("resets a stream that has its header reply when a message is malformed", () => {
    const { open, pipeline } = harness();
    const { stream, post, handler } = open();
    post();
    handler.message(Buffer.from([0x12, 0xff]));
    expect(stream.shape).toEqual(["requestHeaders", "requestBody", "reset"]);
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "error" }]);
  });

  it("refuses a broken request body and counts it as one the pipeline never saw", () => {
    const { open, pipeline } = harness();
    const { stream, post } = open();
    post("not json");
    expect(immediateOf(stream)?.status).toBe(400);
    expect(pipeline.refusals.map((refusal) => refusal.rejection.errorCode)).toEqual(["invalid_json"]);
  });

  it("is answered 500 when its body cannot be written, and its exchange ends", () => {
    const { open, pipeline } = harness({
      deps: {
        outgoingBody: () => {
          throw new Error("broken splice");
        },
      },
    });
    const { stream, post } = open();
    post();
    expect(stream.shape).toEqual(["immediateResponse", "end 0"]);
    expect(immediateOf(stream)?.status).toBe(500);
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "error" }]);
  });

  it("gives back what a pipeline books after it was cancelled", () => {
    const { open, pipeline } = harness({ pending: true, ignoresCancel: true });
    const { stream, post, handler } = open();
    post();
    handler.halfClosed();
    pipeline.decided[0]?.finish();
    expect(stream.shape).toEqual(["end 0"]);
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "client-gone" }]);
  });

  it("ignores what repeats the end of an answer", () => {
    const { open } = harness();
    const { stream, post, responseHeaders, responseBody } = open();
    post();
    responseHeaders();
    responseBody("abc", true);
    responseBody("", true);
    responseHeaders();
    expect(stream.shape).toEqual(["requestHeaders", "requestBody", "responseHeaders", "responseBody"]);
  });

  it("answers nothing in observability mode and keeps nothing", () => {
    const { open, pipeline, factory, advance } = harness({ limits: { requestTimeoutMs: 100 } });
    const { stream, requestHeaders, requestBody, responseHeaders } = open();
    requestHeaders(postHeaders, false, { observability: true });
    requestBody('{"model":"llama"}', true, { observability: true });
    responseHeaders();
    advance(1_000);
    expect([stream.shape, pipeline.decided, factory.bufferedBytes]).toEqual([[], [], 0]);
  });

  it("skips members of the protocol that it does not know", () => {
    const { open } = harness();
    const { stream, handler, post } = open();
    handler.message(Buffer.from([0x7a, 0x02, 0x08, 0x01]));
    post();
    expect(stream.shape).toEqual(["requestHeaders", "requestBody"]);
  });
});

describe("draining", () => {
  it("ends streams with a hidden answer with OK, now and as soon as their request has left", () => {
    const { open, factory, pipeline } = harness({ pending: true });
    const routed = open();
    const waiting = open();
    for (const { post } of [routed, waiting]) {
      post('{"model":"llama"}', { modes: ["FULL_DUPLEX_STREAMED", "NONE"] });
    }
    pipeline.decided[0]?.finish();
    routed.responseHeaders();
    factory.releaseBodyless();
    expect(routed.stream.shape).toEqual(["requestHeaders", "requestBody", "responseHeaders", "end 0"]);
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "shutdown" }]);
    expect(waiting.stream.shape).toEqual([]);
    pipeline.decided[1]?.finish();
    expect(waiting.stream.shape).toEqual(["requestHeaders", "requestBody", "end 0"]);
  });

  it("serves duplex answers to their end", () => {
    const { open, factory, pipeline } = harness();
    const { stream, post, responseHeaders, responseBody } = open();
    post();
    responseHeaders();
    factory.releaseBodyless();
    responseBody("abc", true);
    expect(chunksOf(stream, "responseBody")).toEqual([{ body: "abc", endOfStream: true }]);
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "completed", status: 200 }]);
  });

  it("at the close refuses what waits and resets what is being answered", () => {
    const { open, factory, pipeline } = harness({ pending: true });
    const silent = open();
    const collecting = open();
    collecting.requestHeaders();
    const answering = open();
    answering.post();
    pipeline.decided[0]?.finish();
    answering.responseHeaders();
    const deciding = open();
    deciding.post();
    factory.close();
    expect(silent.stream.shape).toEqual(["end 14"]);
    expect(immediateOf(collecting.stream)).toMatchObject({
      status: 503,
      headers: { "x-llm-d-request-dropped-reason": "rejected-shutting-down" },
    });
    expect(immediateOf(deciding.stream)?.status).toBe(503);
    expect(pipeline.decided[1]?.cancelled).toEqual({ kind: "shutdown" });
    expect(answering.stream.shape.at(-1)).toBe("reset");
    expect(endsOf(pipeline.decided[0])).toEqual([{ kind: "shutdown" }]);
    expect(factory.bufferedBytes).toBe(0);
    const late = open();
    expect(late.stream.shape).toEqual(["end 14"]);
  });

  it("counts streams until they are closed", () => {
    const { open, factory } = harness();
    const { post, close } = open();
    open();
    post();
    expect(factory.open).toBe(2);
    close("reset");
    expect(factory.open).toBe(1);
  });
});

describe("a stream that opens without a header message", () => {
  it("is refused in duplex mode, where no reply could name a destination", () => {
    const { open } = harness();
    const { stream, requestBody } = open();
    requestBody('{"model":"llama"}', true, { modes: ["FULL_DUPLEX_STREAMED", "NONE"] });
    expect(immediateOf(stream)?.status).toBe(500);
  });

  it("is routed on the body reply in BUFFERED mode, as a completion", () => {
    const { open, pipeline } = harness();
    const { stream, handler } = open();
    const value = {
      body: Buffer.from('{"model":"llama"}'),
      endOfStream: true,
      endOfStreamWithoutMessage: false,
      grpcMessageCompressed: false,
    };
    handler.message(encodeMessage({ $case: "requestBody", value }, { modes: ["BUFFERED", "NONE"] }));
    expect(stream.shape).toEqual(["requestBody"]);
    expect(pipeline.decided[0]?.request.path).toBe("/v1/completions");
  });
});
