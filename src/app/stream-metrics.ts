/** extproc_streams_*: counts ext-proc streams by wrapping their handlers, so that nothing is paid for them unless they are asked for. */
import { type GrpcStream, type GrpcStreamHandler, grpcStatus } from "../net/grpc/transport.ts";
import type { Families } from "../telemetry/catalogue.ts";

type Open = (stream: GrpcStream) => GrpcStreamHandler;

/** Status names as gRPC's Go library spells them, which is what the reference's label holds. */
const codeNames: ReadonlyMap<number, string> = new Map([
  [grpcStatus.ok, "OK"],
  [grpcStatus.cancelled, "Canceled"],
  [grpcStatus.unknown, "Unknown"],
  [grpcStatus.invalidArgument, "InvalidArgument"],
  [grpcStatus.deadlineExceeded, "DeadlineExceeded"],
  [grpcStatus.resourceExhausted, "ResourceExhausted"],
  [grpcStatus.unimplemented, "Unimplemented"],
  [grpcStatus.internal, "Internal"],
  [grpcStatus.unavailable, "Unavailable"],
]);

/** `now`: monotonic milliseconds. */
export function countingStreams(open: Open, families: Families, now: () => number): Open {
  const inflight = families.streamsInflight.series();
  const duration = families.streamDuration.series();
  return (stream) => {
    const openedMs = now();
    inflight.add(1);
    let code = "Canceled";
    const handler = open({
      metadata: (name) => stream.metadata(name),
      send: (parts) => stream.send(parts),
      end: (status, message) => {
        code = codeNames.get(status) ?? "Unknown";
        stream.end(status, message);
      },
      reset: () => stream.reset(),
      get pendingBytes() {
        return stream.pendingBytes;
      },
    });
    return {
      message: (bytes) => handler.message(bytes),
      unreadable: (why) => handler.unreadable?.(why) ?? false,
      halfClosed: () => handler.halfClosed(),
      drained: () => handler.drained?.(),
      closed: (cause) => {
        inflight.add(-1);
        duration.observe((now() - openedMs) / 1000);
        families.streams.series(cause === "ended" ? code : "Canceled").add(1);
        handler.closed(cause);
      },
    };
  };
}
