import { describe, expect, it } from "@jest/globals";
import { immediateReplyFrom } from "../../../src/extproc/refusal.ts";
import { type RejectCode, reject, rejectCodes } from "../../../src/request/rejection.ts";

describe("a refusal", () => {
  it.each(Object.keys(rejectCodes) as RejectCode[])("speaks OpenAI for %s", (code) => {
    const reply = immediateReplyFrom(reject(code, "no", { errorCode: "some_code", param: "messages" }), "openai");
    expect(reply.status).toBe(rejectCodes[code].status);
    expect(reply.setHeaders).toEqual([["content-type", "application/json"]]);
    expect(JSON.parse(Buffer.from(reply.body).toString())).toEqual({
      error: { message: "no", type: rejectCodes[code].type, code: "some_code", param: "messages" },
    });
    expect(reply.details).not.toMatch(/\s/);
  });

  it("sends nulls where there is no code and no field", () => {
    const reply = immediateReplyFrom(reject("BadRequest", 'a "quoted" word'), "openai");
    expect(Buffer.from(reply.body).toString()).toBe(
      '{"error":{"message":"a \\"quoted\\" word","type":"invalid_request_error","code":null,"param":null}}',
    );
  });

  it.each([
    [0, "1"],
    [1.2, "2"],
    [30, "30"],
  ])("says when to come back, in whole seconds: %d", (retryAfterSeconds, header) => {
    const reply = immediateReplyFrom(
      reject("ResourceExhausted", "busy", { retryAfterSeconds, droppedReason: "rejected-saturated" }),
      "openai",
    );
    expect(reply.setHeaders).toEqual([
      ["content-type", "application/json"],
      ["retry-after", header],
      ["x-llm-d-request-dropped-reason", "rejected-saturated"],
    ]);
  });

  it("uses the reference's prefix in text, but for an evicted request", () => {
    const text = (reply: { readonly body: Uint8Array }) => Buffer.from(reply.body).toString();
    expect(text(immediateReplyFrom(reject("ServiceUnavailable", "none"), "text"))).toBe(
      "inference error: ServiceUnavailable - none",
    );
    expect(
      text(
        immediateReplyFrom(reject("ResourceExhausted", "evicted now", { droppedReason: "evicted-priority" }), "text"),
      ),
    ).toBe("evicted now");
  });
});
