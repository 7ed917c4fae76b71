/**
 * The reference picker's hermetic cases, asked over gRPC of a picker of whichever mode. Where Signalbox decides otherwise, the case asserts our
 * decision and docs/compatibility.md lists the difference.
 */
import { afterAll, beforeAll, expect, it } from "@jest/globals";
import {
  type MessageOptions,
  type Reply,
  requestBody,
  requestHeaders,
  responseBody,
  responseHeaders,
} from "./ext-proc-client.ts";
import type { EngineState } from "./fake-engines.ts";
import type { Picker } from "./picker.ts";

const pod = (queue: number, kv: number, ...adapters: string[]): EngineState => ({ queue, kv, adapters });
export const headersFor = (objective: string, target: string): Record<string, string> => ({
  hi: "mom",
  "x-request-id": "test-request-id",
  "x-llm-d-inference-objective": objective,
  "x-llm-d-model-name-rewrite": target,
});
/** As a client may write it: keys in no order, a number no double holds, white space. */
export const bodyFor = (model: string, prompt: string): string =>
  `{"temperature":0, "prompt":"${prompt}","model":"${model}","max_tokens":100,"seed":12345678901234567890}`;

interface RouteCase {
  readonly name: string;
  readonly pods: readonly EngineState[];
  readonly objective: string;
  readonly model: string;
  readonly target: string;
  /** Index of the endpoint that is picked. */
  readonly picked: number;
  readonly priority: number;
  readonly chunks?: number;
  /** Indices of the endpoints the gateway allows. */
  readonly subset?: readonly number[];
}

const routes: readonly RouteCase[] = [
  {
    name: "select lower queue and kv cache",
    pods: [pod(3, 0.2), pod(0, 0.1), pod(10, 0.2)],
    objective: "my-model",
    model: "my-model",
    target: "my-model-12345",
    picked: 1,
    priority: 2,
  },
  {
    name: "select active lora, low queue",
    pods: [pod(0, 0.2, "foo", "bar"), pod(0, 0.1, "foo", "sql-lora-1fdg2"), pod(10, 0.2, "foo", "bar")],
    objective: "sql-lora",
    model: "sql-lora",
    target: "sql-lora-1fdg2",
    picked: 1,
    priority: 2,
  },
  {
    name: "select lora despite higher kv cache",
    pods: [pod(10, 0.2, "foo", "bar"), pod(10, 0.4, "foo", "sql-lora-1fdg2"), pod(10, 0.3, "foo")],
    objective: "sql-lora",
    model: "sql-lora",
    target: "sql-lora-1fdg2",
    picked: 1,
    priority: 2,
  },
  {
    name: "do not shed requests by default",
    pods: [pod(6, 0.2, "foo", "bar", "sql-lora-1fdg3"), pod(0, 0.85, "foo"), pod(10, 0.9, "foo")],
    objective: "sql-lora-sheddable",
    model: "sql-lora",
    target: "sql-lora-1fdg3",
    picked: 0,
    priority: 0,
  },
  {
    name: "split body across chunks",
    pods: [pod(4, 0.2, "foo", "bar", "sql-lora-1fdg3"), pod(0, 0.85, "foo"), pod(10, 0.9, "foo")],
    objective: "sql-lora-sheddable",
    model: "split",
    target: "sql-lora-1fdg3",
    picked: 0,
    priority: 0,
    chunks: 2,
  },
  {
    name: "subsetting: best of the subset",
    pods: [pod(0, 0.2, "foo"), pod(0, 0.1, "foo", "sql-lora-1fdg2"), pod(10, 0.2, "foo")],
    objective: "sql-lora",
    model: "sql-lora",
    target: "sql-lora-1fdg2",
    picked: 1,
    priority: 2,
    subset: [0, 1, 2],
  },
  {
    name: "subsetting: only what the subset allows",
    pods: [pod(0, 0.2, "foo"), pod(0, 0.1, "foo", "sql-lora-1fdg2"), pod(10, 0.2, "foo")],
    objective: "sql-lora",
    model: "sql-lora",
    target: "sql-lora-1fdg2",
    picked: 2,
    priority: 2,
    subset: [2],
  },
  {
    name: "passthrough: model not in objectives",
    pods: [pod(6, 0.2, "foo", "bar"), pod(6, 0.85, "foo", "bar"), pod(6, 0.9, "foo", "bar")],
    objective: "direct-model",
    model: "direct-model",
    target: "direct-model",
    picked: 0,
    priority: 2,
    chunks: 2,
  },
  {
    name: "rewrite request model: an object beats the header",
    pods: [pod(0, 0.1, "foo", "bar"), pod(6, 0.85, "foo", "bar"), pod(6, 0.9, "foo", "bar")],
    objective: "inference-objective-with-priority-4",
    model: "model-to-be-rewritten",
    target: "named-by-header",
    picked: 0,
    priority: 4,
  },
  {
    name: "an object of the legacy group counts where the new one has none",
    pods: [pod(0, 0.1, "foo", "bar"), pod(6, 0.85, "foo", "bar"), pod(6, 0.9, "foo", "bar")],
    objective: "sql-lora-legacy",
    model: "legacy",
    target: "legacy",
    picked: 0,
    priority: 1,
  },
];

function pieces(text: string, count: number): string[] {
  const size = Math.ceil(text.length / count);
  return Array.from({ length: count }, (_, i) => text.slice(i * size, (i + 1) * size));
}

export interface HermeticMode {
  /** Objectives and rewrites are there; without them every priority is 0. */
  readonly hasObjects: boolean;
  /** As metrics name the pool. */
  readonly poolName: string;
  /** A picker with so many engines behind it. */
  readonly start: (engines: number) => Promise<Picker>;
}

/** Declares the cases, inside a describe of whoever calls. */
export function hermeticCases({ hasObjects, poolName, start }: HermeticMode): void {
  let picker: Picker;
  let empty: Picker;
  beforeAll(async () => {
    [picker, empty] = await Promise.all([start(3), start(0)]);
  }, 120_000);
  afterAll(async () => {
    await Promise.all([picker?.close(), empty?.close()]);
  });

  const addressesOf = (subset: readonly number[] | undefined): string[] | undefined =>
    subset?.map((i) => picker.engines[i]?.address ?? "");

  function routeReplies(picked: number, body: string): Reply[] {
    const destination = picker.engines[picked]?.address ?? "";
    return [
      {
        kind: "requestHeaders",
        set: {
          "x-gateway-destination-endpoint": destination,
          "Content-Length": String(Buffer.byteLength(body)),
        },
        remove: ["x-llm-d-model-name-rewrite"],
        clearRouteCache: true,
        metadata: { "envoy.lb": { "x-gateway-destination-endpoint": destination } },
      },
      { kind: "requestBody", body, endOfStream: true },
    ];
  }

  it.each(routes)("$name", async (route) => {
    await picker.observe(route.pods);
    const leaves = hasObjects && route.model === "model-to-be-rewritten" ? "rewritten-model" : route.target;
    const priority = String(hasObjects ? route.priority : 0);
    const labels = { model_name: route.model, target_model_name: leaves, priority };
    const before = await picker.sample("llm_d_epp_request_total", labels);
    const options: MessageOptions = { subset: addressesOf(route.subset) };
    const parts = pieces(bodyFor(route.model, route.name), route.chunks ?? 1);
    const replies = await picker.extProc.exchange(
      [
        requestHeaders(headersFor(route.objective, route.target), options),
        ...parts.map((part, i) => requestBody(part, { ...options, endOfStream: i === parts.length - 1 })),
      ],
      2,
    );
    expect(replies).toEqual(routeReplies(route.picked, bodyFor(leaves, route.name)));
    expect(await picker.sample("llm_d_epp_request_total", labels)).toBe(before + 1);
    expect(await picker.sample("inference_objective_request_total", labels)).toBe(before + 1);
  });

  it("counts the pool's endpoints as ready", async () => {
    const pool = { name: poolName };
    expect(await picker.sample("inference_pool_ready_pods", pool)).toBe(3);
    expect(await picker.sample("llm_d_epp_ready_endpoints", pool)).toBe(3);
  });

  it("passthrough parser success: routes a body it does not read, untouched", async () => {
    await picker.observe([pod(3, 0.2), pod(0, 0.1), pod(10, 0.2)]);
    const replies = await picker.extProc.exchange(
      [
        requestHeaders({
          ...headersFor("my-model", "my-model-12345"),
          ":path": "/some/unknown/path",
          ":method": "POST",
        }),
        requestBody("passthrough-parser"),
      ],
      2,
    );
    expect(replies).toEqual(routeReplies(1, "passthrough-parser"));
    const labels = { model_name: "", target_model_name: "", priority: hasObjects ? "2" : "0" };
    expect(await picker.sample("llm_d_epp_request_total", labels)).toBeGreaterThan(0);
  });

  it("invalid json body: 400 as OpenAI's error object, with no endpoint asked", async () => {
    const replies = await picker.extProc.exchange(
      [requestHeaders(headersFor("my-model", "x")), requestBody("no healthy upstream")],
      1,
    );
    const [reply] = replies;
    expect(replies).toHaveLength(1);
    expect(reply).toMatchObject({ kind: "immediate", status: 400, set: { "content-type": "application/json" } });
    expect(errorOf(reply)).toEqual({
      message: expect.stringMatching(/^error unmarshaling request bodyMap: /),
      type: "invalid_request_error",
      code: "invalid_json",
      param: null,
    });
  });

  it("request missing model field: 400 before the pool is looked at", async () => {
    const replies = await empty.extProc.exchange(
      [requestHeaders({ hi: "mom" }), requestBody('{"prompt":"hello world"}')],
      1,
    );
    expect(replies).toHaveLength(1);
    expect(replies[0]).toMatchObject({ kind: "immediate", status: 400 });
    expect(errorOf(replies[0])).toMatchObject({ message: "model not found in request body", param: "model" });
  });

  it("no backend pods available: a request without a body gets 503, drop reason and Retry-After", async () => {
    const replies = await empty.extProc.exchange(
      [requestHeaders({ hi: "mom", ":method": "GET" }, { endOfStream: true })],
      1,
    );
    expect(replies).toHaveLength(1);
    expectNoEndpoints(replies[0]);
  });

  it("no backend pods available: so does one with a body", async () => {
    const replies = await empty.extProc.exchange([requestHeaders({ hi: "mom" }), requestBody(bodyFor("m", "p"))], 1);
    expect(replies).toHaveLength(1);
    expectNoEndpoints(replies[0]);
  });

  it.each([
    ["an address of another pool", ["10.9.8.7:8000"]],
    ["nothing", []],
  ])("subsetting: a subset of %s is 503 rejected-no-endpoints", async (_what, subset) => {
    const replies = await picker.extProc.exchange(
      [requestHeaders(headersFor("my-model", "m"), { subset }), requestBody(bodyFor("m", "p"), { subset })],
      1,
    );
    expect(replies).toHaveLength(1);
    expectNoEndpoints(replies[0]);
  });

  it("subsetting: the port of a subset entry counts, a bare address allows every port", async () => {
    const only = picker.engines[2];
    const host = only?.address.split(":")[0] ?? "";
    const ofHost = picker.engines.map(({ address }) => address).filter((address) => address.startsWith(`${host}:`));
    const ask = (subset: readonly string[]): Promise<readonly Reply[]> =>
      picker.extProc.exchange(
        [requestHeaders({}, { subset }), requestBody(bodyFor("m", "subset port"), { subset })],
        2,
      );
    expect(destinationOf((await ask([only?.address ?? ""]))[0])).toBe(only?.address);
    expect((await ask([`${host}:1`]))[0]).toMatchObject({ kind: "immediate", status: 503 });
    expect(ofHost).toContain(destinationOf((await ask([host]))[0]));
  });

  it("protocol: simple GET is routed with a header reply alone", async () => {
    const replies = await picker.extProc.exchange(
      [
        requestHeaders(
          { ":method": "GET", ":path": "/v1/models", "x-request-id": "get" },
          { endOfStream: true, raw: true },
        ),
      ],
      1,
    );
    expect(replies).toHaveLength(1);
    const destination = destinationOf(replies[0]);
    expect(picker.engines.map(({ address }) => address)).toContain(destination);
    expect(replies[0]).toEqual({
      kind: "requestHeaders",
      set: { "x-gateway-destination-endpoint": destination },
      remove: [],
      clearRouteCache: true,
      metadata: { "envoy.lb": { "x-gateway-destination-endpoint": destination } },
    });
  });

  const jsonAnswer = responseHeaders({ "content-type": "application/json" });
  const proof: Reply = {
    kind: "responseHeaders",
    set: { "x-went-into-resp-headers": "true" },
    remove: [],
    clearRouteCache: false,
    metadata: undefined,
  };

  it.each([
    ["multi-chunk JSON", ['{"max_tokens":100,"model":"sql-lora-1fdg2",', '"prompt":"test","temperature":0}'], ""],
    ["invalid JSON", ["no healthy upstream"], ""],
    ["an empty end of stream", ['{"max_tokens":100,"model":"sql-lora-1fdg2"}'], ""],
  ])("response: %s passes unchanged, each message answered", async (_what, chunks, last) => {
    const replies = await picker.extProc.exchange(
      [jsonAnswer, ...chunks.map((chunk) => responseBody(chunk)), responseBody(last, { endOfStream: true })],
      chunks.length + 2,
    );
    expect(replies).toEqual([
      proof,
      ...chunks.map((body) => ({ kind: "responseBody", body, endOfStream: false })),
      { kind: "responseBody", body: last, endOfStream: true },
    ]);
  });

  it("response streaming: counts the tokens of server-sent events on a stream without a request phase", async () => {
    const labels = { model_name: "", target_model_name: "" };
    const before = await picker.sample("inference_objective_input_tokens_sum", labels);
    const usage = '{"usage":{"prompt_tokens":7,"total_tokens":17,"completion_tokens":10}}';
    const chunks = ["data: {}\n\n", `data: ${usage}\n\ndata: [DONE]\n\n`];
    const replies = await picker.extProc.exchange(
      [
        responseHeaders({ "content-type": "text/event-stream", ":status": "200" }),
        ...chunks.map((chunk) => responseBody(chunk)),
        responseBody("", { endOfStream: true }),
      ],
      4,
    );
    expect(replies).toEqual([
      proof,
      ...chunks.map((body) => ({ kind: "responseBody", body, endOfStream: false })),
      { kind: "responseBody", body: "", endOfStream: true },
    ]);
    // A stream that carries no request has no model, no arrival and no endpoint: nothing of it is counted.
    expect(await picker.sample("inference_objective_input_tokens_sum", labels)).toBe(before);
  });

  it("response streaming: counts them once where the request is known", async () => {
    const labels = { model_name: "counted", target_model_name: "counted" };
    const usage = '{"usage":{"prompt_tokens":7,"total_tokens":17,"completion_tokens":10}}';
    await picker.extProc.exchange(
      [
        requestHeaders(headersFor("my-model", "counted")),
        requestBody(bodyFor("counted", "count my tokens")),
        responseHeaders({ "content-type": "text/event-stream", ":status": "200" }),
        responseBody("data: {}\n\n"),
        responseBody(`data: ${usage.slice(0, 20)}`),
        responseBody(`${usage.slice(20)}\n\ndata: [DONE]\n\n`),
        responseBody("", { endOfStream: true }),
      ],
      7,
    );
    expect(await picker.sample("inference_objective_input_tokens_sum", labels)).toBe(7);
    expect(await picker.sample("inference_objective_output_tokens_sum", labels)).toBe(10);
    expect(await picker.sample("inference_objective_input_tokens_count", labels)).toBe(1);
  });

  it("leaves nothing behind", async () => {
    for (const one of [picker, empty])
      expect(await one.debug("/debug/exchanges")).toMatchObject({ open: 0, pending: 0, reaped: 0 });
    expect(picker.child.lines.filter((line) => line.includes('"level":"error"'))).toEqual([]);
  });
}

function errorOf(reply: Reply | undefined): Readonly<Record<string, unknown>> {
  if (reply?.kind !== "immediate") throw new Error(`expected a refusal, found ${JSON.stringify(reply)}`);
  return (JSON.parse(reply.body) as { error: Record<string, unknown> }).error;
}

function expectNoEndpoints(reply: Reply | undefined): void {
  expect(reply).toMatchObject({
    kind: "immediate",
    status: 503,
    set: {
      "content-type": "application/json",
      "retry-after": expect.stringMatching(/^\d+$/),
      "x-llm-d-request-dropped-reason": "rejected-no-endpoints",
    },
  });
  expect(errorOf(reply)).toMatchObject({ message: "failed to find endpoint candidates for serving the request" });
}

function destinationOf(reply: Reply | undefined): string | undefined {
  return reply?.kind === "requestHeaders" ? reply.set["x-gateway-destination-endpoint"] : undefined;
}
