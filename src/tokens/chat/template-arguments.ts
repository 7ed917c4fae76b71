/**
 * chat_template_args (chat_template_kwargs) of a request with its reasoning controls folded in, as Dynamo 1.6.1 folds them
 * (chat_completions.rs, normalize_reasoning_template_args; preprocessor.rs, normalize_thinking_aliases): one decision, stated in every dialect.
 */
import { isRecord, type JsonRecord } from "../json-record.ts";

export interface ArgumentDefaults {
  /** runtime_data.default_thinking_mode of the card. */
  readonly thinkingMode: "enabled" | "disabled" | undefined;
  /** Of families that think unless told otherwise (kimi_k25). */
  readonly thinksByDefault: boolean;
}

const controls = ["thinking", "enable_thinking", "thinking_mode", "reasoning_effort"];

/** The message of what is wrong, or the arguments. */
export function readTemplateArguments(body: JsonRecord, defaults: ArgumentDefaults): Record<string, unknown> | string {
  const sent = body["chat_template_args"] ?? body["chat_template_kwargs"];
  const args: Record<string, unknown> = isRecord(sent) ? { ...sent } : {};
  if ("chat_template" in args) return "`chat_template` is not supported inside `chat_template_args`";
  const fromClient = (body["thinking"] ?? null) !== null || controls.some((name) => name in args);
  const folded = foldReasoning(body, args);
  if (folded !== undefined) return folded;
  if (!fromClient && !("reasoning_effort" in args) && defaults.thinkingMode !== undefined) {
    setThinking(args, defaults.thinkingMode === "enabled");
  }
  const decided = aliasDecision(args) ?? (defaults.thinksByDefault ? true : undefined);
  if (decided !== undefined) {
    args["thinking"] = decided;
    args["enable_thinking"] = decided;
  }
  return args;
}

function foldReasoning(body: JsonRecord, args: Record<string, unknown>): string | undefined {
  const mode = rootThinking(body["thinking"]);
  if (mode === "wrong")
    return "`thinking` must be a boolean or an object with `type` set to `enabled`, `disabled`, or `adaptive`";
  const effort = body["reasoning_effort"] ?? args["reasoning_effort"] ?? undefined;
  const hasControl = "thinking" in args || "enable_thinking" in args || "thinking_mode" in args;
  if (mode === undefined && effort === undefined && !hasControl) return undefined;
  if (mode === "enabled" || mode === "disabled") {
    setThinking(args, mode === "enabled");
  } else if (mode === "adaptive") {
    delete args["thinking"];
    delete args["enable_thinking"];
    args["thinking_mode"] = "adaptive";
  }
  const decided =
    boolean(args["thinking"]) ?? boolean(args["enable_thinking"]) ?? decisionOfMode(args["thinking_mode"], effort);
  if (decided !== undefined) setThinking(args, decided);
  if (effort !== undefined) args["reasoning_effort"] = effort;
  return undefined;
}

function rootThinking(thinking: unknown): "enabled" | "disabled" | "adaptive" | "wrong" | undefined {
  if (thinking === undefined || thinking === null) return undefined;
  if (typeof thinking === "boolean") return thinking ? "enabled" : "disabled";
  const type = isRecord(thinking) ? thinking["type"] : undefined;
  return type === "enabled" || type === "disabled" || type === "adaptive" ? type : "wrong";
}

function decisionOfMode(mode: unknown, effort: unknown): boolean | undefined {
  switch (typeof mode === "string" ? mode.toLowerCase() : undefined) {
    case "adaptive":
      return undefined;
    case "enabled":
      return true;
    case "disabled":
      return false;
    default:
      return typeof effort === "string" ? effort !== "none" : undefined;
  }
}

const truths = new Set(["1", "true", "on", "yes"]);
const falsehoods = new Set(["0", "false", "off", "no"]);

function aliasDecision(args: JsonRecord): boolean | undefined {
  for (const name of ["thinking", "enable_thinking"]) {
    const value = args[name];
    if (typeof value === "boolean") return boolean(args["thinking"]) ?? boolean(args["enable_thinking"]);
    if (typeof value === "string") return truths.has(value.trim().toLowerCase());
    if (typeof value === "number") return value !== 0;
  }
  const mode = args["thinking_mode"];
  if (typeof mode === "boolean") return mode;
  if (typeof mode === "number") return mode !== 0;
  if (typeof mode !== "string") return undefined;
  const lower = mode.trim().toLowerCase();
  if (lower === "enabled" || truths.has(lower)) return true;
  return lower === "disabled" || falsehoods.has(lower) ? false : undefined;
}

function setThinking(args: Record<string, unknown>, isOn: boolean): void {
  args["thinking"] = isOn;
  args["enable_thinking"] = isOn;
  args["thinking_mode"] = isOn ? "enabled" : "disabled";
}

function boolean(value: unknown): boolean | undefined {
  return typeof value === "boolean" ? value : undefined;
}
