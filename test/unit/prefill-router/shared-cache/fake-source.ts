/** A source of messages that the test sends by hand. */
import type { MessageSourceOptions } from "../../../../src/data/kv-events/message-source.ts";
import type { OpenSource } from "../../../../src/prefill-router/shared-cache/mooncake-cache.ts";
import { type Logger, silentLogger } from "../../../../src/telemetry/log.ts";
import { encodeBatch, type ObjectEvent } from "../../../mooncake.ts";

export interface FakeSource {
  readonly endpoint: string;
  readonly handler: MessageSourceOptions["handler"];
  isClosed: boolean;
  say(sequence: number, events: readonly ObjectEvent[]): void;
}

export interface FakeSources {
  readonly open: OpenSource;
  readonly opened: FakeSource[];
}

export function fakeSources(): FakeSources {
  const opened: FakeSource[] = [];
  return {
    opened,
    open: ({ endpoint, handler }) => {
      const source: FakeSource = {
        endpoint,
        handler,
        isClosed: false,
        say: (sequence, events) => handler.message(Buffer.alloc(0), sequence, encodeBatch(events)),
      };
      opened.push(source);
      return {
        close: () => {
          source.isClosed = true;
          return Promise.resolve();
        },
      };
    },
  };
}

/** Keeps what it is warned of. */
export function warningLog(): { readonly log: Logger; readonly warnings: string[] } {
  const warnings: string[] = [];
  const log: Logger = {
    ...silentLogger,
    warn: (_fields, message) => void warnings.push(message),
    error: (_fields, message) => void warnings.push(message),
  };
  return { log, warnings };
}
