import { describe, expect, it } from "@jest/globals";
import { planTokenData, type TokenDataFacts } from "../../../src/tokens/token-data.ts";
import fc from "../../properties.ts";

const ids = Uint32Array.of(0, 7, 10, 128_000, 4_294_967_295);

/** Where a test's body has its object and the value between « and ». */
function read(marked: string): { body: Buffer; facts: TokenDataFacts } {
  const start = marked.indexOf("«");
  const end = marked.indexOf("»") - 1;
  const body = Buffer.from(marked.replace("«", "").replace("»", ""));
  const object =
    body.length > 0 && body.includes("{") ? { start: body.indexOf("{"), end: body.lastIndexOf("}") + 1 } : undefined;
  return { body, facts: { object, nvext: start < 0 ? undefined : { start, end } } };
}

function applied(marked: string, prompt: Uint32Array | undefined): string {
  const { body, facts } = read(marked);
  const plan = planTokenData(body, facts, prompt);
  if (plan.kind === "leave") return `left: ${plan.reason}`;
  let text = "";
  let from = 0;
  for (const { start, end, bytes } of plan.edits) {
    text += body.toString("utf8", from, start) + bytes.toString("utf8");
    from = end;
  }
  return text + body.toString("utf8", from);
}

const list = "[0,7,10,128000,4294967295]";

describe("token_data", () => {
  it.each([
    ['{"a":1}', `{"nvext":{"token_data":${list}},"a":1}`],
    [" { } ", ` {"nvext":{"token_data":${list}} } `],
    ['{"nvext":«null»,"a":1}', `{"nvext":{"token_data":${list}},"a":1}`],
    ['{"nvext":«{}»}', `{"nvext":{"token_data":${list}}}`],
    ['{"nvext":«{ "cache_salt":"x" }»}', `{"nvext":{"token_data":${list}, "cache_salt":"x" }}`],
    ['{"nvext":«{"token_data":[1,2] , "a":"}"}»}', `{"nvext":{"a":"}","token_data":${list}}}`],
    [
      '{"nvext":«{"a":{"token_data":[9]},"token_data" : null}»}',
      `{"nvext":{"a":{"token_data":[9]},"token_data":${list}}}`,
    ],
    ['{"nvext":«{"token\\u005fdata":[1]}»}', `{"nvext":{"token_data":${list}}}`],
    ['{"nvext":«{"token_data":[1],"token_data":[2]}»}', `{"nvext":{"token_data":${list}}}`],
    [
      '{"nvext":«{"do_not_queue":true,"a":18446744073709551615}»}',
      `{"nvext":{"a":18446744073709551615,"token_data":${list}}}`,
    ],
  ])("is written into %s", (body, expected) => {
    expect(applied(body, ids)).toBe(expected);
  });

  it.each([
    ['{"nvext":«{"token_data":[1,2]}»}', '{"nvext":{}}'],
    ['{"nvext":«{"token_data":[1,2],"a":1}»}', '{"nvext":{"a":1}}'],
    ['{"nvext":«{"a":1 , "token_data":[1,2] }»}', '{"nvext":{"a":1}}'],
    ['{"nvext":«{"do_not_queue":true}»}', '{"nvext":{}}'],
    ['{"nvext":«{"a":1,"token_data":"x","b":2}»}', '{"nvext":{"a":1,"b":2}}'],
  ])("of the client is taken out of %s where ours may not stand in for the prompt", (body, expected) => {
    expect(applied(body, undefined)).toBe(expected);
    expect(applied(body, new Uint32Array())).toBe(expected);
  });

  it.each([
    ["[1]", ids],
    ['{"nvext":«[]»}', ids],
    ['{"nvext":«"x"»}', ids],
    ['{"a":1}', new Uint32Array()],
    ['{"a":1}', undefined],
    ['{"nvext":«{"a":1}»}', undefined],
  ])("is left alone in %s", (body, prompt) => {
    expect(applied(body, prompt)).toMatch(/^left: /);
  });

  it("leaves the rest of any nvext as it was", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.array(fc.nat(), { minLength: 1 }), (nvext, prompt) => {
        const text = JSON.stringify(nvext);
        const written = JSON.parse(
          applied(`{"nvext":«${text.replaceAll(/[«»]/g, "")}»}`, Uint32Array.from(prompt)),
        ) as unknown;
        const expected = JSON.parse(text.replaceAll(/[«»]/g, "")) as Record<string, unknown>;
        expect(written).toEqual({ nvext: { ...expected, token_data: prompt } });
      }),
      { numRuns: 200 },
    );
  });
});
