/** A TCP forwarder between a client and the API server that can be told to fail as networks do. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export type ProxyManner =
  | "pass"
  /** Connections are taken and ended at once. */
  | "refuse"
  /** Nothing passes any more in either direction, and nobody is told. */
  | "silent"
  /** What the server says passes at about 200 kB a second, a little at a time. */
  | "slow";

export interface FaultProxy {
  readonly port: number;
  manner: ProxyManner;
  /** Connections ever taken. */
  readonly connections: number;
  /** Resets what is open. */
  cut(): void;
  close(): Promise<void>;
}

const slowBytesPerMs = 200;

export async function startFaultProxy(targetPort: number): Promise<FaultProxy> {
  const sockets = new Set<Socket>();
  let connections = 0;
  const proxy: { manner: ProxyManner } = { manner: "pass" };
  const forward = (from: Socket, to: Socket, isAnswer: boolean): void => {
    sockets.add(from);
    from.on("data", (chunk: Buffer) => {
      if (proxy.manner === "silent") return;
      to.write(chunk);
      if (proxy.manner !== "slow" || !isAnswer) return;
      from.pause();
      setTimeout(() => from.resume(), chunk.length / slowBytesPerMs);
    });
    from.on("error", () => to.destroy());
    from.on("close", () => {
      sockets.delete(from);
      if (proxy.manner !== "silent") to.destroy();
    });
  };
  const server = createServer((client) => {
    connections++;
    if (proxy.manner === "refuse") {
      client.on("error", () => {});
      client.destroy();
      return;
    }
    const upstream = connect(targetPort, "127.0.0.1");
    forward(client, upstream, false);
    forward(upstream, client, true);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = (): void => {
    for (const socket of sockets) socket.resetAndDestroy();
  };
  return {
    port: (server.address() as AddressInfo).port,
    get manner() {
      return proxy.manner;
    },
    set manner(manner) {
      proxy.manner = manner;
    },
    get connections() {
      return connections;
    },
    cut,
    async close() {
      proxy.manner = "refuse";
      cut();
      server.close();
      await once(server, "close");
    },
  };
}
