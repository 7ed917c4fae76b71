/**
 * The standard health service (grpc.health.v1) on a port of its own, plaintext. It holds no state: every answer asks `status`, and
 * `notify` makes watchers ask again. A watcher that reads slowly gets the latest status, not every one between.
 */
import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status as statusCodes,
} from "@grpc/grpc-js";
import {
  type HealthCheckRequest,
  type HealthCheckResponse,
  HealthCheckResponse_ServingStatus,
  type HealthListRequest,
  type HealthListResponse,
  HealthService,
} from "../../gen/health.ts";

export type ServingStatus = "SERVING" | "NOT_SERVING" | "SERVICE_UNKNOWN";

export interface HealthServerOptions {
  readonly host: string;
  /** 0 picks a free port. */
  readonly port: number;
  /** SERVICE_UNKNOWN is NOT_FOUND for Check, and for Watch a status like the others. */
  status(service: string): ServingStatus;
  /** What List names. */
  services(): readonly string[];
  readonly onError: (error: unknown, what: string) => void;
}

export interface HealthServer {
  readonly port: number;
  /** Statuses may have changed: watchers are told of those that did. */
  notify(): void;
  close(): Promise<void>;
}

type WatchCall = ServerWritableStream<HealthCheckRequest, HealthCheckResponse>;

/** A health request is a service name. */
const maxRequestBytes = 64 * 1024;
const maxStreamsPerConnection = 100;

export async function createHealthServer(options: HealthServerOptions): Promise<HealthServer> {
  const watchers = new Set<Watcher>();
  const server = new Server({
    "grpc.max_receive_message_length": maxRequestBytes,
    "grpc.max_concurrent_streams": maxStreamsPerConnection,
  });
  server.addService(HealthService, {
    check(call: ServerUnaryCall<HealthCheckRequest, HealthCheckResponse>, done: sendUnaryData<HealthCheckResponse>) {
      answer(options, done, () => checkResponse(options.status(call.request.service)));
    },
    list(_call: ServerUnaryCall<HealthListRequest, HealthListResponse>, done: sendUnaryData<HealthListResponse>) {
      answer(options, done, () => listResponse(options));
    },
    watch(call: WatchCall) {
      const watcher = new Watcher(call, options);
      watchers.add(watcher);
      call.on("close", () => watchers.delete(watcher));
      watcher.push();
    },
  });
  const port = await bind(server, options);
  return {
    port,
    notify() {
      for (const watcher of watchers) watcher.push();
    },
    close() {
      server.forceShutdown();
      return Promise.resolve();
    },
  };
}

/** One Watch stream: the status it was told last. */
class Watcher {
  private readonly call: WatchCall;
  private readonly options: HealthServerOptions;
  private told: ServingStatus | undefined;

  constructor(call: WatchCall, options: HealthServerOptions) {
    this.call = call;
    this.options = options;
    this.told = undefined;
    call.on("drain", () => this.push());
  }

  push(): void {
    const { call, options } = this;
    if (call.cancelled || call.destroyed || call.writableNeedDrain) return;
    try {
      const status = options.status(call.request.service);
      if (status === this.told) return;
      this.told = status;
      call.write({ status: HealthCheckResponse_ServingStatus[status] });
    } catch (error) {
      options.onError(error, "health watch");
    }
  }
}

function answer<T>(options: HealthServerOptions, done: sendUnaryData<T>, respond: () => T | undefined): void {
  try {
    const response = respond();
    if (response === undefined) done({ code: statusCodes.NOT_FOUND, details: "unknown service" });
    else done(null, response);
  } catch (error) {
    options.onError(error, "health check");
    done({ code: statusCodes.INTERNAL, details: "internal error" });
  }
}

function checkResponse(status: ServingStatus): HealthCheckResponse | undefined {
  return status === "SERVICE_UNKNOWN" ? undefined : { status: HealthCheckResponse_ServingStatus[status] };
}

function listResponse(options: HealthServerOptions): HealthListResponse {
  const statuses: HealthListResponse["statuses"] = {};
  for (const service of options.services()) {
    statuses[service] = { status: HealthCheckResponse_ServingStatus[options.status(service)] };
  }
  return { statuses };
}

function bind(server: Server, { host, port }: HealthServerOptions): Promise<number> {
  const address = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
  return new Promise((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(error);
    });
  });
}
