/** The order of what a stream reads: what node had queued before there was a handler, and what comes after it. */
import type { Http2Session, ServerHttp2Stream } from "node:http2";
import { Duplex } from "node:stream";
import { describe, expect, it } from "@jest/globals";
import { Http2GrpcStream, type StreamOwner } from "../../../../src/net/grpc/http2-stream.ts";

const owner: StreamOwner = {
  maxMessageBytes: 1_000,
  maxSendMessageBytes: 1_000,
  maxPendingBytes: 1_000,
  receiveAllowance: undefined,
  sendAllowance: undefined,
  onError: (error) => {
    throw error;
  },
  streamEnding: () => {},
  messageUnfinished: () => {},
  messageFinished: () => {},
  streamClosed: () => {},
};

function framed(text: string): Buffer {
  return Buffer.from([0, 0, 0, 0, text.length, ...Buffer.from(text)]);
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

describe("a stream of node:http2", () => {
  it.each([
    ["whole messages", ["a", "b", "c", "d", "e"].map(framed)],
    [
      "messages cut in two",
      [Buffer.concat(["a", "b", "c", "d", "e"].map(framed))].flatMap((all) =>
        [0, 8, 13, 19, 27].map((from, i, cuts) => all.subarray(from, cuts[i + 1])),
      ),
    ],
  ])("hands on in order what came before its handler, in the same tick, and later (%s)", async (_, pieces) => {
    const stream = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() });
    const [first, second, third, ...later] = pieces;
    stream.push(first);
    const heard: string[] = [];
    const ends: string[] = [];
    const grpc = new Http2GrpcStream(stream as ServerHttp2Stream, {} as Http2Session, {}, owner);
    grpc.open({
      message: (bytes) => heard.push(bytes.toString()),
      halfClosed: () => ends.push(heard.join("")),
      closed: () => {},
    });
    // Bytes that JavaScript brings (JSStreamSocket) may come before the tick in which the queue is read.
    stream.push(second);
    stream.push(third);
    await turn();
    for (const piece of later) stream.push(piece);
    stream.push(null);
    await turn();
    expect(heard).toEqual(["a", "b", "c", "d", "e"]);
    expect(ends).toEqual(["abcde"]);
    stream.destroy();
  });
});
