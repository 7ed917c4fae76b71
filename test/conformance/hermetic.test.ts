/** The reference picker's hermetic cases over each transport, with and without TLS, and its own answers where they are switched on. */
import { afterAll, beforeAll, describe, expect, it } from "@jest/globals";
import { requestBody, requestHeaders, responseBody, responseHeaders } from "./ext-proc-client.ts";
import { bodyFor, headersFor, hermeticCases } from "./hermetic-cases.ts";
import { hermeticPool } from "./hermetic-objects.ts";
import { type Picker, startPicker } from "./picker.ts";

const variants = [
  { transport: "http2", tls: false },
  { transport: "grpc-js", tls: false },
  { transport: "http2", tls: true },
  { transport: "grpc-js", tls: true },
] as const;

describe.each(variants)("over $transport, TLS $tls", (variant) => {
  hermeticCases({
    hasObjects: true,
    poolName: hermeticPool,
    start: (engines) => startPicker({ ...variant, engines }),
  });
});

describe("with the reference's answers switched on", () => {
  let picker: Picker;
  let empty: Picker;
  beforeAll(async () => {
    const args = ["--echo-request-headers", "--error-format=text"];
    [picker, empty] = await Promise.all([
      startPicker({ transport: "http2", tls: false, engines: 1, args }),
      startPicker({ transport: "http2", tls: false, engines: 0, args }),
    ]);
  }, 30_000);
  afterAll(async () => {
    await Promise.all([picker?.close(), empty?.close()]);
  });

  it("--echo-request-headers brings `hi: mom` back, in requests and answers", async () => {
    const body = bodyFor("my-model", "echo");
    const [headers, , answer] = await picker.extProc.exchange(
      [
        requestHeaders(headersFor("my-model", "my-model")),
        requestBody(body),
        responseHeaders({ ":status": "200", "content-type": "application/json" }),
        responseBody("{}", { endOfStream: true }),
      ],
      4,
    );
    expect(headers).toMatchObject({
      set: {
        "x-gateway-destination-endpoint": picker.engines[0]?.address,
        "Content-Length": String(body.length),
        hi: "mom",
        "x-request-id": "test-request-id",
      },
    });
    expect(answer).toMatchObject({ set: { "x-went-into-resp-headers": "true", "content-type": "application/json" } });
  });

  it.each<[string, () => Picker, string, number, string | RegExp]>([
    [
      "invalid JSON",
      () => picker,
      "no healthy upstream",
      400,
      /^inference error: BadRequest - error unmarshaling request bodyMap: /,
    ],
    ["no model", () => picker, '{"prompt":"p"}', 400, "inference error: BadRequest - model not found in request body"],
    [
      "no prompt",
      () => picker,
      '{"model":"m"}',
      400,
      "inference error: BadRequest - invalid completions request: must have prompt field",
    ],
    [
      "an empty pool",
      () => empty,
      '{"model":"m","prompt":"p"}',
      503,
      "inference error: ServiceUnavailable - failed to find endpoint candidates for serving the request",
    ],
  ])("--error-format=text answers %s in the reference's words", async (_what, of, body, status, text) => {
    const [reply] = await of().extProc.exchange([requestHeaders({ hi: "mom" }), requestBody(body)], 1);
    expect(reply).toMatchObject({ kind: "immediate", status });
    if (reply?.kind === "immediate")
      expect(reply.body).toEqual(typeof text === "string" ? text : expect.stringMatching(text));
  });
});
