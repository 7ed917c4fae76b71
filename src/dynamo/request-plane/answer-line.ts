/**
 * One answer on its way to who asked: dials the address of the request, says whose answer it is, writes it in one piece and waits for the other
 * to hang up. Whatever is said there means that nobody waits any more.
 */
import { connect as connectTcp, isIP, type Socket } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import { MalformedMessage, type PayloadCodec } from "../encoding/value-reader.ts";
import { encodeTwoPart } from "./two-part.ts";

/** Where an answer is wanted. */
export interface HomeAddress {
  readonly host: string;
  readonly port: number;
}

/** "ip:port", IPv6 in brackets. Throws MalformedMessage: who asks names an address, so that no name of its choice is looked up. */
export function parseHome(text: string): HomeAddress {
  const split = text.lastIndexOf(":");
  const host = text.slice(0, Math.max(0, split)).replace(/^\[|\]$/g, "");
  const port = /^\d{1,5}$/.test(text.slice(split + 1)) ? Number(text.slice(split + 1)) : 0;
  if (isIP(host) === 0 || port < 1 || port > 65_535) throw new MalformedMessage("wants its answer at no address");
  return { host, port };
}

export interface AnswerLineOptions {
  readonly address: HomeAddress;
  readonly subject: string;
  readonly codec: PayloadCodec;
  /** The only item; held until it is written. */
  readonly item: Buffer;
  readonly tls: ConnectionOptions | undefined;
  readonly connectTimeoutMs: number;
  /** Called once, whatever became of it. */
  readonly ended: (isDelivered: boolean) => void;
}

/** How long the other has to read the answer and hang up. */
const lingerMs = 10_000;
const prologue = encodeTwoPart(Buffer.from('{"error":null}'));
const sentinel = encodeTwoPart(Buffer.from('"sentinel"'));
const finals: Readonly<Record<PayloadCodec, Buffer>> = {
  json: encodeTwoPart(Buffer.alloc(0), Buffer.from('{"complete_final":true}')),
  msgpack: encodeTwoPart(Buffer.alloc(0), Buffer.from("\x81\xaecomplete_final\xc3", "latin1")),
};
const heads: Readonly<Record<PayloadCodec, readonly [before: Buffer, behind: Buffer]>> = {
  json: [Buffer.from('{"data":'), Buffer.from(',"complete_final":false}')],
  msgpack: [Buffer.from("\x82\xa4data", "latin1"), Buffer.from("\xaecomplete_final\xc2", "latin1")],
};

/** Returns what ends it at once. */
export function sendAnswer(options: AnswerLineOptions): () => void {
  const { address, subject, codec, item, tls, connectTimeoutMs } = options;
  let isDelivered = false;
  let timer: NodeJS.Timeout | undefined;
  let socket: Socket | undefined;
  const end = (): void => {
    if (socket === undefined) return;
    clearTimeout(timer);
    socket.destroy();
    socket = undefined;
    options.ended(isDelivered);
  };
  socket = tls === undefined ? connectTcp({ ...address, noDelay: true }) : connectTls({ ...address, ...tls });
  timer = setTimeout(end, connectTimeoutMs);
  socket.once(tls === undefined ? "connect" : "secureConnect", () => {
    clearTimeout(timer);
    timer = setTimeout(end, lingerMs);
    const handshake = encodeTwoPart(Buffer.from(JSON.stringify({ subject, stream_type: "response" })));
    const data = encodeTwoPart(Buffer.alloc(0), Buffer.concat([heads[codec][0], item, heads[codec][1]]));
    socket?.write(Buffer.concat([handshake, prologue, data, finals[codec], sentinel]), (error) => {
      isDelivered = error === undefined || error === null;
    });
  });
  // Who stops the stream or has read all of it hangs up; there is nothing left to say either way.
  socket.on("data", end);
  socket.on("error", end);
  socket.on("end", end);
  socket.on("close", end);
  return end;
}
