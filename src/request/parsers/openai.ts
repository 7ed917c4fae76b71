/** The OpenAI dialects: chat, completions, embeddings, responses, conversations and images, and the render forms of the same bodies. */
import { jsonProtocols } from "../app-protocol.ts";
import { BodyMembers, type BodyOf, badField, readJsonBody } from "../json-body.ts";
import { hasElements, isArrayAt } from "../json-value.ts";
import type { ApiName, ParsedBody, Prompt } from "../parsed-body.ts";
import { chainOf, promptAt } from "../prompt.ts";
import { isRejection, type Rejection } from "../rejection.ts";
import type { RequestParser } from "./request-parser.ts";

const type = "openai-parser";

const members = new BodyMembers(
  "messages",
  "tools",
  "prompt",
  "input",
  "instructions",
  "items",
  "max_completion_tokens",
  "max_tokens",
  "max_output_tokens",
);

type OpenAiBody = BodyOf<typeof members>;

interface Dialect {
  readonly api: ApiName;
  readonly modelOptional: boolean;
  prompt(body: OpenAiBody): Prompt | Rejection;
}

const chat: Dialect = {
  api: "openai-chat",
  modelOptional: false,
  prompt: (body) =>
    messagesOf(body) ??
    badField(
      "invalid chat completions request: must have valid messages field",
      "messages",
      body.range("messages") !== undefined,
    ),
};

const completions: Dialect = {
  api: "openai-completions",
  modelOptional: false,
  prompt: (body) =>
    textOrTokens(body, "prompt") ??
    badField("invalid completions request: must have prompt field", "prompt", body.range("prompt") !== undefined),
};

const embeddings: Dialect = {
  api: "openai-embeddings",
  modelOptional: false,
  // vLLM takes a conversation in place of the input
  prompt: (body) =>
    textOrTokens(body, "input") ??
    messagesOf(body) ??
    badField("invalid embeddings request: must have input field", "input", body.range("input") !== undefined),
};

const responses: Dialect = {
  api: "openai-responses",
  modelOptional: false,
  prompt: (body) => {
    const input = body.range("input");
    const isText = input !== undefined && body.bytes[input.start] === 0x22;
    if (input === undefined || !(isText || isArrayAt(body.bytes, input.start))) {
      return badField("invalid responses request: must have input field", "input", input !== undefined);
    }
    return chainOf(body.arrayRange("tools"), body.range("instructions"), input);
  },
};

const conversations: Dialect = {
  api: "openai-conversations",
  // a conversation is state of the server, which OpenAI's API creates without naming a model
  modelOptional: true,
  prompt: (body) => {
    const items = body.arrayRange("items");
    if (items === undefined || !hasElements(body.bytes, items.start)) {
      return badField(
        "invalid conversations request: must have items field",
        "items",
        body.range("items") !== undefined,
      );
    }
    return chainOf(items);
  },
};

const images: Dialect = {
  api: "openai-images",
  modelOptional: false,
  prompt: (body) => {
    const prompt = body.range("prompt");
    if (prompt === undefined || body.bytes[prompt.start] !== 0x22 || prompt.end - prompt.start <= 2) {
      return badField("invalid images generations request: must have prompt field", "prompt", prompt !== undefined);
    }
    return chainOf({ start: prompt.start + 1, end: prompt.end - 1 });
  },
};

const dialects: ReadonlyMap<string, Dialect> = new Map([
  ["v1/chat/completions", chat],
  ["v1/completions", completions],
  ["v1/embeddings", embeddings],
  ["v1/responses", responses],
  ["v1/conversations", conversations],
  ["v1/chat/completions/render", chat],
  ["v1/completions/render", completions],
  ["v1/embeddings/render", embeddings],
  ["v1/responses/render", responses],
  ["v1/conversations/render", conversations],
  ["images/generations", images],
]);

export const openAiParser: RequestParser = {
  type,
  paths: [...dialects.keys()],
  appProtocols: jsonProtocols,
  parse(path, _headers, bytes): ParsedBody | Rejection {
    const body = readJsonBody(bytes, members);
    if (isRejection(body)) return body;
    const dialect = dialects.get(path) ?? completions;
    const prompt = dialect.prompt(body);
    if (isRejection(prompt)) return prompt;
    return body.parsed({
      api: dialect.api,
      parser: type,
      prompt,
      modelOptional: dialect.modelOptional,
      maxOutputTokens:
        body.count("max_completion_tokens") ?? body.count("max_tokens") ?? body.count("max_output_tokens"),
    });
  },
};

function messagesOf(body: OpenAiBody): Prompt | undefined {
  const messages = body.arrayRange("messages");
  if (messages === undefined || !hasElements(body.bytes, messages.start)) return undefined;
  return chainOf(body.arrayRange("tools"), messages);
}

function textOrTokens(body: OpenAiBody, member: "prompt" | "input"): Prompt | undefined {
  const range = body.range(member);
  return range === undefined ? undefined : promptAt(body.bytes, range.start, range.end);
}
