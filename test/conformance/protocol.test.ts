/** The stream's rules as a gateway meets them, asked of the running process: order, modes, trailers, limits and the codes of refusals. */
import { status } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import type { ProtocolConfiguration } from "../../src/gen/external_processor.ts";
import { eventually } from "../stack.ts";
import {
  type MessageOptions,
  type Reply,
  requestBody,
  requestHeaders,
  requestTrailers,
  responseBody,
  responseHeaders,
  responseTrailers,
} from "./ext-proc-client.ts";
import { type Picker, startPicker } from "./picker.ts";

const modes = { NONE: 0, STREAMED: 1, BUFFERED: 2, FULL_DUPLEX_STREAMED: 4 } as const;
const modesOf = (request: keyof typeof modes, response: keyof typeof modes): ProtocolConfiguration => ({
  requestBodyMode: modes[request],
  responseBodyMode: modes[response],
  sendBodyWithoutWaitingForHeaderResponse: false,
});
const duplex: MessageOptions = { protocolConfig: modesOf("FULL_DUPLEX_STREAMED", "FULL_DUPLEX_STREAMED"), raw: true };
const post = { ":method": "POST", ":path": "/v1/completions", "x-request-id": "id" };
const body = '{"model":"m","prompt":"p"}';
const kinds = (replies: readonly Reply[]): string[] => replies.map(({ kind }) => kind);

describe.each(["http2", "grpc-js"] as const)("over %s", (transport) => {
  let picker: Picker;
  let tight: Picker;
  beforeAll(async () => {
    [picker, tight] = await Promise.all([
      startPicker({ transport, tls: false, engines: 1 }),
      startPicker({
        transport,
        tls: false,
        engines: 1,
        args: [
          "--max-request-body-bytes=100000",
          "--max-buffered-bytes=150000",
          "--max-header-bytes=4096",
          "--request-timeout=600ms",
        ],
      }),
    ]);
  }, 30_000);
  afterAll(async () => {
    await Promise.all([picker.close(), tight.close()]);
  });

  it("says nothing before the whole body is in", async () => {
    const conversation = picker.extProc.open();
    conversation.send(requestHeaders(post, duplex), requestBody(body.slice(0, 5), { endOfStream: false }));
    await eventually("the stream is known", async () => {
      const { streams } = await picker.debug<{ streams: { bufferedBytes: number } }>("/debug/exchanges");
      return streams.bufferedBytes === 5;
    });
    expect(conversation.replies).toEqual([]);
    conversation.send(requestBody(body.slice(5)));
    expect(kinds(await conversation.replied(2))).toEqual(["requestHeaders", "requestBody"]);
    conversation.cancel();
  });

  it("agentgateway's way: trailers end a body that has no end of stream", async () => {
    const replies = await picker.extProc.exchange(
      [requestHeaders(post, duplex), requestBody(body, { endOfStream: false }), requestTrailers],
      3,
    );
    expect(kinds(replies)).toEqual(["requestHeaders", "requestBody", "requestTrailers"]);
    expect(replies[1]).toEqual({ kind: "requestBody", body, endOfStream: false });
  });

  it("ignores a second end of stream and goes on with the answer", async () => {
    const replies = await picker.extProc.exchange(
      [
        requestHeaders(post, duplex),
        requestBody(body),
        requestBody(body),
        requestBody(""),
        responseHeaders({ ":status": "200" }),
        responseBody("{}", { endOfStream: true }),
      ],
      4,
    );
    expect(kinds(replies)).toEqual(["requestHeaders", "requestBody", "responseHeaders", "responseBody"]);
  });

  it("answers response trailers after the body, which ends without end of stream", async () => {
    const replies = await picker.extProc.exchange(
      [
        requestHeaders(post, duplex),
        requestBody(body),
        responseHeaders({ ":status": "200" }),
        responseBody("{}"),
        responseTrailers,
      ],
      5,
    );
    expect(kinds(replies).slice(2)).toEqual(["responseHeaders", "responseBody", "responseTrailers"]);
    expect(replies[3]).toMatchObject({ endOfStream: false });
  });

  it("sends a long body back in chunks of at most 62,000 bytes, unchanged", async () => {
    const long = `{"model":"m","prompt":"${"é".repeat(100_000)}"}`;
    const conversation = picker.extProc.open();
    conversation.send(requestHeaders(post, duplex), requestBody(long));
    const replies = await conversation.replied(5);
    conversation.cancel();
    expect(conversation.bodySizes).toEqual([62_000, 62_000, 62_000, Buffer.byteLength(long) - 186_000]);
    const ends = replies.flatMap((reply) => (reply.kind === "requestBody" ? [reply.endOfStream] : []));
    expect(ends).toEqual([false, false, false, true]);
  });

  it("with a BUFFERED request the destination rides on the body reply and the body stays", async () => {
    const conversation = picker.extProc.open();
    const buffered = { protocolConfig: modesOf("BUFFERED", "NONE"), raw: true };
    conversation.send(requestHeaders({ ...post, "content-length": String(body.length) }, buffered));
    expect(kinds(await conversation.replied(1))).toEqual(["requestHeaders"]);
    conversation.send(requestBody(body));
    const [, reply] = await conversation.replied(2);
    const destination = picker.engines[0]?.address ?? "";
    expect(reply).toEqual({
      kind: "wholeRequestBody",
      set: { "x-gateway-destination-endpoint": destination },
      body: undefined,
      metadata: { "envoy.lb": { "x-gateway-destination-endpoint": destination } },
    });
    conversation.cancel();
  });

  it("a half-close is the normal end: the stream ends OK and nothing stays open", async () => {
    const conversation = picker.extProc.open();
    conversation.send(
      requestHeaders(post, { ...duplex, protocolConfig: modesOf("FULL_DUPLEX_STREAMED", "NONE") }),
      requestBody(body),
    );
    await conversation.replied(2);
    conversation.halfClose();
    expect(await conversation.ended()).toBe(status.OK);
    await eventually("nothing open", async () => (await picker.debug<{ open: number }>("/debug/exchanges")).open === 0);
  });

  it("refuses a message that is no ProcessingRequest without harm to other streams", async () => {
    const other = picker.extProc.open();
    other.send(requestHeaders(post, duplex));
    expect(await picker.extProc.garbage(Buffer.from([0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]))).toBe(
      status.INVALID_ARGUMENT,
    );
    other.send(requestBody(body));
    expect(kinds(await other.replied(2))).toEqual(["requestHeaders", "requestBody"]);
    other.cancel();
  });

  it("answers UNIMPLEMENTED to a method it does not have", async () => {
    expect(await picker.extProc.garbage(Buffer.alloc(0), "/envoy.service.ext_proc.v3.ExternalProcessor/Other")).toBe(
      status.UNIMPLEMENTED,
    );
  });

  it.each<[string, () => Promise<readonly Reply[]>, number, string]>([
    [
      "a body above --max-request-body-bytes",
      () => tight.extProc.exchange([requestHeaders(post, duplex), requestBody("x".repeat(100_001))], 1),
      413,
      "request_too_large",
    ],
    [
      "a body whose announced length is above --max-request-body-bytes, before it comes",
      () => tight.extProc.exchange([requestHeaders({ ...post, "content-length": "100001" }, duplex)], 1),
      413,
      "request_too_large",
    ],
    [
      "headers above --max-header-bytes",
      () =>
        tight.extProc.exchange(
          [requestHeaders({ ...post, "x-long": "y".repeat(5_000) }, duplex), requestBody(body)],
          1,
        ),
      431,
      "",
    ],
    [
      "a body that does not come within --request-timeout",
      () => tight.extProc.exchange([requestHeaders(post, duplex)], 1),
      504,
      "request_timeout",
    ],
  ])("refuses %s", async (_what, ask, code, errorCode) => {
    const replies = await ask();
    expect(replies).toHaveLength(1);
    const [reply] = replies;
    expect(reply).toMatchObject({ kind: "immediate", status: code, set: { "content-type": "application/json" } });
    if (reply?.kind === "immediate" && errorCode !== "") {
      expect(JSON.parse(reply.body)).toMatchObject({ error: { code: errorCode } });
    }
  });

  it("refuses with 503 what would hold more than --max-buffered-bytes in total, and takes it once there is room", async () => {
    const first = tight.extProc.open();
    first.send(requestHeaders(post, duplex), requestBody("x".repeat(90_000), { endOfStream: false }));
    await eventually("the bytes are held", async () => {
      const { streams } = await tight.debug<{ streams: { bufferedBytes: number } }>("/debug/exchanges");
      return streams.bufferedBytes === 90_000;
    });
    const long = `{"model":"m","prompt":"${"z".repeat(80_000)}"}`;
    const [refused] = await tight.extProc.exchange([requestHeaders(post, duplex), requestBody(long)], 1);
    expect(refused).toMatchObject({ kind: "immediate", status: 503, set: { "retry-after": "1" } });
    first.cancel();
    await eventually("the bytes are given back", async () => {
      const { streams } = await tight.debug<{ streams: { bufferedBytes: number } }>("/debug/exchanges");
      return streams.bufferedBytes === 0;
    });
    expect(kinds(await tight.extProc.exchange([requestHeaders(post, duplex), requestBody(long)], 2))[0]).toBe(
      "requestHeaders",
    );
  });
});
