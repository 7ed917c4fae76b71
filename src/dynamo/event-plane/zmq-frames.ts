/**
 * The four ZeroMQ frames of one event: topic, publisher id (u64 big-endian), sequence (u64 big-endian), and a frame of version byte 1, length
 * (u32 big-endian) and envelope. Direct publishers use the bare topic, brokers the whole subject (dynamo-runtime 1.6.1, zmq_transport.rs).
 */

const frameVersion = 1;
const frameHeaderBytes = 5;

export type FrameFault = "frame-count" | "topic" | "identity" | "version" | "length";

/** The envelope's bytes, a view of the last frame, or what is wrong. SUB sockets match prefixes, so the topic is compared whole. */
export function openFrames(frames: readonly Buffer[], topic: Buffer): Buffer | FrameFault {
  const [topicFrame, publisherFrame, sequenceFrame, body] = frames;
  if (
    frames.length !== 4 ||
    topicFrame === undefined ||
    publisherFrame === undefined ||
    sequenceFrame === undefined ||
    body === undefined
  ) {
    return "frame-count";
  }
  if (!topicFrame.equals(topic)) return "topic";
  if (publisherFrame.length !== 8 || sequenceFrame.length !== 8) return "identity";
  if (body.length < frameHeaderBytes) return "length";
  if (body[0] !== frameVersion) return "version";
  const length = body.readUInt32BE(1);
  if (length !== body.length - frameHeaderBytes) return "length";
  return body.subarray(frameHeaderBytes);
}

/** Whether the envelope is of the publisher and sequence that the outer frames name. */
export function isSameIdentity(frames: readonly Buffer[], publisherId: bigint, sequence: bigint): boolean {
  return frames[1]?.readBigUInt64BE() === publisherId && frames[2]?.readBigUInt64BE() === sequence;
}

export function encodeFrames(topic: Buffer, publisherId: bigint, sequence: bigint, envelope: Buffer): Buffer[] {
  const publisher = Buffer.allocUnsafe(8);
  publisher.writeBigUInt64BE(publisherId);
  const number = Buffer.allocUnsafe(8);
  number.writeBigUInt64BE(sequence);
  const body = Buffer.allocUnsafe(frameHeaderBytes + envelope.length);
  body[0] = frameVersion;
  body.writeUInt32BE(envelope.length, 1);
  envelope.copy(body, frameHeaderBytes);
  return [topic, publisher, number, body];
}
