/**
 * Whatever comes in, the picker lives, other streams are served, and everything is given back. SIGNALBOX_FUZZ_SEED replays a run,
 * SIGNALBOX_FUZZ_ROUNDS prolongs it.
 */
import type { Socket } from "node:net";
import { Client, type ClientDuplexStream, credentials } from "@grpc/grpc-js";
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { ProcessingRequest } from "../../../src/gen/external_processor.ts";
import { requestBody, requestHeaders, responseBody, responseHeaders } from "../../conformance/ext-proc-client.ts";
import { type Picker, startPicker } from "../../conformance/picker.ts";
import { eventually } from "../../stack.ts";
import { attacks, silentCall, startAttack } from "./attacks.ts";
import { createRandom, mutate, type RandomSource } from "./random-bytes.ts";

const seed = Number(process.env["SIGNALBOX_FUZZ_SEED"] ?? 20_260_101);
const rounds = Number(process.env["SIGNALBOX_FUZZ_ROUNDS"] ?? 5);
const MiB = 1024 * 1024;
/** A heap this small is collected often, and ends the process where something is kept. */
const heapMiB = 64;
/** Above what the process holds once warm; a hundred rounds add less than 10 MiB. */
const maxGrowthBytes = 48 * MiB;
const processPath = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

interface Held {
  readonly open: number;
  readonly pending: number;
  readonly reaped: number;
  readonly streams: { readonly open: number; readonly waiting: number; readonly bufferedBytes: number };
}

describe.each([
  { transport: "http2", tls: false },
  { transport: "grpc-js", tls: false },
  { transport: "http2", tls: true },
] as const)("over $transport, TLS $tls", ({ transport, tls }) => {
  let picker: Picker;
  let raw: Client;
  const random = createRandom(seed);
  beforeAll(async () => {
    picker = await startPicker({
      transport,
      tls,
      engines: 2,
      args: ["--request-timeout=30s"],
      environment: { NODE_OPTIONS: `--max-old-space-size=${heapMiB}` },
    });
    raw = new Client(
      `127.0.0.1:${picker.child.ready.grpcPort}`,
      tls ? credentials.createSsl(null, null, null, { rejectUnauthorized: false }) : credentials.createInsecure(),
      { "grpc.ssl_target_name_override": "localhost" },
    );
  }, 30_000);
  afterAll(async () => {
    raw.close();
    await picker.close();
  });

  /** Proper requests on a connection of their own, until stopped: every one must be routed. */
  function startWitness(): { stop(): Promise<number> } {
    let isStopped = false;
    const run = async (): Promise<number> => {
      let served = 0;
      for (; !isStopped || served === 0; served++) {
        const replies = await picker.extProc.exchange(
          [
            requestHeaders({ ":method": "POST", ":path": "/v1/completions" }),
            requestBody(`{"model":"m","prompt":"witness ${served}"}`),
            responseHeaders({ ":status": "200", "content-type": "application/json" }),
            responseBody("{}", { endOfStream: true }),
          ],
          4,
        );
        expect(replies.map(({ kind }) => kind)).toEqual([
          "requestHeaders",
          "requestBody",
          "responseHeaders",
          "responseBody",
        ]);
      }
      return served;
    };
    const running = run();
    running.catch(() => {});
    return {
      stop: () => {
        isStopped = true;
        return running;
      },
    };
  }

  /** Opens a call, writes the messages as they are, and half-closes, cancels or waits for its end. */
  function call(messages: readonly Buffer[], ending: "half-close" | "cancel"): Promise<void> {
    const same = (bytes: Buffer): Buffer => bytes;
    const stream: ClientDuplexStream<Buffer, Buffer> = raw.makeBidiStreamRequest(processPath, same, same);
    stream.on("data", () => {});
    stream.on("error", () => {});
    return new Promise((resolve) => {
      stream.on("status", () => resolve());
      for (const message of messages)
        stream.write(message, ending === "cancel" && message === messages.at(-1) ? () => stream.cancel() : undefined);
      // The client library sends no reset for a call that is cancelled before its headers are on the wire.
      if (ending === "half-close" || messages.length === 0) stream.end();
    });
  }

  const ending = (): "half-close" | "cancel" => random.pick(["half-close", "cancel"] as const);
  const encode = (message: ProcessingRequest): Buffer => Buffer.from(ProcessingRequest.encode(message).finish());

  async function randomConnections(): Promise<void> {
    const open: Socket[] = [];
    for (const attack of attacks) {
      open.push(
        ...(await Promise.all(
          [0, 1].map(() => startAttack(picker.child.ready.grpcPort, tls, attack.bytes(random), random)),
        )),
      );
    }
    for (const socket of open) socket.destroy();
  }

  async function randomMessages(): Promise<void> {
    const proper = [
      requestHeaders({ ":method": "POST", ":path": "/v1/chat/completions" }, { subset: ["127.0.0.1"] }),
      requestBody('{"model":"m","messages":[{"role":"user","content":"x"}]}', { endOfStream: false }),
      responseHeaders({ ":status": "200" }),
      responseBody("data: {}\n\n"),
    ].map(encode);
    await Promise.all(
      Array.from({ length: 100 }, () => {
        const messages = Array.from({ length: random.below(6) }, () =>
          random.below(3) === 0 ? random.bytes(random.below(400)) : mutate(random, random.pick(proper)),
        );
        return call(messages, ending());
      }),
    );
  }

  async function randomBodies(): Promise<void> {
    const paths = [
      "/v1/chat/completions",
      "/v1/completions",
      "/v1/embeddings",
      "/v1/responses",
      "/v1/messages",
      "/generate",
    ];
    await Promise.all(
      Array.from({ length: 100 }, () => {
        const text = Buffer.from(randomJson(random, 6));
        const body = random.below(2) === 0 ? text : mutate(random, text);
        const cut = random.below(body.length + 1);
        return call(
          [
            requestHeaders({ ":method": "POST", ":path": random.pick(paths) }),
            requestBody(body.subarray(0, cut), { endOfStream: false }),
            requestBody(body.subarray(cut)),
            responseHeaders({
              ":status": "200",
              "content-type": random.pick(["application/json", "text/event-stream"]),
            }),
            responseBody(mutate(random, body)),
            responseBody(random.bytes(20), { endOfStream: true }),
          ]
            .slice(0, 2 + random.below(5))
            .map(encode),
          ending(),
        );
      }),
    );
  }

  const held = (): Promise<Held> => picker.debug<Held>("/debug/exchanges");

  it("opens a stream for a call that says nothing, and drops it with its connection", async () => {
    const socket = await startAttack(picker.child.ready.grpcPort, tls, silentCall, random);
    await eventually("the stream", async () => (await held()).streams.open === 1);
    socket.destroy();
    await eventually("its end", async () => (await held()).streams.open === 0, 2_000);
  });

  it(
    "lives through random frames, messages and bodies, serves others meanwhile, and gives everything back",
    async () => {
      const residentBytes: number[] = [];
      for (let round = 0; round < rounds; round++) {
        const witness = startWitness();
        await randomConnections();
        await randomMessages();
        await randomBodies();
        expect(await witness.stop()).toBeGreaterThan(0);
        const nothing: Held = { open: 0, pending: 0, reaped: 0, streams: { open: 0, waiting: 0, bufferedBytes: 0 } };
        let last: Held | undefined;
        await eventually(
          "nothing is held",
          async () => {
            last = await held();
            return last.open === 0 && last.pending === 0 && last.streams.open === 0 && last.streams.bufferedBytes === 0;
          },
          2_000,
        ).catch(() => undefined);
        expect(last).toEqual(nothing);
        residentBytes.push(await picker.sample("process_resident_memory_bytes"));
      }
      const endpoints = await picker.debug<{ load: unknown }[]>("/debug/endpoints");
      expect(endpoints.map(({ load }) => load)).toEqual(Array(2).fill({ requests: 0, tokens: 0 }));
      expect(picker.child.lines.filter((line) => line.includes('"level":"error"'))).toEqual([]);
      expect((residentBytes.at(-1) ?? 0) - (residentBytes[1] ?? 0)).toBeLessThan(maxGrowthBytes);
    },
    rounds * 12_000,
  );
});

/** JSON that resembles a request now and then: known names with values of any type. */
function randomJson(random: RandomSource, depth: number): string {
  const names = [
    "model",
    "messages",
    "prompt",
    "input",
    "content",
    "role",
    "stream",
    "max_tokens",
    "user",
    "nvext",
    "é",
    "\\u006dodel",
  ];
  if (depth === 6 && random.below(4) > 0) {
    return `{"model":"m","messages":${randomJson(random, 4)},"prompt":${randomJson(random, 3)},"input":${randomJson(random, 3)}}`;
  }
  const list = (item: () => string): string =>
    Array.from({ length: random.below(5) }, item).join(random.pick([",", " , "]));
  switch (random.below(depth > 0 ? 8 : 5)) {
    case 0:
      return random.pick(["null", "true", "false", "0", "-1.5e300", "12345678901234567890", "1e999"]);
    case 1:
    case 2:
      return JSON.stringify(random.bytes(random.below(30)).toString("utf8"));
    case 3:
      return '"\\ud83d\\ude82 \\u0000 \\n漢字"';
    case 4:
      return "[".repeat(random.below(50)) + "]".repeat(random.below(50));
    case 5:
      return `[${list(() => randomJson(random, depth - 1))}]`;
    default:
      return `{${list(() => `"${random.pick(names)}":${randomJson(random, depth - 1)}`)}}`;
  }
}
