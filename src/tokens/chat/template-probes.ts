/** Finds out, by rendering short conversations, what a template can take. Run where a template that never ends does no harm. */

import type { JsonRecord } from "../json-record.ts";
import {
  type ChatTemplateSpec,
  cleanTemplate,
  isPatchedByDynamo,
  readTokenText,
  type TemplateSources,
  type TemplateTraits,
} from "./chat-template.ts";
import { TemplateProgram } from "./template-engine.ts";

const bounds = { steps: 1_000_000, milliseconds: 250 };
const toolsProbe = [
  { type: "function", function: { name: "probe", description: "", parameters: { type: "object", properties: {} } } },
];

type Render = (messages: readonly unknown[], extra?: JsonRecord) => string | undefined;

/** Throws when a source is no template. */
export function describeTemplate(
  sources: TemplateSources,
  config: JsonRecord,
  hasOwnFormatter: boolean,
): ChatTemplateSpec {
  const tokens = {
    bosToken: readTokenText(config, "bos_token"),
    eosToken: readTokenText(config, "eos_token"),
    unkToken: readTokenText(config, "unk_token"),
  };
  const plain = cleanTemplate(sources.plain);
  const withTools = cleanTemplate(sources.withTools);
  const variables = {
    bos_token: tokens.bosToken ?? null,
    eos_token: tokens.eosToken ?? null,
    unk_token: tokens.unkToken ?? null,
  };
  const renderPlain = renderer(plain, variables);
  const renderWithTools = renderer(withTools, { ...variables, tools: toolsProbe });
  const bare = renderer(plain, {});
  const needsArrays = findNeedOfArrays(bare);
  const missing = Object.entries(variables).some(
    ([name, value]) => value === null && `${plain}${withTools}`.includes(name),
  );
  return {
    plain: { source: plain, traits: findTraits(plain, renderPlain) },
    withTools: { source: withTools, traits: findTraits(withTools, renderWithTools) },
    ...tokens,
    needsArrays,
    placeholder: needsArrays ? undefined : findPlaceholder(plain, bare),
    isFaithful: !(hasOwnFormatter || missing || isPatchedByDynamo(plain) || isPatchedByDynamo(withTools)),
  };
}

function renderer(source: string, variables: JsonRecord): Render {
  const program = new TemplateProgram(source);
  return (messages, extra = {}) => {
    try {
      return program.render(
        { add_generation_prompt: false, tools: null, ...variables, messages, ...extra },
        bounds,
        new Date(0),
      );
    } catch {
      return undefined;
    }
  };
}

const user = (content: unknown): JsonRecord => ({ role: "user", content });
const system = (content: unknown): JsonRecord => ({ role: "system", content });
const assistant = (content: unknown): JsonRecord => ({ role: "assistant", content });

function called(args: unknown, reasoning?: unknown): readonly JsonRecord[] {
  const call = { id: "call_probe", type: "function", function: { name: "probe", arguments: args } };
  const thoughts = reasoning === undefined ? {} : { reasoning_content: reasoning };
  return [
    user("u"),
    { role: "assistant", content: "", ...thoughts, tool_calls: [call] },
    { role: "tool", tool_call_id: "call_probe", content: "r" },
  ];
}

function findTraits(source: string, render: Render): TemplateTraits {
  const prompt = { add_generation_prompt: true };
  const text = '{"probe": "value"}';
  const takesArgumentText =
    source.includes("arguments is string") && (render(called(text), prompt) ?? "").includes(text);
  const readsReasoning = source.includes("reasoning_content");
  const args = takesArgumentText ? "{}" : {};
  const [first, last] = ["\u0001first thought\u0001", "\u0001last thought\u0001"];
  const joined = render(called(args, [first, last]), prompt) ?? "";
  const needsReasoningText =
    readsReasoning &&
    (render(called(args, first), prompt) ?? "").includes(first) &&
    !joined.includes(first) &&
    !joined.includes(last);
  return { readsReasoning, needsReasoningText, takesArgumentText, order: findOrder(render) };
}

function findOrder(render: Render): TemplateTraits["order"] {
  const refuses = (...messages: readonly JsonRecord[]): boolean => render(messages) === undefined;
  if (refuses(system("s"), user("u"))) return { demotesLaterSystem: false, joinsUsers: false };
  return {
    demotesLaterSystem:
      refuses(system("s0"), user("u"), system("s1")) ||
      refuses(system("s0"), user("u"), assistant("a"), system("s1"), user("u2")),
    joinsUsers: refuses(system("s"), user("u0"), user("u1")),
  };
}

function findNeedOfArrays(render: Render): boolean {
  const probe = "template_test";
  const asArray = render([user([{ type: "text", text: probe }])]) ?? "";
  return asArray.includes(probe) && !(render([user(probe)]) ?? "").includes(probe);
}

function findPlaceholder(source: string, render: Render): string | undefined {
  if (source.includes("<|end|>") && source.includes("<|assistant|>")) return "<|image_{n}|>";
  if (source.includes("USER:") && source.includes("ASSISTANT:")) return "<image>";
  const probe = "\u0001passthrough probe\u0001";
  if ((render([user(probe)]) ?? "").trim() !== probe) return undefined;
  const mixed = render([user([{ type: "text", text: probe }, { type: "image" }])]) ?? "";
  return mixed.includes("[") && mixed.includes("type") ? "" : undefined;
}
