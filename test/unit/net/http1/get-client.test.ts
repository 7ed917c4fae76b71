/** The GET client against real servers on the loopback interface, well behaved and not. */
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { afterEach, describe, expect, it } from "@jest/globals";
import { generate } from "selfsigned";
import { type ClientTls, GetClient } from "../../../../src/net/http1/get-client.ts";

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function listen(server: Server): Promise<number> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  cleanups.push(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  return (server.address() as AddressInfo).port;
}

class Caller {
  readonly client: GetClient;
  #settle: ((outcome: string) => void) | undefined;

  constructor(port: number, tls?: ClientTls, maxBodyBytes = 1_000_000) {
    const handler = {
      responded: (status: number, body: Buffer) => this.#settle?.(`${status} ${body.toString("latin1")}`),
      failed: (failure: string, detail: string) => this.#settle?.(`${failure} ${detail}`),
    };
    const target = { address: "127.0.0.1", port, path: "/metrics", accept: "text/plain", tls };
    this.client = new GetClient(target, handler, { maxHeaderBytes: 4096, maxBodyBytes });
    cleanups.push(() => this.client.close());
  }

  get(): Promise<string> {
    return new Promise((resolve) => {
      this.#settle = resolve;
      this.client.get();
    });
  }
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error("the condition did not come true in time");
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

describe("the GET client", () => {
  it("asks for its path over one connection, again and again", async () => {
    const seen: IncomingMessage[] = [];
    let connections = 0;
    const server = createHttpServer((request, response) => {
      seen.push(request);
      response.end(`answer ${seen.length}`);
    });
    server.on("connection", () => connections++);
    const port = await listen(server);
    const caller = new Caller(port);
    for (let round = 1; round <= 5; round++) expect(await caller.get()).toBe(`200 answer ${round}`);
    expect(connections).toBe(1);
    expect(seen[0]).toMatchObject({ method: "GET", url: "/metrics" });
    expect(seen[0]?.headers).toMatchObject({ host: `127.0.0.1:${port}`, accept: "text/plain" });
    expect(seen[0]?.headers["accept-encoding"]).toBeUndefined();
  });

  it.each([
    [
      "one length",
      (body: Buffer, response: ServerResponse) => response.setHeader("content-length", body.length).end(body),
    ],
    [
      "many chunks",
      (body: Buffer, response: ServerResponse) => {
        for (let at = 0; at < body.length; at += 10_000) response.write(body.subarray(at, at + 10_000));
        response.end();
      },
    ],
    [
      "a closing connection",
      (body: Buffer, response: ServerResponse) => response.setHeader("connection", "close").end(body),
    ],
  ])("reads bodies far beyond one read, sent with %s", async (_how, send) => {
    const body = Buffer.alloc(900_000, "0123456789abcdef#");
    const caller = new Caller(
      await listen(
        createHttpServer((_request, response) => {
          send(body, response);
        }),
      ),
    );
    for (let round = 0; round < 2; round++)
      expect((await caller.get()) === `200 ${body.toString("latin1")}`).toBe(true);
  });

  it("keeps the answers of many connections apart although they share one read buffer", async () => {
    const server = createHttpServer((request, response) => {
      const body = `${request.socket.remotePort}`.repeat(3000);
      response.write(body.slice(0, 5000));
      setImmediate(() => response.end(body.slice(5000)));
    });
    const port = await listen(server);
    const callers = Array.from({ length: 20 }, () => new Caller(port));
    for (let round = 0; round < 3; round++) {
      const answers = await Promise.all(callers.map((caller) => caller.get()));
      expect(new Set(answers).size).toBe(20);
      for (const answer of answers) {
        const own = /^200 ([0-9]+?)\1+$/.exec(answer)?.[1];
        expect(own).toBeDefined();
      }
    }
  });

  it("says that nobody listens, and succeeds once somebody does", async () => {
    const first = createServer();
    const port = await listen(first);
    await new Promise((resolve) => first.close(resolve));
    const caller = new Caller(port);
    expect(await caller.get()).toBe("CONNECT_FAILED ECONNREFUSED");
    const second = createHttpServer((_request, response) => response.end("up"));
    await new Promise<void>((resolve) => second.listen(port, "127.0.0.1", resolve));
    cleanups.push(
      () => void second.close(),
      () => second.closeAllConnections(),
    );
    expect(await caller.get()).toBe("200 up");
  });

  it("asks once more on a new connection when a kept one is closed without an answer", async () => {
    let requests = 0;
    const server = createServer((socket) => {
      let served = 0;
      socket.on("data", () => {
        requests++;
        served++;
        if (served === 1) socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        else socket.destroy();
      });
    });
    const caller = new Caller(await listen(server));
    expect(await caller.get()).toBe("200 ok");
    expect(await caller.get()).toBe("200 ok");
    expect(requests).toBe(3);
  });

  it("does not ask again on a connection that is new", async () => {
    let requests = 0;
    const server = createServer((socket) => {
      socket.on("data", () => {
        requests++;
        socket.end();
      });
    });
    const caller = new Caller(await listen(server));
    expect(await caller.get()).toMatch(/^CONNECTION_LOST /);
    expect(requests).toBe(1);
  });

  it("reports an answer that is cut in the middle and uses a new connection after it", async () => {
    let connections = 0;
    const server = createServer((socket) => {
      connections++;
      const isFirst = connections === 1;
      socket.on("data", () => {
        if (isFirst) socket.end("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        else socket.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfull");
      });
    });
    const caller = new Caller(await listen(server));
    expect(await caller.get()).toMatch(/^TRUNCATED /);
    expect(await caller.get()).toBe("200 full");
  });

  it("refuses an answer beyond its bound and closes that connection", async () => {
    let open = 0;
    const server = createHttpServer((_request, response) => {
      const endless = setInterval(() => response.write(Buffer.alloc(65_536)), 1);
      response.on("close", () => clearInterval(endless));
    });
    server.on("connection", (socket) => {
      open++;
      socket.on("close", () => open--);
    });
    const caller = new Caller(await listen(server), undefined, 200_000);
    expect(await caller.get()).toMatch(/^BODY_TOO_LARGE /);
    await until(() => open === 0);
  });

  it("drops a connection on which something comes unasked", async () => {
    let closed = 0;
    const server = createServer((socket) => {
      socket.on("close", () => closed++);
      socket.on("data", () => {
        socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        setTimeout(() => socket.write("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold"), 5);
      });
    });
    const caller = new Caller(await listen(server));
    expect(await caller.get()).toBe("200 ok");
    await until(() => closed === 1);
    expect(await caller.get()).toBe("200 ok");
  });

  it("gives up when cancelled, once, and asks anew on a new connection", async () => {
    let isSilent = true;
    const server = createHttpServer((_request, response) => {
      if (!isSilent) response.end("awake");
    });
    let open = 0;
    server.on("connection", (socket) => {
      open++;
      socket.on("close", () => open--);
    });
    const caller = new Caller(await listen(server));
    const outcome = caller.get();
    await until(() => open === 1);
    caller.client.cancel("too slow");
    caller.client.cancel("too slow");
    expect(await outcome).toBe("CANCELLED too slow");
    isSilent = false;
    expect(await caller.get()).toBe("200 awake");
    expect(open).toBe(1);
  });

  it("fails what is in flight when closed and leaves no connection", async () => {
    const server = createHttpServer(() => {});
    let open = 0;
    server.on("connection", (socket) => {
      open++;
      socket.on("close", () => open--);
    });
    const caller = new Caller(await listen(server));
    const outcome = caller.get();
    await until(() => open === 1);
    caller.client.close();
    caller.client.close();
    expect(await outcome).toMatch(/^CLOSED /);
    await until(() => open === 0);
    expect(() => caller.client.get()).toThrow("closed");
  });

  it("speaks TLS, and verifies the certificate only where told to", async () => {
    const pems = await generate([{ name: "commonName", value: "127.0.0.1" }], {
      extensions: [{ name: "subjectAltName", altNames: [{ type: 7, ip: "127.0.0.1" }] }],
    });
    const body = Buffer.alloc(100_000, "tls!");
    const server = createHttpsServer({ key: pems.private, cert: pems.cert }, (_request, response) =>
      response.end(body),
    );
    const port = await listen(server);
    const tls = { verifies: false, ca: undefined, cert: undefined, key: undefined };
    const trusting = new Caller(port, tls);
    for (let round = 0; round < 3; round++) expect((await trusting.get()) === `200 ${body.toString()}`).toBe(true);
    expect(await new Caller(port, { ...tls, verifies: true }).get()).toMatch(/^CONNECT_FAILED .*SELF_SIGNED/);
    expect((await new Caller(port, { ...tls, verifies: true, ca: pems.cert }).get()).slice(0, 4)).toBe("200 ");
  });
});
