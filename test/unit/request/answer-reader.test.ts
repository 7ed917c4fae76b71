import { describe, expect, it } from "@jest/globals";
import { createAnswerReader } from "../../../src/request/answer/reader.ts";
import type { AnswerReaderOptions } from "../../../src/request/answer-reader.ts";
import type { Usage } from "../../../src/request/usage.ts";
import fc from "../../properties.ts";

interface Reading {
  readonly sent: string;
  readonly usage: Usage | undefined;
}

function read(options: AnswerReaderOptions, chunks: readonly Buffer[]): Reading {
  const reader = createAnswerReader(options);
  const sent = chunks.flatMap((chunk, i) => [...reader.push(chunk, i === chunks.length - 1)]);
  return { sent: Buffer.concat(sent).toString("latin1"), usage: reader.usage() };
}

/** Cuts at the given positions, taken modulo the length; a final empty chunk ends some streams, as Envoy does. */
function cut(bytes: Buffer, positions: readonly number[], emptyEnd: boolean): readonly Buffer[] {
  const cuts = positions.map((position) => position % (bytes.length + 1)).sort((left, right) => left - right);
  const chunks = [0, ...cuts].map((from, i) => bytes.subarray(from, cuts[i] ?? bytes.length));
  return emptyEnd ? [...chunks, Buffer.alloc(0)] : chunks;
}

/** Whole, byte by byte, and in two parts at every place. */
function* splits(bytes: Buffer): Generator<readonly Buffer[]> {
  yield [bytes];
  yield [...Array.from(bytes, (_, i) => bytes.subarray(i, i + 1)), Buffer.alloc(0)];
  for (let at = 0; at <= bytes.length; at++) yield [bytes.subarray(0, at), bytes.subarray(at)];
}

const events = (...data: readonly string[]) => data.map((json) => `data: ${json}\n\n`).join("");
const counts = (prompt?: number, completion?: number, total?: number, cached?: number): Usage => ({
  promptTokens: prompt,
  completionTokens: completion,
  totalTokens: total,
  cachedTokens: cached,
});

const chat = (rest: string) => `{"id":"c","object":"chat.completion.chunk","model":"target","choices":[${rest}`;

interface Answer {
  readonly name: string;
  readonly api: AnswerReaderOptions["api"];
  readonly streaming: boolean;
  readonly text: string;
  readonly usage: Usage | undefined;
}

const answers: readonly Answer[] = [
  {
    name: "a chat stream of vLLM with include_usage",
    api: "openai-chat",
    streaming: true,
    text: `${events(
      chat('{"delta":{"content":"日本 é \\"usage\\": {\\"prompt_tokens\\":1}"}}],"usage":null}'),
      chat(
        '],"usage":{"prompt_tokens":7,"total_tokens":17,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}}',
      ),
    )}data: [DONE]\n\n`,
    usage: counts(7, 10, 17, 4),
  },
  {
    name: "a stream that reports usage all along",
    api: "openai-completions",
    streaming: true,
    text: events(
      '{"choices":[{"text":"a"}],"usage":{"prompt_tokens":7,"total_tokens":8,"completion_tokens":1,"prompt_tokens_details":null}}',
      '{"choices":[{"text":"b"}],"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2,"prompt_tokens_details":null}}',
    ),
    usage: counts(7, 2, 9),
  },
  {
    name: "a chat stream without usage",
    api: "openai-chat",
    streaming: true,
    text: `${events(chat('{"delta":{"content":"usage"}}],"x":["usage","usage",{"a\\"usage":{"prompt_tokens":1}}]}'))}data: [DONE]\n\n`,
    usage: undefined,
  },
  {
    name: "a unary chat answer, spaced, usage before choices",
    api: "openai-chat",
    streaming: false,
    text: '{ "usage" :\r\n {"prompt_tokens" : 5, "completion_tokens": 6, "total_tokens": 11}, "model" : "target", "choices": [{"message": {"content": "\\\\\\"usage\\":{"}}]}',
    usage: counts(5, 6, 11),
  },
  {
    name: "an embeddings answer",
    api: "openai-embeddings",
    streaming: false,
    text: '{"object":"list","data":[{"embedding":[0.1,-2e-3]}],"model":"target","usage":{"prompt_tokens":5,"total_tokens":5}}',
    usage: counts(5, undefined, 5),
  },
  {
    name: "a responses stream, whose tools mention usage",
    api: "openai-responses",
    streaming: true,
    text: `event: response.created\n${events('{"type":"response.created","response":{"usage":null,"tools":[{"parameters":{"properties":{"usage":{"type":"string"}}}}]}}')}event: response.completed\n${events('{"type":"response.completed","response":{"model":"target","tools":[{"parameters":{"properties":{"usage":{"type":"string"}}}}],"usage":{"input_tokens":31,"input_tokens_details":{"cached_tokens":16},"output_tokens":11,"total_tokens":42}}}')}`,
    usage: counts(31, 11, 42, 16),
  },
  {
    name: "an Anthropic stream, whose usage is spread",
    api: "anthropic-messages",
    streaming: true,
    text: `event: message_start\n${events('{"type":"message_start","message":{"model":"target","usage":{"input_tokens":25,"cache_read_input_tokens":100,"cache_creation_input_tokens":5,"output_tokens":1}}}')}event: message_delta\n${events('{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}')}`,
    usage: counts(130, 15, undefined, 100),
  },
  {
    name: "an Anthropic answer of vLLM",
    api: "anthropic-messages",
    streaming: false,
    text: '{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":1,"cache_read_input_tokens":9}}}],"model":"target","usage":{"input_tokens":25,"output_tokens":3}}',
    usage: counts(25, 3),
  },
  {
    name: "an SGLang stream",
    api: "sglang-generate",
    streaming: true,
    text: events(
      '{"text":"a","meta_info":{"id":"1","finish_reason":null,"prompt_tokens":9,"completion_tokens":1,"cached_tokens":2}}',
      '{"text":"a}","meta_info":{"id":"}\\"","finish_reason":{"type":"stop"},"prompt_tokens":9,"completion_tokens":2,"cached_tokens":2}}',
    ),
    usage: counts(9, 2, undefined, 2),
  },
  {
    name: "an error",
    api: "openai-chat",
    streaming: true,
    text: '{"error":{"message":"no","type":"x","param":null,"code":404}}',
    usage: undefined,
  },
  {
    name: "bytes that are no JSON",
    api: "opaque",
    streaming: false,
    text: '"usage":{"prompt_tokens":1,} "usage":{]}} "model":"targ',
    usage: undefined,
  },
];

const restoreModel = { from: "target", to: 'client/"ü"' };

describe.each(answers)("the reader of $name", ({ api, streaming, text, usage }) => {
  const bytes = Buffer.from(text);

  it("reports the same usage and passes the same bytes, wherever the stream is cut", () => {
    const expected = { sent: bytes.toString("latin1"), usage };
    for (const chunks of splits(bytes)) {
      expect(read({ api, streaming, restoreModel: undefined }, chunks)).toEqual(expected);
    }
  });

  it("restores the client's model name and no other byte, wherever the stream is cut", () => {
    const restored = text.replaceAll(
      /("model" ?: ?)"target"/g,
      (_, before: string) => before + JSON.stringify(restoreModel.to),
    );
    const expected = { sent: Buffer.from(restored).toString("latin1"), usage };
    for (const chunks of splits(bytes)) expect(read({ api, streaming, restoreModel }, chunks)).toEqual(expected);
  });
});

describe("an answer reader", () => {
  const plain = { api: "openai-chat", streaming: true } as const;

  it("returns the very chunk when there is nothing to change", () => {
    const chunk = Buffer.from(events(chat("]}")));
    for (const model of [undefined, { from: "other", to: "x" }, { from: "same", to: "same" }]) {
      const sent = createAnswerReader({ ...plain, restoreModel: model }).push(chunk, false);
      expect(sent.length).toBe(1);
      expect(sent[0]).toBe(chunk);
    }
  });

  it("holds back the undecided tail only, and nothing at the end of the stream", () => {
    const reader = createAnswerReader({ ...plain, restoreModel });
    const push = (text: string, end = false) => Buffer.concat(reader.push(Buffer.from(text), end)).toString();
    expect(push('{"id":1,"mod')).toBe('{"id":1,');
    expect(push('es":2,"model" :')).toBe('"modes":2,');
    expect(push(' "targe')).toBe("");
    expect(push('ts","model":"target')).toBe('"model" : "targets",');
    expect(push('"')).toBe('"model":"client/\\"ü\\""');
    expect(push(',"model":"tar', true)).toBe(',"model":"tar');
  });

  it.each([
    ['{"model":"t\\u0061rget"}', '{"model":"c"}'],
    ['{"a":1,\n"model"\t:\r\n"target"}', '{"a":1,\n"model"\t:\r\n"c"}'],
    ['{"x":{"model":"target"}}', '{"x":{"model":"c"}}'],
    ['{"model":"target","model":"target"}', '{"model":"c","model":"c"}'],
    ['{"model":"target2"}', undefined],
    ['{"model":"Target"}', undefined],
    ['{"model":["target"]}', undefined],
    ['{"my model":"target","model\\"":"target"}', undefined],
    ['{"a\\"model":"target"}', undefined],
    ['{"content":"\\"model\\":\\"target\\""}', undefined],
    ['["model","target"]', undefined],
    ['{"other":"model","x":"target"}', undefined],
    [`{"model":${" ".repeat(80)}"target"}`, undefined],
  ])("makes of %s: %s", (text, expected) => {
    const bytes = Buffer.from(text);
    for (const chunks of splits(bytes)) {
      expect(read({ ...plain, restoreModel: { from: "target", to: "c" } }, chunks).sent).toBe(expected ?? text);
    }
  });

  it("restores names that need escapes or several bytes a character", () => {
    for (const from of ['a"b\\c', "模型/é", "\u0001"]) {
      const text = events(`{"model":${JSON.stringify(from)},"x":1}`);
      for (const chunks of splits(Buffer.from(text))) {
        expect(read({ ...plain, restoreModel: { from, to: "c" } }, chunks).sent).toBe(events('{"model":"c","x":1}'));
      }
    }
  });

  it("never changes a byte but the names, nor depends on where any stream is cut", () => {
    const piece = fc.constantFrom(
      '"model"',
      '"mod',
      "el",
      '"',
      ":",
      " ",
      "{",
      ",",
      "}",
      "\\",
      '"target"',
      "target",
      '"usage"',
      '{"prompt_tokens":3}',
      '{"prompt_tokens":',
      "4",
      "é",
      "\n\n",
    );
    fc.assert(
      fc.property(
        fc.array(piece, { maxLength: 30 }),
        fc.array(fc.nat(), { maxLength: 12 }),
        fc.boolean(),
        (pieces, positions, emptyEnd) => {
          const bytes = Buffer.from(pieces.join(""));
          const chunks = cut(bytes, positions, emptyEnd);
          for (const model of [undefined, { from: "target", to: "client" }]) {
            const whole = read({ ...plain, restoreModel: model }, [bytes]);
            expect(read({ ...plain, restoreModel: model }, chunks)).toEqual(whole);
            if (model === undefined) expect(whole.sent).toBe(bytes.toString("latin1"));
            else expect(whole.sent.replaceAll("client", "target")).toBe(bytes.toString("latin1"));
          }
        },
      ),
      { numRuns: 1500 },
    );
  });

  it("finds usage at every place of a piece, small or large", () => {
    const usage = '"usage":{"prompt_tokens":7}';
    for (const size of [2_040, 2_048, 2_049, 2_060]) {
      for (let at = 0; at <= size - usage.length; at += 11) {
        const text = `${'u"e'.repeat(size).slice(0, Math.max(at - 1, 0))}${at > 0 ? "," : ""}${usage}`.padEnd(
          size,
          '"usag ',
        );
        expect(read({ ...plain, restoreModel: undefined }, [Buffer.from(text)]).usage).toEqual(counts(7));
      }
    }
  });

  it("passes over a usage object of more than 64 KiB and finds the next", () => {
    const huge = `{"usage":{"x":"${"y".repeat(70_000)}","prompt_tokens":1}}`;
    const bytes = Buffer.from(`${huge}{"usage":{"prompt_tokens":2}}`);
    const chunks = Array.from({ length: Math.ceil(bytes.length / 1000) }, (_, i) =>
      bytes.subarray(i * 1000, (i + 1) * 1000),
    );
    expect(read({ ...plain, restoreModel: undefined }, chunks).usage).toEqual(counts(2));
    expect(read({ ...plain, restoreModel: undefined }, [bytes]).usage).toEqual(counts(2));
  });
});
