/** Probes of containers as a kubelet makes them: HTTP, TCP and gRPC health, for real, from the node. */
import { type ClientRequest, get } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";

export interface ProbeSpec {
  /** Plain HTTP. */
  readonly httpGet?: { readonly path?: string; readonly port: number | string };
  readonly tcpSocket?: { readonly port: number | string };
  readonly grpc?: { readonly port: number; readonly service?: string };
  readonly initialDelaySeconds?: number;
  readonly periodSeconds?: number;
  readonly timeoutSeconds?: number;
  readonly successThreshold?: number;
  readonly failureThreshold?: number;
}

export interface NamedPort {
  readonly name?: string;
  readonly containerPort: number;
}

/** Whether the container passes. A probe of a kind that is not known here throws. */
export async function probe(spec: ProbeSpec, address: string, ports: readonly NamedPort[]): Promise<boolean> {
  const timeoutMs = (spec.timeoutSeconds ?? 1) * 1000;
  const portOf = (port: number | string): number => {
    const found = typeof port === "number" ? port : ports.find(({ name }) => name === port)?.containerPort;
    if (found === undefined) throw new Error(`no port of the container is called ${port}`);
    return found;
  };
  if (spec.httpGet !== undefined) {
    const { port, path = "/" } = spec.httpGet;
    return await passesHttp(`http://${address}:${portOf(port)}${path}`, timeoutMs);
  }
  if (spec.tcpSocket !== undefined) return await passesTcp(address, portOf(spec.tcpSocket.port), timeoutMs);
  if (spec.grpc !== undefined) {
    return await passesGrpc(`${address}:${spec.grpc.port}`, spec.grpc.service ?? "", timeoutMs);
  }
  throw new Error(`no probe is known in ${JSON.stringify(spec)}`);
}

function passesHttp(url: string, timeout: number): Promise<boolean> {
  return new Promise((resolve) => {
    const settle = (passes: boolean): void => {
      request.destroy();
      resolve(passes);
    };
    const request: ClientRequest = get(url, { agent: false, timeout }, (answer) => {
      const { statusCode = 0 } = answer;
      answer.resume();
      settle(statusCode >= 200 && statusCode < 400);
    });
    request.once("error", () => settle(false));
    request.once("timeout", () => settle(false));
  });
}

function passesTcp(host: string, port: number, timeout: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout });
    const settle = (passes: boolean) => () => {
      socket.destroy();
      resolve(passes);
    };
    socket.once("connect", settle(true));
    socket.once("error", settle(false));
    socket.once("timeout", settle(false));
  });
}

/**
 * grpc.health.v1.HealthCheckRequest{service} and HealthCheckResponse{status}: one field each. By hand, since a gRPC client that is closed goes on
 * connecting to a pod that is gone, which holds the process for two minutes.
 */
function passesGrpc(target: string, service: string, timeoutMs: number): Promise<boolean> {
  const name = Buffer.from(service);
  const message = Buffer.concat([Buffer.from([0x0a, name.length]), name]);
  const head = Buffer.from([0, 0, 0, 0, message.length]);
  return new Promise((resolve) => {
    const session = connectHttp2(`http://${target}`);
    const chunks: Buffer[] = [];
    const settle = (passes: boolean): void => {
      clearTimeout(timer);
      session.destroy();
      resolve(passes);
    };
    const timer = setTimeout(() => settle(false), timeoutMs);
    session.once("error", () => settle(false));
    const stream = session.request({
      ":method": "POST",
      ":path": "/grpc.health.v1.Health/Check",
      "content-type": "application/grpc",
      te: "trailers",
    });
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.once("error", () => settle(false));
    // SERVING is 1; an error has no message.
    stream.once("end", () =>
      settle(
        Buffer.concat(chunks)
          .subarray(5)
          .equals(Buffer.from([0x08, 1])),
      ),
    );
    stream.end(Buffer.concat([head, message]));
  });
}
