/** The receiving side of OTLP over gRPC: keeps what is exported as bytes, as they came. */
import { Server, ServerCredentials } from "@grpc/grpc-js";

export interface Collector {
  readonly port: number;
  /** One message an Export call (opentelemetry/proto/collector/trace/v1). */
  readonly received: readonly Buffer[];
  close(): void;
}

export async function startCollector(): Promise<Collector> {
  const received: Buffer[] = [];
  const server = new Server();
  const bytes = (value: Buffer): Buffer => value;
  const call = {
    path: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    requestStream: false,
    responseStream: false,
    requestSerialize: bytes,
    requestDeserialize: bytes,
    responseSerialize: bytes,
    responseDeserialize: bytes,
  };
  server.addService(
    { Export: call },
    {
      Export: ({ request }: { request: Buffer }, callback: (error: null, answer: Buffer) => void) => {
        received.push(request);
        callback(null, Buffer.alloc(0));
      },
    },
  );
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  return { port, received, close: () => server.forceShutdown() };
}
