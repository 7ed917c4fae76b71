/** gRPC health Check as a method of a bytes-only transport, for `--health-checking`: gateways that can only probe the ext-proc port itself. */
import { HealthCheckRequest, HealthCheckResponse, HealthCheckResponse_ServingStatus } from "../../gen/health.ts";
import type { ServingStatus } from "./health.ts";
import { type GrpcStream, type GrpcStreamHandler, grpcStatus } from "./transport.ts";

export const healthCheckPath = "/grpc.health.v1.Health/Check";

export function healthCheckMethod(
  status: (service: string) => ServingStatus,
): (stream: GrpcStream) => GrpcStreamHandler {
  return (stream) => ({
    message(bytes) {
      let service: string;
      try {
        service = HealthCheckRequest.decode(bytes).service;
      } catch {
        stream.end(grpcStatus.invalidArgument, "not a HealthCheckRequest");
        return;
      }
      stream.send([
        HealthCheckResponse.encode({ status: HealthCheckResponse_ServingStatus[status(service)] }).finish(),
      ]);
      stream.end(grpcStatus.ok);
    },
    halfClosed() {},
    closed() {},
  });
}
