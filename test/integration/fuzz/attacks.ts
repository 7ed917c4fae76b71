/** What a hostile or broken peer sends to the ext-proc port: bytes that are no HTTP/2, HTTP/2 that is no gRPC, gRPC that is no ext_proc. */
import { connect as connectTcp, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { mutate, type RandomSource } from "./random-bytes.ts";

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
const emptySettings = frame(4, 0, 0, Buffer.alloc(0));

function frame(type: number, flags: number, streamId: number, payload: Buffer, length = payload.length): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(streamId, 5);
  return Buffer.concat([head, payload]);
}

/** A header block of literals that no table remembers (RFC 7541 §6.2.2); names and values shorter than 127 bytes. */
function headerBlock(pairs: readonly (readonly [string, string])[]): Buffer {
  return Buffer.concat(
    pairs.flatMap(([name, value]) => [
      Buffer.from([0, name.length]),
      Buffer.from(name),
      Buffer.from([value.length]),
      Buffer.from(value),
    ]),
  );
}

const callHeaders = headerBlock([
  [":method", "POST"],
  [":scheme", "http"],
  [":path", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"],
  [":authority", "picker"],
  ["content-type", "application/grpc"],
  ["te", "trailers"],
]);

function grpcMessage(payload: Buffer, length = payload.length): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(length >>> 0, 1);
  return Buffer.concat([head, payload]);
}

export interface Attack {
  readonly name: string;
  bytes(random: RandomSource): Buffer;
}

/** A proper call that says nothing: the others are attacks only while this one is a stream. */
export const silentCall: Buffer = Buffer.concat([preface, emptySettings, frame(1, 4, 1, callHeaders)]);

export const attacks: readonly Attack[] = [
  { name: "a call that says nothing", bytes: () => silentCall },
  { name: "garbage", bytes: (random) => random.bytes(random.below(4_096)) },
  {
    name: "a TLS hello that is garbage",
    bytes: (random) => Buffer.concat([Buffer.from([0x16, 3, 1, 1, 0x2c]), random.bytes(300)]),
  },
  { name: "HTTP/1.1", bytes: () => Buffer.from("GET /metrics HTTP/1.1\r\nHost: picker\r\n\r\n") },
  { name: "half a preface", bytes: (random) => preface.subarray(0, random.below(preface.length)) },
  { name: "a preface and silence", bytes: () => preface },
  {
    name: "random frames",
    bytes: (random) =>
      Buffer.concat([
        preface,
        emptySettings,
        ...Array.from({ length: 1 + random.below(30) }, () =>
          frame(random.below(13), random.below(256), random.below(9), random.bytes(random.below(200))),
        ),
      ]),
  },
  {
    name: "a frame longer than allowed",
    bytes: (random) => Buffer.concat([preface, emptySettings, frame(0, 0, 1, random.bytes(100), 0xff_ff_ff)]),
  },
  {
    name: "headers that never end",
    bytes: (random) =>
      Buffer.concat([
        preface,
        emptySettings,
        frame(1, 0, 1, callHeaders),
        ...Array.from({ length: random.below(50) }, () =>
          frame(9, 0, 1, headerBlock([[`x-${random.below(1_000)}`, "y".repeat(100)]])),
        ),
      ]),
  },
  {
    name: "streams reset as soon as they are open",
    bytes: () =>
      Buffer.concat([
        preface,
        emptySettings,
        ...Array.from({ length: 200 }, (_, i) =>
          Buffer.concat([frame(1, 4, 2 * i + 1, callHeaders), frame(3, 0, 2 * i + 1, Buffer.from([0, 0, 0, 8]))]),
        ),
      ]),
  },
  {
    name: "a flood of pings and settings",
    bytes: (random) =>
      Buffer.concat([
        preface,
        emptySettings,
        ...Array.from({ length: 500 }, () =>
          random.below(2) === 0 ? frame(6, 0, 0, random.bytes(8)) : frame(4, 0, 0, Buffer.from([0, 4, 0, 0, 255, 255])),
        ),
      ]),
  },
  {
    name: "calls whose messages are garbage or lie about their length",
    bytes: (random) =>
      Buffer.concat([
        preface,
        emptySettings,
        ...Array.from({ length: 1 + random.below(10) }, (_, i) => {
          const payload = random.bytes(random.below(300));
          const declared = random.pick([payload.length, payload.length + 1, 0, 0xff_ff_ff_ff, 70 * 1024 * 1024]);
          return Buffer.concat([
            frame(1, 4, 2 * i + 1, callHeaders),
            frame(0, random.below(2), 2 * i + 1, grpcMessage(payload, declared)),
          ]);
        }),
      ]),
  },
  {
    name: "a call with a few bytes changed",
    bytes: (random) =>
      mutate(
        random,
        Buffer.concat([
          preface,
          emptySettings,
          frame(1, 4, 1, callHeaders),
          frame(0, 1, 1, grpcMessage(random.bytes(40))),
        ]),
      ),
  },
];

/** Writes the bytes in a few pieces and leaves the connection open; the caller destroys it. Resolves when they are written or refused. */
export function startAttack(port: number, isTls: boolean, bytes: Buffer, random: RandomSource): Promise<Socket> {
  const socket: Socket = isTls
    ? connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false, ALPNProtocols: ["h2"] })
    : connectTcp(port, "127.0.0.1");
  socket.on("error", () => {});
  socket.resume();
  const cuts = [0, random.below(bytes.length + 1), random.below(bytes.length + 1), bytes.length].sort((a, b) => a - b);
  return new Promise((resolve) => {
    socket.once("close", () => resolve(socket));
    socket.once(isTls ? "secureConnect" : "connect", () => {
      socket.setNoDelay(true);
      const write = (i: number): void => {
        if (i === cuts.length - 1) resolve(socket);
        else socket.write(bytes.subarray(cuts[i], cuts[i + 1]), () => write(i + 1));
      };
      write(0);
    });
  });
}
