/**
 * The messages of a chat request as Dynamo hands them to a template: read into its types and written back, so that unknown fields are gone, the
 * order of fields is its own and aliases have one name (dynamo-protocols 8.2.0, chat.rs; dynamo-renderer 8.0.3, oai.rs).
 */
import { isRecord, type JsonRecord } from "../json-record.ts";

export type Message = Record<string, unknown>;

export interface MessageFacts {
  /** Images, video or sound: their tokens are the engine's business. */
  hasMedia: boolean;
  /** Something Dynamo would refuse or read otherwise: the ids may differ from its own. */
  isDoubtful: boolean;
}

/** Fields by role, in the order they are written. */
const fieldsOfRole: ReadonlyMap<string, readonly string[]> = new Map([
  ["system", ["content", "name", "tools"]],
  ["developer", ["content", "name"]],
  ["user", ["content", "name"]],
  ["assistant", ["content", "reasoning_content", "refusal", "name", "audio", "tool_calls", "function_call", "partial"]],
  ["tool", ["content", "tool_call_id"]],
  ["function", ["content", "name"]],
]);

const mediaTypes: ReadonlyMap<string, string> = new Map([
  ["image_url", "image"],
  ["video_url", "video"],
  ["audio_url", "audio"],
]);

export function readMessages(messages: readonly unknown[], facts: MessageFacts): Message[] {
  return messages.map((message) => readMessage(message, facts));
}

function readMessage(source: unknown, facts: MessageFacts): Message {
  if (!isRecord(source)) {
    facts.isDoubtful = true;
    return {};
  }
  const role = source["role"];
  const fields = typeof role === "string" ? fieldsOfRole.get(role) : undefined;
  if (fields === undefined) {
    facts.isDoubtful = true;
    return { ...source };
  }
  const message: Message = { role };
  for (const field of fields) {
    const value = field === "reasoning_content" ? (source[field] ?? source["reasoning"]) : source[field];
    if (value === undefined || value === null) {
      if (field === "content" && role !== "assistant") facts.isDoubtful = true;
      continue;
    }
    message[field] = readField(field, value, facts);
  }
  return message;
}

function readField(field: string, value: unknown, facts: MessageFacts): unknown {
  switch (field) {
    case "content":
      if (Array.isArray(value) && value.length === 0) facts.isDoubtful = true;
      return Array.isArray(value) ? value.map((part: unknown) => readPart(part, facts)) : plain(value, facts);
    case "tool_calls":
      return Array.isArray(value) ? value.map((call: unknown) => readToolCall(call, facts)) : plain(value, facts);
    case "function_call":
      return readFunctionCall(value, facts);
    default:
      if (field === "partial" || field === "tools") facts.isDoubtful = true;
      return value;
  }
}

function plain(value: unknown, facts: MessageFacts): unknown {
  if (typeof value !== "string") facts.isDoubtful = true;
  return value;
}

function readPart(part: unknown, facts: MessageFacts): unknown {
  const type = isRecord(part) ? part["type"] : undefined;
  if (!isRecord(part) || typeof type !== "string") {
    facts.isDoubtful = true;
    return part;
  }
  if (type === "text") {
    if (typeof part["text"] !== "string") facts.isDoubtful = true;
    return { type, text: part["text"] };
  }
  facts.hasMedia = true;
  const media = mediaTypes.get(type);
  return media === undefined ? part : { type: media };
}

function readToolCall(call: unknown, facts: MessageFacts): unknown {
  if (!isRecord(call) || typeof call["id"] !== "string") {
    facts.isDoubtful = true;
    return call;
  }
  return { id: call["id"], type: call["type"] ?? "function", function: readFunctionCall(call["function"], facts) };
}

/** Arguments are a string whatever they were sent as. */
function readFunctionCall(call: unknown, facts: MessageFacts): unknown {
  if (!isRecord(call) || typeof call["name"] !== "string") {
    facts.isDoubtful = true;
    return call;
  }
  const sent = call["arguments"];
  if (typeof sent !== "string" && !isRecord(sent)) facts.isDoubtful = true;
  return { name: call["name"], arguments: typeof sent === "string" ? sent : JSON.stringify(sent) };
}

/** Content as the template can take it: text parts joined, or text as a part, by what the template was found to need. */
export function shapeContents(
  messages: readonly Message[],
  needsArrays: boolean,
  placeholder: string | undefined,
): void {
  for (const message of messages) {
    const content = message["content"];
    if (typeof content === "string") {
      if (needsArrays) message["content"] = [{ type: "text", text: content }];
    } else if (Array.isArray(content) && !needsArrays && content.length > 0) {
      const parts = content.filter(isRecord);
      if (parts.every((part) => part["type"] === "text")) message["content"] = parts.map(textOf).join("\n");
      else if (placeholder !== undefined) message["content"] = flatten(parts, placeholder);
    }
  }
}

function textOf(part: JsonRecord): string {
  return typeof part["text"] === "string" ? part["text"] : "";
}

function flatten(parts: readonly JsonRecord[], placeholder: string): string {
  let media = 0;
  return parts
    .map((part) => (part["type"] === "text" ? textOf(part) : placeholder.replaceAll("{n}", String(++media))))
    .join("");
}

/** Arguments as objects, where the template does not want the string; text that is not JSON stays. */
export function parseArguments(messages: readonly Message[], ofToolCalls: boolean): void {
  for (const message of messages) {
    const calls = message["tool_calls"];
    if (ofToolCalls && Array.isArray(calls))
      for (const call of calls) if (isRecord(call)) parseArgumentsOf(call["function"]);
    parseArgumentsOf(message["function_call"]);
  }
}

function parseArgumentsOf(call: unknown): void {
  if (!isRecord(call) || typeof call["arguments"] !== "string") return;
  try {
    Object.assign(call, { arguments: JSON.parse(call["arguments"]) as unknown });
  } catch {
    // Not JSON: the template gets the string.
  }
}

/** Earlier reasoning as <think> blocks of the content, for templates that do not read `reasoning_content`. */
export function injectReasoning(messages: readonly Message[]): void {
  for (const message of messages) {
    if (message["role"] !== "assistant") continue;
    const thoughts = thoughtsOf(message)
      .map((thought) => `<think>${thought}</think>`)
      .join("");
    if (thoughts === "") continue;
    const content = message["content"];
    if (Array.isArray(content)) message["content"] = [{ type: "text", text: thoughts }, ...(content as unknown[])];
    else if (content === undefined || typeof content === "string") message["content"] = `${thoughts}${content ?? ""}`;
    else continue;
    delete message["reasoning_content"];
  }
}

/** Reasoning in segments as one text, for templates that read it only so. */
export function joinReasoning(messages: readonly Message[]): void {
  for (const message of messages) {
    if (message["role"] === "assistant" && Array.isArray(message["reasoning_content"])) {
      message["reasoning_content"] = thoughtsOf(message).join("\n");
    }
  }
}

function thoughtsOf(message: Message): string[] {
  const reasoning = message["reasoning_content"];
  const segments: readonly unknown[] = Array.isArray(reasoning) ? reasoning : [reasoning];
  return segments.filter((segment): segment is string => typeof segment === "string" && segment !== "");
}
