/** What test/fixtures/dynamo/wires.json holds: messages recorded from real Dynamo 1.6.1 processes. */
import { readFileSync } from "node:fs";

export interface RecordedMessage {
  /** Hex of each ZeroMQ frame. */
  readonly frames: readonly string[];
  readonly publisherId: string;
  /** The same payload as JSON with exact integers. */
  readonly payload: string;
}

export interface Wires {
  readonly zmq: Readonly<Record<"stored" | "removed" | "kvMetrics", RecordedMessage>>;
  readonly nats: readonly { readonly subject: string; readonly hex: string }[];
  readonly natsWorkerId: string;
  readonly recovery: readonly { readonly codec: "json" | "msgpack"; readonly start: number; readonly hex: string }[];
  readonly activeSequences: readonly { readonly frames: readonly string[]; readonly payload: string }[];
  readonly callHome: Readonly<Record<"json" | "msgpack", RecordedAnswer>>;
  readonly servedIndex: Readonly<Record<"json" | "msgpack", RecordedIndexMessages>>;
}

/** Hex of what a KV frontend asks of a served index, writes into one, and answers itself: to that question, to that decision, and of a model it does not serve. */
export interface RecordedIndexMessages {
  readonly question: string;
  readonly answer: string;
  readonly record: string;
  readonly recorded: string;
  readonly error: string;
}

export interface RecordedAnswer {
  readonly handshake: string;
  readonly reply: readonly { readonly header: string; readonly body_hex: string; readonly body_len: number }[];
}

export const wires = JSON.parse(readFileSync("test/fixtures/dynamo/wires.json", "utf8")) as Wires;

export function framesOf({ frames }: { readonly frames: readonly string[] }): Buffer[] {
  return frames.map((frame) => Buffer.from(frame, "hex"));
}
