/**
 * What Envoy says on one ext-proc stream, as steps of pre-encoded messages, each with the replies to wait for: the shapes that every
 * figure in docs/performance.md is measured with.
 */
import { chatBody } from "./chat-body.ts";
import { field, grpcMessage } from "./wire.ts";

export type GatewayMode = "full-duplex" | "response-none" | "buffered";

export interface Shape {
  readonly mode: GatewayMode;
  readonly bodyBytes: number;
  /** The `:authority` of the gRPC call: Envoy sends its cluster's name where nothing else is set. */
  readonly authority: string;
  /** Response body chunks of one SSE event each; none reach the picker where the response body mode is NONE. */
  readonly responseChunks: number;
  readonly model: string;
  /** Every body differs from its first message on, so nothing of it is known to a prefix index. */
  readonly distinct: boolean;
  /** The stream stays open once the answer's headers are through. */
  readonly hold: boolean;
}

export interface Step {
  readonly bytes: Buffer;
  /** Replies to wait for before the next step. */
  readonly replies: number;
}

export interface Script {
  readonly authority: string;
  readonly steps: readonly Step[];
  /** The step whose first reply carries the destination; its bytes end with the end of the body. */
  readonly decisionStep: number;
  readonly end: "reset" | "half-close-and-reset" | "hold";
  /** Where in the first step 12 digits of the request's id stand. */
  readonly idAt: number;
  /** Where in the decision step 12 digits that make its body unlike any other stand; -1 when bodies are all the same. */
  readonly distinctAt: number;
}

/** Largest piece that a gateway hands on, and the largest that a picker sends back. */
const requestChunkBytes = 65_536;
const replyChunkBytes = 62_000;
/** Overwritten by a counter. */
export const idDigits = "000000000000";
const distinctDigits = "999999999999";

const bodyModes: Readonly<Record<GatewayMode, readonly [request: number, response: number]>> = {
  "full-duplex": [4, 4],
  "response-none": [4, 0],
  buffered: [2, 0],
};

function httpHeaders(pairs: readonly (readonly [string, string])[]): Buffer {
  return field(
    1,
    Buffer.concat(pairs.map(([name, value]) => field(1, Buffer.concat([field(1, name), field(3, value)])))),
  );
}

function httpBody(bytes: Uint8Array, end: boolean): Buffer {
  return end ? Buffer.concat([field(1, bytes), field(2, true)]) : field(1, bytes);
}

function requestHeaders(shape: Shape, bodyBytes: number): Buffer {
  const [requestMode, responseMode] = bodyModes[shape.mode];
  const headers = httpHeaders([
    [":authority", "inference.example.com"],
    [":path", "/v1/chat/completions"],
    [":method", "POST"],
    [":scheme", "http"],
    ["content-type", "application/json"],
    ["content-length", String(bodyBytes)],
    ["user-agent", "OpenAI/Python 2.0"],
    ["accept", "application/json"],
    ["authorization", `Bearer sk-${"a".repeat(48)}`],
    ["x-forwarded-for", "10.244.0.17"],
    ["x-forwarded-proto", "http"],
    ["x-request-id", `6f2f1a8e-6d4a-4b59-9c1d-${idDigits}`],
  ]);
  return grpcMessage(field(2, headers), field(11, Buffer.concat([field(1, requestMode), field(2, responseMode)])));
}

function bodyMessages(body: Buffer, chunkBytes: number): Buffer[] {
  const messages: Buffer[] = [];
  for (let at = 0; at < body.length; at += chunkBytes) {
    messages.push(grpcMessage(field(4, httpBody(body.subarray(at, at + chunkBytes), false))));
  }
  messages.push(grpcMessage(field(4, httpBody(Buffer.alloc(0), true))));
  return messages;
}

function sseEvent(model: string, word: string): Buffer {
  const choice = `{"index":0,"delta":{"content":" ${word}"},"logprobs":null,"finish_reason":null}`;
  const event = `{"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1732174080,"model":"${model}","choices":[${choice}]}`;
  return Buffer.from(`data: ${event}\n\n`);
}

const responseHeaders = grpcMessage(
  field(
    3,
    httpHeaders([
      [":status", "200"],
      ["content-type", "text/event-stream"],
      ["server", "uvicorn"],
    ]),
  ),
);

export function createScript(shape: Shape): Script {
  const body = chatBody(shape.bodyBytes, shape.model, distinctDigits);
  const head = requestHeaders(shape, body.length);
  const steps: Step[] = [];
  if (shape.mode === "buffered") {
    steps.push({ bytes: head, replies: 1 }, { bytes: grpcMessage(field(4, httpBody(body, true))), replies: 1 });
  } else {
    const bytes = Buffer.concat([head, ...bodyMessages(body, requestChunkBytes)]);
    steps.push({ bytes, replies: 1 + Math.ceil(body.length / replyChunkBytes) });
  }
  const decisionStep = steps.length - 1;
  steps.push({ bytes: responseHeaders, replies: 1 });
  if (shape.mode === "full-duplex" && !shape.hold) {
    const words = ["the", "of", "and", "to"];
    for (let i = 0; i < shape.responseChunks; i++) {
      const event = sseEvent(shape.model, words[i % words.length] ?? "");
      steps.push({ bytes: grpcMessage(field(5, httpBody(event, false))), replies: 1 });
    }
    steps.push({ bytes: grpcMessage(field(5, httpBody(Buffer.alloc(0), true))), replies: 1 });
  }
  const distinctAt = steps[decisionStep]?.bytes.indexOf(distinctDigits) ?? -1;
  return {
    authority: shape.authority,
    steps,
    decisionStep,
    end: shape.hold ? "hold" : shape.mode === "full-duplex" ? "reset" : "half-close-and-reset",
    idAt: head.indexOf(idDigits),
    distinctAt: shape.distinct ? distinctAt : -1,
  };
}
