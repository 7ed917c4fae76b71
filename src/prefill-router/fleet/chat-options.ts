/** What a model card says of the text that a chat becomes, as the tokenizer takes it. */
import type { ChatConfig } from "../../dynamo/model-card/model-card.ts";
import type { PromptTokenizerOptions } from "../../tokens/create-prompt-tokenizer.ts";

/** Families whose frontend formats prompts in ways that their template does not say (dynamo-renderer 8.0.3). */
const doubtfulFamilies: ReadonlySet<string> = new Set(["minimax_m3", "kimi_k3"]);

export function chatOptionsOf(chat: ChatConfig | undefined): NonNullable<PromptTokenizerOptions["chat"]> {
  if (chat === undefined) return {};
  const { toolCallParser, reasoningParser, defaultThinkingMode } = chat;
  const families = [toolCallParser, reasoningParser];
  return {
    thinkingMode:
      defaultThinkingMode === "enabled" || defaultThinkingMode === "disabled" ? defaultThinkingMode : undefined,
    thinksByDefault: reasoningParser === "kimi_k25",
    argumentsAsObjects: chat.toolCallArgumentsFormat === "json_object" || toolCallParser === "glm47",
    isDoubtful:
      chat.hasPromptContext ||
      !chat.excludesToolsWhenChoiceNone ||
      families.some((family) => family !== undefined && doubtfulFamilies.has(family)),
  };
}
