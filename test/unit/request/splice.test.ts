import { describe, expect, it } from "@jest/globals";
import { InferenceRequest } from "../../../src/request/inference-request.ts";
import { createParserSet } from "../../../src/request/parser-set.ts";
import { isRejection } from "../../../src/request/rejection.ts";
import { outgoingBody, outgoingBodyLength } from "../../../src/request/splice.ts";
import fc from "../../properties.ts";

const parsers = createParserSet(["openai-parser", "passthrough-parser"]);

function request(path: string, text: string): InferenceRequest {
  const body = Buffer.from(text);
  const parsed = parsers.parse("POST", path, new Map(), body);
  if (isRejection(parsed)) throw new Error(parsed.message);
  return new InferenceRequest({ id: "1", method: "POST", path, headers: new Map(), body, parsed, receivedAtMs: 0 });
}

function rewritten(text: string, targetModel: string): string {
  const rewrite = request("/v1/completions", text);
  rewrite.targetModel = targetModel;
  const parts = outgoingBody(rewrite);
  const joined = Buffer.concat(parts);
  expect(outgoingBodyLength(parts)).toBe(joined.length);
  return joined.toString();
}

describe("outgoingBody", () => {
  it("is the client's buffer itself while the model is unchanged", () => {
    const unchanged = request("/v1/completions", '{"model":"m","prompt":"p"}');
    expect(outgoingBody(unchanged)).toEqual([unchanged.body]);
    expect(outgoingBody(unchanged)[0]).toBe(unchanged.body);
  });

  it("is the client's buffer itself where the body has no model to rewrite", () => {
    const opaque = request("/anything", "opaque");
    opaque.targetModel = "other";
    expect(outgoingBody(opaque)[0]).toBe(opaque.body);
  });

  it("changes the model and no other byte", () => {
    expect(rewritten('{ "prompt":"m", "model" :\t"m" ,"seed":12345678901234567890,"n":1.0}\n', "target")).toBe(
      '{ "prompt":"m", "model" :\t"target" ,"seed":12345678901234567890,"n":1.0}\n',
    );
  });

  it("copies no byte of the client's", () => {
    const rewrite = request("/v1/completions", '{"model":"m","prompt":"p"}');
    rewrite.targetModel = "t";
    const parts = outgoingBody(rewrite);
    expect([parts[0]?.buffer, parts[2]?.buffer]).toEqual([rewrite.body.buffer, rewrite.body.buffer]);
  });

  it("replaces every value of a repeated model, so that a reader of the first and one of the last agree", () => {
    expect(rewritten('{"model":"a","prompt":"p","mod\\u0065l":7,"model":"b"}', "t")).toBe(
      '{"model":"t","prompt":"p","mod\\u0065l":"t","model":"t"}',
    );
  });

  it("inserts and replaces what plugins ask for, in the order of the body, beside the model", () => {
    const edited = request("/v1/completions", '{"prompt":"p","model":"m"}');
    edited.edit({ start: 26 - 1, end: 26 - 1, bytes: Buffer.from(',"nvext":{}') });
    edited.edit({ start: 11 - 1, end: 13, bytes: Buffer.from('"q"') });
    edited.targetModel = "t";
    expect(Buffer.concat(outgoingBody(edited)).toString()).toBe('{"prompt":"q","model":"t","nvext":{}}');
  });

  it("refuses edits that overlap rather than send a broken body", () => {
    const edited = request("/v1/completions", '{"prompt":"p","model":"m"}');
    edited.edit({ start: 2, end: 8, bytes: Buffer.from("x") });
    edited.edit({ start: 5, end: 9, bytes: Buffer.from("y") });
    expect(() => outgoingBody(edited)).toThrow(RangeError);
  });

  it("reads as the same object with the target's name, whatever the names", () => {
    fc.assert(
      fc.property(
        fc.string({ minLength: 1, unit: "binary" }),
        fc.string({ minLength: 1, unit: "binary" }),
        fc.json(),
        (model, target, other) => {
          const text = `{"x":${other},"model":${JSON.stringify(model)},"prompt":"p"}`;
          expect(JSON.parse(rewritten(text, target))).toEqual({ ...(JSON.parse(text) as object), model: target });
        },
      ),
      { numRuns: 200 },
    );
  });
});
