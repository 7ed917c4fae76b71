import type { BodyMode } from "../messages.ts";

/** By the number of ProtocolConfiguration.BodySendMode; a mode newer than this list reads as NONE. */
export const bodyModes: readonly BodyMode[] = [
  "NONE",
  "STREAMED",
  "BUFFERED",
  "BUFFERED_PARTIAL",
  "FULL_DUPLEX_STREAMED",
  "GRPC",
];
