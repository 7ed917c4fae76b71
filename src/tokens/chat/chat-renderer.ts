/** Renders one chat request to its prompt text, and says whether the text is surely the one that Dynamo's frontend would render. */
import { isRecord, type JsonRecord } from "../json-record.ts";
import type { TokenizeFailure } from "../prompt-tokenizer.ts";
import type { ChatTemplateSpec, TemplateVariant } from "./chat-template.ts";
import { orderMessages } from "./message-order.ts";
import {
  injectReasoning,
  joinReasoning,
  type Message,
  type MessageFacts,
  parseArguments,
  readMessages,
  shapeContents,
} from "./messages.ts";
import { hasOddSpace, hasOddValues } from "./odd-json.ts";
import { type ArgumentDefaults, readTemplateArguments } from "./template-arguments.ts";
import { type TemplateBounds, TemplateBudget, TemplateProgram, TemplateRefusal } from "./template-engine.ts";
import { readTools } from "./tools.ts";

export interface ChatOptions extends ArgumentDefaults {
  /** Arguments of tool calls become objects whatever the template says (tool_call_arguments_format of the card, glm47). */
  readonly argumentsAsObjects: boolean;
  /** The ids are never to stand in for the prompt: something of the card changes prompts in ways not known here. */
  readonly isDoubtful: boolean;
}

export interface RenderedChat {
  readonly kind: "rendered";
  readonly text: string;
  readonly isExact: boolean;
}

/** `budget`: it takes more steps than it may here. */
export type RenderOutcome = RenderedChat | TokenizeFailure | { readonly kind: "none" } | { readonly kind: "budget" };

const stripsSpace = /trim|strip/;
const continueTag = "CONTINUE_FINAL_MESSAGE_TAG ";
const notFound = "Unable to continue the final message because it was not found in the rendered chat template.";

export class ChatRenderer {
  readonly #spec: ChatTemplateSpec;
  readonly #options: ChatOptions;
  readonly #plain: TemplateProgram;
  readonly #withTools: TemplateProgram;

  constructor(spec: ChatTemplateSpec, options: ChatOptions) {
    this.#spec = spec;
    this.#options = options;
    this.#plain = new TemplateProgram(spec.plain.source);
    this.#withTools =
      spec.withTools.source === spec.plain.source ? this.#plain : new TemplateProgram(spec.withTools.source);
  }

  /** `bodyText` is the JSON that `body` was read from. */
  render(body: JsonRecord, bodyText: string, bounds: TemplateBounds, now: Date): RenderOutcome {
    const sent = body["messages"];
    if (!Array.isArray(sent) || sent.length === 0)
      return invalid("`messages` must be an array with at least one message");
    const continues = body["continue_final_message"] === true;
    if (continues && (body["add_generation_prompt"] ?? true) === true) {
      return invalid("Cannot set both `continue_final_message` and `add_generation_prompt` to True.");
    }
    const args = readTemplateArguments(body, this.#options);
    if (typeof args === "string") return invalid(args);
    const facts: MessageFacts = { hasMedia: false, isDoubtful: false };
    const messages = readMessages(sent, facts);
    if (continues && !markFinal(messages)) return invalid(notFound);
    const tools = readTools(body);
    const hasTools = tools !== undefined && tools.length > 0;
    const variant = hasTools ? this.#spec.withTools : this.#spec.plain;
    const shaped = this.#shape(messages, variant);
    const variables: Record<string, unknown> = {
      messages: shaped,
      tools: tools ?? null,
      bos_token: this.#spec.bosToken ?? null,
      eos_token: this.#spec.eosToken ?? null,
      unk_token: this.#spec.unkToken ?? null,
      add_generation_prompt: !continues && body["add_generation_prompt"] !== false,
      ...(body["documents"] === undefined ? {} : { documents: body["documents"] }),
      ...args,
    };
    const rendered = run(hasTools ? this.#withTools : this.#plain, variables, bounds, now);
    if (typeof rendered !== "string") return rendered;
    const text = continues ? cutFinal(rendered) : rendered;
    if (text === undefined) return invalid(notFound);
    const isExact =
      this.#spec.isFaithful &&
      !this.#options.isDoubtful &&
      !facts.hasMedia &&
      !facts.isDoubtful &&
      body["documents"] === undefined &&
      !(stripsSpace.test(variant.source) && hasOddSpace(bodyText)) &&
      !hasOddSpelling(body, bodyText);
    return { kind: "rendered", text, isExact };
  }

  #shape(messages: Message[], variant: TemplateVariant): readonly Message[] {
    const { traits } = variant;
    const ordered = orderMessages(messages, traits.order);
    shapeContents(ordered, this.#spec.needsArrays, this.#spec.placeholder);
    if (this.#options.argumentsAsObjects) parseArguments(ordered, true);
    else parseArguments(ordered, !traits.takesArgumentText);
    if (!traits.readsReasoning) injectReasoning(ordered);
    else if (traits.needsReasoningText) joinReasoning(ordered);
    return ordered;
  }
}

function invalid(message: string): TokenizeFailure {
  return { kind: "invalid", message };
}

function run(
  program: TemplateProgram,
  variables: JsonRecord,
  bounds: TemplateBounds,
  now: Date,
): string | TokenizeFailure | { readonly kind: "budget" } {
  try {
    return program.render(variables, bounds, now);
  } catch (error) {
    if (error instanceof TemplateBudget) return { kind: "budget" };
    if (error instanceof TemplateRefusal) return invalid(error.message);
    return { kind: "failed", message: `the chat template failed: ${messageOf(error)}` };
  }
}

function messageOf(error: unknown): string {
  return typeof error === "object" && error !== null && "message" in error ? String(error.message) : String(error);
}

/** Marks the end of the last message's text; false when it has none. */
function markFinal(messages: readonly Message[]): boolean {
  const last = messages.at(-1);
  const content = last?.["content"];
  if (last === undefined) return false;
  if (typeof content === "string" && content !== "") {
    last["content"] = content + continueTag;
    return true;
  }
  if (!Array.isArray(content)) return false;
  const parts = content.filter(isRecord);
  const part = parts.findLast((candidate) => typeof candidate["text"] === "string" && candidate["text"] !== "");
  if (part === undefined) return false;
  Object.assign(part, { text: `${String(part["text"])}${continueTag}` });
  return true;
}

function cutFinal(text: string): string | undefined {
  const at = text.lastIndexOf(continueTag.trimEnd());
  if (at < 0) return undefined;
  return text.startsWith(continueTag, at) ? text.slice(0, at) : text.slice(0, at).trimEnd();
}

/** Only these does a template print as JSON. */
function printable(body: JsonRecord): readonly unknown[] {
  const messages = Array.isArray(body["messages"]) ? body["messages"].filter(isRecord) : [];
  const calls = messages.flatMap((message) => [message["tool_calls"], message["function_call"]]);
  return [body["tools"], body["chat_template_args"], body["chat_template_kwargs"], ...calls].filter(
    (value) => value !== undefined && value !== null,
  );
}

function hasOddSpelling(body: JsonRecord, bodyText: string): boolean {
  if (printable(body).length === 0) return false;
  if (hasOddValues(bodyText, (document) => (isRecord(document) ? printable(document) : []))) return true;
  const messages = Array.isArray(body["messages"]) ? body["messages"].filter(isRecord) : [];
  return messages.some((message) => argumentTexts(message).some((text) => hasOddValues(text, (value) => [value])));
}

function argumentTexts(message: JsonRecord): string[] {
  const calls: readonly unknown[] = Array.isArray(message["tool_calls"]) ? message["tool_calls"] : [];
  return [...calls.filter(isRecord).map((call) => call["function"]), message["function_call"]]
    .filter(isRecord)
    .map((call) => call["arguments"])
    .filter((text) => typeof text === "string");
}
