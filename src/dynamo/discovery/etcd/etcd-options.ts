/** How etcd is reached: Dynamo's environment variables, one connection at a time, and the bounds that make a silent server a failed one. */
import { Etcd3 } from "etcd3";

export interface EtcdOptions {
  /** "http(s)://host:port"; tried one after the other. */
  readonly endpoints: readonly string[];
  readonly auth?: { readonly username: string; readonly password: string } | undefined;
  /** PEM texts. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string } | undefined;
}

/**
 * ETCD_ENDPOINTS; ETCD_AUTH_USERNAME and ETCD_AUTH_PASSWORD, else ETCD_AUTH_CA, ETCD_AUTH_CLIENT_CERT and ETCD_AUTH_CLIENT_KEY, which hold
 * PEM texts (Dynamo 1.6.1: dynamo-runtime, src/transports/etcd.rs). With a password and a CA both hold.
 */
export function etcdOptionsFromEnvironment(env: Readonly<Record<string, string | undefined>>): EtcdOptions {
  const username = env["ETCD_AUTH_USERNAME"];
  const password = env["ETCD_AUTH_PASSWORD"];
  const ca = env["ETCD_AUTH_CA"];
  const cert = env["ETCD_AUTH_CLIENT_CERT"];
  const key = env["ETCD_AUTH_CLIENT_KEY"];
  const endpoints = (env["ETCD_ENDPOINTS"] ?? "")
    .split(",")
    .map((endpoint) => endpoint.trim())
    .filter((endpoint) => endpoint !== "");
  return {
    endpoints: endpoints.length > 0 ? endpoints : ["http://localhost:2379"],
    auth: username === undefined || password === undefined ? undefined : { username, password },
    tls: ca === undefined || cert === undefined || key === undefined ? undefined : { ca, cert, key },
  };
}

/** One unary call. */
export const callTimeoutMs = 5000;
/** Above etcd's default minimum of 5 s, below which a server hangs up on pings that bunch. */
const keepAliveMs = 6000;
const keepAliveTimeoutMs = 3000;

/**
 * A client of one endpoint, without the library's own circuit breakers and watch loop: each connection is used until its first failure, then
 * closed, and the next begins with a whole list.
 */
export function connectEtcd(options: EtcdOptions, attempt: number): Etcd3 {
  const endpoint = options.endpoints[attempt % options.endpoints.length] ?? "";
  const { auth, tls } = options;
  return new Etcd3({
    hosts: [endpoint],
    dialTimeout: callTimeoutMs,
    grpcOptions: {
      "grpc.keepalive_time_ms": keepAliveMs,
      "grpc.keepalive_timeout_ms": keepAliveTimeoutMs,
      "grpc.keepalive_permit_without_calls": 1,
      "grpc.max_receive_message_length": 64 * 1024 * 1024,
      // A channel of its own: one of an earlier attempt may still be waiting out its backoff.
      "grpc.use_local_subchannel_pool": 1,
    },
    defaultCallOptions: (context) => (context.isStream ? {} : { deadline: Date.now() + callTimeoutMs }),
    ...(auth === undefined ? {} : { auth: { ...auth } }),
    ...(tls === undefined
      ? {}
      : {
          credentials: {
            rootCertificate: Buffer.from(tls.ca),
            certChain: Buffer.from(tls.cert),
            privateKey: Buffer.from(tls.key),
          },
        }),
  });
}

export const firstRetryMs = 200;
export const longestRetryMs = 5000;

/** Resolves after the time or as soon as the signal aborts. */
export function rest(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
