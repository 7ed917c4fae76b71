/** Whatever a gateway sends in whatever order, a session keeps its promises. */
import { describe, expect, it } from "@jest/globals";
import type { BodyMode } from "../../../src/extproc/messages.ts";
import fc from "../../properties.ts";
import { endsOf, type Harness, harness, type Opened, postHeaders } from "./session-harness.ts";

const modes: readonly BodyMode[] = ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC"];

type Step =
  | { readonly kind: "requestHeaders" | "responseHeaders"; readonly endOfStream: boolean }
  | { readonly kind: "requestBody" | "responseBody"; readonly body: string; readonly endOfStream: boolean }
  | { readonly kind: "requestTrailers" | "responseTrailers" | "halfClosed" | "garbage" | "decide" | "release" }
  | { readonly kind: "advance"; readonly ms: number };

const bodies = fc.constantFrom('{"model":"llama"}', '{"model":', '"llama"}', "", "{}", "not json", "x".repeat(70_000));
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constantFrom("requestHeaders", "responseHeaders"), endOfStream: fc.boolean() }),
  fc.record({
    kind: fc.constantFrom("requestBody", "requestBody", "responseBody"),
    body: bodies,
    endOfStream: fc.boolean(),
  }),
  fc.record({
    kind: fc.constantFrom("requestTrailers", "responseTrailers", "halfClosed", "garbage", "decide", "release"),
  }),
  fc.record({ kind: fc.constant("advance" as const), ms: fc.constantFrom(1, 600) }),
) as fc.Arbitrary<Step>;

/** Random orders, half of them after a beginning that routes. */
const steps = fc.oneof(
  fc.array(step, { maxLength: 12 }),
  fc
    .array(step, { maxLength: 8 })
    .map((rest): Step[] => [
      { kind: "requestHeaders", endOfStream: false },
      { kind: "requestBody", body: '{"model":"llama"}', endOfStream: true },
      { kind: "decide" },
      ...rest,
    ]),
);

function apply(one: Step, opened: Opened, h: Harness): void {
  switch (one.kind) {
    case "requestHeaders":
      opened.requestHeaders(postHeaders, one.endOfStream);
      break;
    case "responseHeaders":
      opened.responseHeaders({ ":status": "200" }, one.endOfStream);
      break;
    case "requestBody":
      opened.requestBody(one.body, one.endOfStream);
      break;
    case "responseBody":
      opened.responseBody(one.body, one.endOfStream);
      break;
    case "requestTrailers":
      opened.requestTrailers();
      break;
    case "responseTrailers":
      opened.responseTrailers();
      break;
    case "halfClosed":
      opened.handler.halfClosed();
      break;
    case "garbage":
      opened.handler.message(Buffer.from([0x12, 0xff, 0x01]));
      break;
    case "decide":
      for (const decided of h.pipeline.decided) decided.finish();
      break;
    case "release":
      h.factory.releaseBodyless();
      break;
    case "advance":
      h.advance(one.ms);
      break;
    default:
      one satisfies never;
  }
}

/** The stream's events keep the order that a gateway insists on. */
function checkReplies(opened: Opened, requestMode: BodyMode): void {
  const shape = opened.stream.shape;
  const closing = shape.findIndex((event) => event.startsWith("end") || event === "reset");
  if (closing >= 0) expect(shape.slice(closing + 1)).toEqual([]);
  const count = (kind: string): number => shape.filter((event) => event === kind).length;
  expect(count("requestHeaders")).toBeLessThanOrEqual(1);
  expect(count("responseHeaders")).toBeLessThanOrEqual(1);
  expect(count("immediateResponse")).toBeLessThanOrEqual(1);
  const body = shape.findIndex((kind) => kind === "requestBody" || kind === "requestTrailers");
  if (body >= 0 && !requestMode.startsWith("BUFFERED")) expect(shape.slice(0, body)).toContain("requestHeaders");
  if (count("immediateResponse") === 1) {
    expect(shape.at(-2)).toBe("immediateResponse");
    expect(shape.at(-1)).toBe("end 0");
    // Only the empty header reply of a buffering gateway may come before a refusal.
    const before = shape.slice(0, -2);
    expect(before).toEqual(
      requestMode.startsWith("BUFFERED") ? before.filter((kind) => kind === "requestHeaders") : [],
    );
  }
  if (requestMode === "FULL_DUPLEX_STREAMED" && count("requestHeaders") === 1 && body >= 0) {
    const flags = opened.stream.replies.flatMap(({ response }) => {
      const mutation = response?.$case === "requestBody" ? response.value.response?.bodyMutation?.mutation : undefined;
      return mutation?.$case === "streamedResponse" ? [mutation.value.endOfStream] : [];
    });
    expect(flags.slice(0, -1)).not.toContain(true);
    expect(flags.at(-1) === true || shape.includes("requestTrailers")).toBe(true);
  }
}

describe("a session under any order of messages", () => {
  it("ends every exchange exactly once, gives every byte back, and sends nothing after its end", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...modes),
        fc.constantFrom(...modes),
        fc.boolean(),
        steps,
        fc.constantFrom("ended" as const, "reset" as const, "connection-lost" as const),
        (requestMode, responseMode, pending, sequence, ending) => {
          const h = harness({ pending, limits: { requestTimeoutMs: 1_000, maxBufferedBytes: 100_000 } });
          const opened = h.open();
          const message = opened.handler.message.bind(opened.handler);
          // The modes come with the first message, whichever it is.
          const config = Buffer.from([0x5a, 4, 0x08, modeNumber(requestMode), 0x10, modeNumber(responseMode)]);
          let first = true;
          opened.handler.message = (bytes) => {
            message(first ? Buffer.concat([bytes, config]) : bytes);
            first = false;
          };
          for (const one of sequence) apply(one, opened, h);
          checkReplies(opened, requestMode);
          const sentBeforeClose = opened.stream.events.length;
          opened.close(ending);
          opened.close(ending);
          for (const decided of h.pipeline.decided) decided.finish();
          h.advance(10_000);
          expect(opened.stream.events).toHaveLength(sentBeforeClose);
          for (const decided of h.pipeline.decided) {
            const routed = decided.exchange.length > 0;
            expect(endsOf(decided)).toHaveLength(routed ? 1 : 0);
            if (!routed && !decided.bodyless) expect(decided.cancelled).toBeDefined();
            expect(decided.exchange.at(-1)?.kind).toBe(routed ? "end" : undefined);
          }
          expect([h.factory.bufferedBytes, h.factory.open]).toEqual([0, 0]);
          expect(h.log.filter((line) => line.level === "error")).toEqual([]);
          h.factory.close();
        },
      ),
      { numRuns: 3_000 },
    );
  });

  it("takes random bytes without throwing", () => {
    const h = harness();
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 5 }), (messages) => {
        const opened = h.open();
        for (const bytes of messages) opened.handler.message(Buffer.from(bytes));
        opened.close("reset");
        expect([h.factory.open, h.factory.waiting, h.factory.bufferedBytes]).toEqual([0, 0, 0]);
      }),
      { numRuns: 500 },
    );
    h.factory.close();
  });
});

function modeNumber(mode: BodyMode): number {
  return { NONE: 0, STREAMED: 1, BUFFERED: 2, BUFFERED_PARTIAL: 3, FULL_DUPLEX_STREAMED: 4, GRPC: 5 }[mode];
}
