import { describe, expect, it } from "@jest/globals";
import { countingStreams } from "../../../src/app/stream-metrics.ts";
import {
  type GrpcStream,
  type GrpcStreamHandler,
  grpcStatus,
  type StreamCloseCause,
} from "../../../src/net/grpc/transport.ts";
import { createFamilies } from "../../../src/telemetry/catalogue.ts";

function start() {
  const families = createFamilies();
  const calls: string[] = [];
  let session: GrpcStream | undefined;
  let nowMs = 0;
  const open = countingStreams(
    (stream): GrpcStreamHandler => {
      session = stream;
      return {
        message: (bytes) => calls.push(`message ${bytes.length}`),
        unreadable: (why) => {
          calls.push(`unreadable ${why}`);
          return why === "too-large";
        },
        halfClosed: () => calls.push("halfClosed"),
        drained: () => calls.push("drained"),
        closed: (cause) => calls.push(`closed ${cause}`),
      };
    },
    families,
    () => nowMs,
  );
  const transport: GrpcStream = {
    metadata: (name) => `${name}!`,
    send: (parts) => calls.push(`send ${parts.length}`),
    end: (status, message) => calls.push(`end ${status} ${message ?? ""}`),
    reset: () => calls.push("reset"),
    pendingBytes: 7,
  };
  const handler = open(transport);
  if (session === undefined) throw new Error("no session");
  return {
    families,
    calls,
    session,
    handler,
    wait: (ms: number) => {
      nowMs += ms;
    },
    codes: () => [...families.streams.all()].map(({ labelValues, value }) => [labelValues[0], value]),
  };
}

describe("counting ext-proc streams", () => {
  it("passes everything on, both ways", () => {
    const { session, handler, calls } = start();
    handler.message(Buffer.alloc(3));
    session.send([]);
    handler.drained?.();
    expect([handler.unreadable?.("too-large"), handler.unreadable?.("no-room")]).toEqual([true, false]);
    handler.halfClosed();
    session.end(0, "over");
    session.reset();
    handler.closed("ended");
    expect(calls).toEqual([
      "message 3",
      "send 0",
      "drained",
      "unreadable too-large",
      "unreadable no-room",
      "halfClosed",
      "end 0 over",
      "reset",
      "closed ended",
    ]);
    expect([session.metadata("x"), session.pendingBytes]).toEqual(["x!", 7]);
  });

  it("counts open streams and how long they lived", () => {
    const { handler, families, wait } = start();
    expect(families.streamsInflight.series().value).toBe(1);
    wait(1_500);
    handler.closed("ended");
    expect(families.streamsInflight.series().value).toBe(0);
    expect([families.streamDuration.series().count, families.streamDuration.series().value]).toEqual([1, 1.5]);
  });

  it.each<[string, number | undefined, StreamCloseCause]>([
    ["OK", grpcStatus.ok, "ended"],
    ["InvalidArgument", grpcStatus.invalidArgument, "ended"],
    ["DeadlineExceeded", grpcStatus.deadlineExceeded, "ended"],
    ["Unavailable", grpcStatus.unavailable, "ended"],
    ["Unknown", 99, "ended"],
    ["Canceled", undefined, "reset"],
    ["Canceled", grpcStatus.ok, "connection-lost"],
  ])("calls it %s when the session ends it with %s and it is %s", (code, status, cause) => {
    const { session, handler, codes } = start();
    if (status !== undefined) session.end(status);
    handler.closed(cause);
    expect(codes()).toEqual([[code, 1]]);
  });
});
