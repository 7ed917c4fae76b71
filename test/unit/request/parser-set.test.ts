import { describe, expect, it } from "@jest/globals";
import type { ByteRange, ParsedBody } from "../../../src/request/parsed-body.ts";
import { createParserSet, defaultParserTypes, parserTypes } from "../../../src/request/parser-set.ts";
import { isRejection, type Rejection } from "../../../src/request/rejection.ts";

const all = createParserSet([
  "openai-parser",
  "anthropic-parser",
  "vllmhttp-parser",
  "sglanghttp-parser",
  "passthrough-parser",
]);

function parse(path: string, body: string, set = all): ParsedBody | Rejection {
  return set.parse("POST", path, new Map(), Buffer.from(body));
}

function accepted(path: string, body: string): ParsedBody {
  const outcome = parse(path, body);
  if (isRejection(outcome)) throw new Error(outcome.message);
  return outcome;
}

function rejected(path: string, body: string, set = all): Rejection {
  const outcome = parse(path, body, set);
  if (!isRejection(outcome)) throw new Error(`accepted by ${outcome.parser}`);
  return outcome;
}

function text(body: string, range: ByteRange | undefined): string | undefined {
  return range === undefined ? undefined : Buffer.from(body).toString("utf8", range.start, range.end);
}

/** The prompt's chains as text, or as lists of token ids. */
function chains(path: string, body: string): unknown {
  const { prompt } = accepted(path, body);
  switch (prompt.kind) {
    case "opaque":
      return "opaque";
    case "bytes":
      return prompt.chains.map((chain) => chain.map((range) => text(body, range)));
    default:
      return prompt.chains.map((tokens) => [...tokens]);
  }
}

const chatBody = '{"model":"m","messages":[{"role":"user","content":"hi"}]}';

describe("a parser set", () => {
  it.each([
    ["/v1/chat/completions", "openai-chat"],
    ["/v1/chat/completions/render", "openai-chat"],
    ["/v1/chat/completions/", "openai-chat"],
    ["//v1/chat/completions?api-version=1", "openai-chat"],
    ["/tenant/a/v1/chat/completions", "openai-chat"],
    ["/v1/messages", "anthropic-messages"],
    ["/v1/messages/count_tokens?beta=true", "anthropic-count-tokens"],
    ["/v2/chat/completions", "opaque"],
    ["/xv1/messages", "opaque"],
    ["/v1/messages/other", "opaque"],
    ["/", "opaque"],
    ["", "opaque"],
  ])("reads %s as %s", (path, api) => {
    expect(accepted(path, chatBody).api).toBe(api);
  });

  it.each([
    ["/inference/v1/generate", '{"token_ids":[1]}', "vllm-generate"],
    ["/generate", '{"text":"a"}', "sglang-generate"],
    ["/v1/generate", '{"text":"a"}', "sglang-generate"],
    ["/regenerate", '{"text":"a"}', "opaque"],
    ["/v1/images/generations", '{"model":"m","prompt":"a cat"}', "openai-images"],
    ["/images/generations", '{"model":"m","prompt":"a cat"}', "openai-images"],
    ["/v1/conversations", '{"items":[{}]}', "openai-conversations"],
    ["/v1/conversations/render", '{"items":[{}]}', "openai-conversations"],
    ["/v1/responses", '{"model":"m","input":"a"}', "openai-responses"],
    ["/v1/responses/render", '{"model":"m","input":"a"}', "openai-responses"],
    ["/v1/embeddings", '{"model":"m","input":"a"}', "openai-embeddings"],
    ["/v1/embeddings/render", '{"model":"m","input":"a"}', "openai-embeddings"],
    ["/v1/completions", '{"model":"m","prompt":"a"}', "openai-completions"],
    ["/v1/completions/render", '{"model":"m","prompt":"a"}', "openai-completions"],
  ])("takes the longest suffix: %s with %s is %s", (path, body, api) => {
    expect(accepted(path, body).api).toBe(api);
  });

  it("refuses a path that no parser reads when there is no fallback", () => {
    const strict = createParserSet(["openai-parser"]);
    expect(rejected("/v1/messages", chatBody, strict)).toMatchObject({
      code: "BadRequest",
      message: "no parser registered matching path suffix for: /v1/messages",
    });
  });

  it("ends registration at the fallback and skips repeated types", () => {
    const set = createParserSet(["openai-parser", "openai-parser", "passthrough-parser", "anthropic-parser"]);
    expect(set.skipped).toEqual(["openai-parser", "anthropic-parser"]);
    expect(parse("/v1/messages", chatBody, set)).toMatchObject({ parser: "passthrough-parser" });
  });

  it("knows the types of the default set and refuses an unknown one", () => {
    expect(createParserSet(defaultParserTypes).skipped).toEqual([]);
    expect(parserTypes).toEqual(expect.arrayContaining([...defaultParserTypes, "sglanghttp-parser"]));
    expect(() => createParserSet(["openai-parser", "vertexai-parser"])).toThrow("vertexai-parser");
  });
});

describe("what parsers find", () => {
  it("reads the fields of a chat request and the range of its model", () => {
    const body =
      '{"stream":true, "model" : "org/m\\u00f6del", "max_tokens":5,"max_completion_tokens":17,"user":"u\\n1","cache_salt":"s","nvext":{"a":[1]},"seed":12345678901234567890,"messages":[{}]}';
    const parsed = accepted("/v1/chat/completions", body);
    expect(parsed).toMatchObject({
      api: "openai-chat",
      parser: "openai-parser",
      model: "org/mödel",
      stream: true,
      maxOutputTokens: 17,
      user: "u\n1",
      cacheSalt: "s",
      readsResponse: true,
    });
    expect(text(body, parsed.modelRange)).toBe('"org/m\\u00f6del"');
    expect(text(body, parsed.nvextRange)).toBe('{"a":[1]}');
    expect(parsed.earlierModelRanges).toBeUndefined();
  });

  it.each([
    ['"stream":false', { stream: false }],
    ['"stream":null', { stream: false }],
    ['"stream":"true"', { stream: false }],
    ['"max_tokens":null', { maxOutputTokens: undefined }],
    ['"max_tokens":"7"', { maxOutputTokens: undefined }],
    ['"max_tokens":-7', { maxOutputTokens: undefined }],
    ['"max_tokens":1e400', { maxOutputTokens: undefined }],
    ['"max_tokens":1.6e1', { maxOutputTokens: 16 }],
    ['"user":7', { user: undefined }],
    ['"nvext":[]', { nvextRange: undefined }],
    ['"nvext":null', { nvextRange: undefined }],
  ])("reads %s of another type than it should have as absent", (member, expected) => {
    expect(accepted("/v1/chat/completions", `{"model":"m","messages":[{}],${member}}`)).toMatchObject(expected);
  });

  it("takes the last of repeated models and keeps the ranges of the earlier ones", () => {
    const body = '{"model":"a","messages":[{}],"mod\\u0065l":null,"model":"c"}';
    const parsed = accepted("/v1/chat/completions", body);
    expect(parsed.model).toBe("c");
    expect(parsed.earlierModelRanges?.map((range) => text(body, range))).toEqual(['"a"', "null"]);
  });

  it.each<[string, string, unknown]>([
    ["/v1/chat/completions", '{"model":"m","messages":[{"a":"]"}],"tools":[{}]}', [["[{}]", '[{"a":"]"}]']]],
    ["/v1/chat/completions", '{"model":"m","messages":[ 1 ],"tools":null}', [["[ 1 ]"]]],
    ["/v1/completions", '{"model":"m","prompt":"a\\"b"}', [['a\\"b']]],
    ["/v1/completions", '{"model":"m","prompt":[ "a\\\\" , "b\\\\\\"","" ]}', [["a\\\\"], ['b\\\\\\"'], [""]]],
    ["/v1/completions", '{"model":"m","prompt":[1, 22 ,4294967295]}', [[1, 22, 4_294_967_295]]],
    ["/v1/completions", '{"model":"m","prompt":[1,2,3,4,5,6,7,8,9]}', [[1, 2, 3, 4, 5, 6, 7, 8, 9]]],
    ["/v1/completions", '{"model":"m","prompt":[[1,2],[ ],[ 3 ]]}', [[1, 2], [], [3]]],
    ["/v1/embeddings", '{"model":"m","input":["a","b"]}', [["a"], ["b"]]],
    ["/v1/embeddings", '{"model":"m","messages":[{}]}', [["[{}]"]]],
    ["/v1/responses", '{"model":"m","input":"a","instructions":"b"}', [['"b"', '"a"']]],
    ["/v1/responses", '{"model":"m","input":[{}],"tools":[1]}', [["[1]", "[{}]"]]],
    ["/v1/conversations", '{"items":[{}]}', [["[{}]"]]],
    ["/images/generations", '{"model":"m","prompt":"cat"}', [["cat"]]],
    ["/v1/messages", '{"messages":[1],"system":"s","model":"m","tools":[2]}', [["[2]", '"s"', "[1]"]]],
    ["/inference/v1/generate", '{"token_ids":[7,8]}', [[7, 8]]],
    ["/generate", '{"text":["a","b"]}', [["a"], ["b"]]],
    ["/generate", '{"input_ids":[[1],[2]]}', [[1], [2]]],
    ["/generate", '{"input_embeds":[[0.5]]}', "opaque"],
    ["/anything", "not JSON", "opaque"],
  ])("finds the prompt of %s in %s", (path, body, expected) => {
    expect(chains(path, body)).toEqual(expected);
  });

  it("describes a bounded number of the prompts of a huge batch", () => {
    const { prompt } = accepted("/v1/completions", `{"model":"m","prompt":[${'"",'.repeat(100_000)}""]}`);
    expect(prompt.kind === "bytes" && prompt.chains.length).toBe(4096);
  });

  it.each<[string, string, Partial<ParsedBody>]>([
    ["/v1/responses", '{"model":"m","input":"a","max_output_tokens":9}', { maxOutputTokens: 9 }],
    [
      "/v1/messages",
      '{"model":"m","max_tokens":9,"messages":[{}],"metadata":{"user_id":"u"},"stream":true}',
      { maxOutputTokens: 9, user: "u", stream: true, readsResponse: true },
    ],
    ["/v1/messages", '{"model":"m","messages":[{}],"metadata":"u"}', { user: undefined }],
    ["/v1/messages/count_tokens", '{"model":"m","messages":[{}]}', { readsResponse: false }],
    [
      "/inference/v1/generate",
      '{"token_ids":[1],"sampling_params":{"n":1,"max_tokens":4},"model":"m","cache_salt":"s"}',
      { maxOutputTokens: 4, model: "m", cacheSalt: "s" },
    ],
    ["/inference/v1/generate", '{"token_ids":[1],"model":null}', { model: "", modelRange: undefined }],
    [
      "/generate",
      '{"text":"a","sampling_params":{"max_new_tokens":4},"stream":true}',
      { maxOutputTokens: 4, stream: true, model: "", modelRange: undefined },
    ],
    ["/generate", '{"text":["a","b"],"sampling_params":[{"max_new_tokens":4}]}', { maxOutputTokens: undefined }],
    ["/anything", "not JSON", { parser: "passthrough-parser", model: "", stream: false, readsResponse: true }],
  ])("reads the fields of %s in %s", (path, body, expected) => {
    expect(accepted(path, body)).toMatchObject(expected);
  });
});

describe("what parsers refuse with 400", () => {
  it.each([
    ["/v1/completions", "no healthy upstream", "error unmarshaling request bodyMap: invalid JSON at byte 1", null],
    ["/v1/completions", "", "error unmarshaling request bodyMap: unexpected end of JSON input", null],
    ["/v1/completions", "[]", "error unmarshaling request bodyMap: the body is not a JSON object", null],
    ["/v1/completions", "null", "error unmarshaling request bodyMap: the body is not a JSON object", null],
    ["/v1/completions", '{} "x"', "error unmarshaling request bodyMap: bytes after the JSON value at byte 3", null],
    ["/v1/completions", "[".repeat(10_001), "error unmarshaling request bodyMap: exceeded max depth", null],
    ["/v1/completions", '{"prompt":"hello world"}', "model not found in request body", "model"],
    ["/v1/completions", '{"prompt":"p","model":null}', "model not found in request body", "model"],
    ["/v1/completions", '{"prompt":"p","model":7}', "model must be a string", "model"],
    ["/v1/completions", '{"prompt":"p","model":""}', "model must not be empty", "model"],
    ["/generate", '{"text":"p","model":{}}', "model must be a string", "model"],
    [
      "/v1/chat/completions",
      '{"model":"m"}',
      "invalid chat completions request: must have valid messages field",
      "messages",
    ],
    [
      "/v1/chat/completions",
      '{"model":"m","messages":[ ]}',
      "invalid chat completions request: must have valid messages field",
      "messages",
    ],
    [
      "/v1/chat/completions",
      '{"model":"m","messages":"x"}',
      "invalid chat completions request: must have valid messages field",
      "messages",
    ],
    ...[
      "",
      ',"prompt":null',
      ',"prompt":""',
      ',"prompt":[]',
      ',"prompt":7',
      ',"prompt":{}',
      ',"prompt":["a",1]',
      ',"prompt":[1,"a"]',
      ',"prompt":[1.5]',
      ',"prompt":[1e2]',
      ',"prompt":[-1]',
      ',"prompt":[4294967296]',
      ',"prompt":[[1],2]',
      ',"prompt":[[1,"]"]]',
      ',"prompt":[[[1]]]',
      ',"prompt":[null]',
    ].map((member) => [
      "/v1/completions",
      `{"model":"m"${member}}`,
      "invalid completions request: must have prompt field",
      "prompt",
    ]),
    ["/v1/embeddings", '{"model":"m"}', "invalid embeddings request: must have input field", "input"],
    ["/v1/responses", '{"model":"m"}', "invalid responses request: must have input field", "input"],
    ["/v1/responses", '{"model":"m","input":{}}', "invalid responses request: must have input field", "input"],
    ["/v1/conversations", '{"items":[]}', "invalid conversations request: must have items field", "items"],
    [
      "/images/generations",
      '{"model":"m","prompt":""}',
      "invalid images generations request: must have prompt field",
      "prompt",
    ],
    ["/v1/messages", '{"model":"m"}', "invalid messages request: must have at least one message", "messages"],
    ["/v1/messages/count_tokens", '{"messages":[{}]}', "model not found in request body", "model"],
    [
      "/inference/v1/generate",
      '{"token_ids":[]}',
      "invalid generate request: must have non-empty token_ids field",
      "token_ids",
    ],
    [
      "/inference/v1/generate",
      '{"token_ids":["a"]}',
      "invalid generate request: must have non-empty token_ids field",
      "token_ids",
    ],
    ["/generate", '{"model":"m"}', "invalid generate request: must have text or input_ids field", "text"],
  ])("%s with %s: %s", (path, body, message, param) => {
    expect(rejected(path ?? "", body ?? "")).toMatchObject({ code: "BadRequest", message, param });
  });

  it("never repeats what the client wrote", () => {
    const bodies = ['{"secret"', '{"model":"secret","prompt":secret}', '{"model":"m","prompt":{"secret":1}}', "secret"];
    for (const body of bodies) expect(JSON.stringify(rejected("/v1/completions", body))).not.toContain("secret");
  });
});
