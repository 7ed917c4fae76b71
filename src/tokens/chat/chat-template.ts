/**
 * The chat template of a model: what its files say (a description that travels between threads), and the rendering of one request as Dynamo
 * 1.6.1 renders it (dynamo-renderer 8.0.3, template/{formatters,oai,tokcfg}.rs).
 */
import { isRecord, type JsonRecord, recordAt } from "../json-record.ts";
import type { OrderRules } from "./message-order.ts";

export interface TemplateTraits {
  readonly readsReasoning: boolean;
  /** Reads it, but only as one text. */
  readonly needsReasoningText: boolean;
  /** Prints the arguments of tool calls as the string they came as. */
  readonly takesArgumentText: boolean;
  readonly order: OrderRules;
}

export interface TemplateVariant {
  readonly source: string;
  readonly traits: TemplateTraits;
}

/** Plain data. */
export interface ChatTemplateSpec {
  readonly plain: TemplateVariant;
  readonly withTools: TemplateVariant;
  readonly bosToken: string | undefined;
  readonly eosToken: string | undefined;
  readonly unkToken: string | undefined;
  readonly needsArrays: boolean;
  /** What stands for the n-th image in text; undefined where the template handles parts, or nobody knows. */
  readonly placeholder: string | undefined;
  /** False where Dynamo itself patches the template or formats without it. */
  readonly isFaithful: boolean;
}

export interface TemplateSources {
  readonly plain: string;
  readonly withTools: string;
}

/** chat_template.jinja goes before `chat_template` of tokenizer_config.json: a text, `{name: text}` records, or `{name, template}` records. */
export function readTemplateSources(config: JsonRecord, templateFile: string | undefined): TemplateSources | undefined {
  if (templateFile !== undefined) return { plain: templateFile, withTools: templateFile };
  const declared = config["chat_template"];
  if (typeof declared === "string") return { plain: declared, withTools: declared };
  if (!Array.isArray(declared)) return undefined;
  const named = new Map<string, string>();
  for (const entry of declared.filter(isRecord)) {
    const { name, template } = entry as { readonly name?: unknown; readonly template?: unknown };
    if (typeof name === "string" && typeof template === "string") named.set(name, template);
    else for (const [key, value] of Object.entries(entry)) if (typeof value === "string") named.set(key, value);
  }
  const plain = named.get("default");
  return plain === undefined ? undefined : { plain, withTools: named.get("tool_use") ?? plain };
}

/** A token given as text or as an AddedToken. */
export function readTokenText(config: JsonRecord, name: string): string | undefined {
  const text = config[name] ?? undefined;
  if (typeof text === "string") return text;
  const content = recordAt(config, name)?.["content"];
  return typeof content === "string" ? content : undefined;
}

/** Tags that only training reads: their body stays, in a scope of its own. */
export function cleanTemplate(source: string): string {
  return source
    .replaceAll(/\{%([-+]?)\s*generation\s*([-+]?)%\}/g, "{%$1 if true $2%}")
    .replaceAll(/\{%([-+]?)\s*endgeneration\s*([-+]?)%\}/g, "{%$1 endif $2%}");
}

/** Families whose prompt Dynamo writes in its own code, by `model_type` of config.json or, without one, by the model's name. */
export function hasOwnFormatter(modelType: string | undefined, modelName: string): boolean {
  const name = modelName.toLowerCase();
  switch (modelType?.toLowerCase()) {
    case undefined:
    case "":
      return (
        /kimi[-_]?k3|^deepseek[-_.]?v4(?:[-_.]|$)/.test(name) || (/deepseek.*v3\.2/.test(name) && !name.includes("exp"))
      );
    case "kimi_k3":
    case "deepseek_v4":
    case "deepseek_v41":
    case "inkling_mm_model":
      return true;
    case "deepseek_v32":
    case "deepseek_v3_2":
      return !name.includes("exp");
    default:
      return false;
  }
}

/** Templates that Dynamo patches while it loads them (Gemma 4's and MiniMax M2's). */
export function isPatchedByDynamo(source: string): boolean {
  return (
    source.includes("<minimax:tool_call>") ||
    (source.includes("<|channel>thought") && source.includes("<|tool_call>call:"))
  );
}
