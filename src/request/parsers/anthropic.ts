/** Anthropic's messages and count_tokens. Its prompt is made of the tools, the system text and the messages, in that order. */
import { jsonProtocols } from "../app-protocol.ts";
import { BodyMembers, badField, readJsonBody } from "../json-body.ts";
import { memberString } from "../json-member.ts";
import { hasElements } from "../json-value.ts";
import { chainOf } from "../prompt.ts";
import { isRejection } from "../rejection.ts";
import type { RequestParser } from "./request-parser.ts";

const type = "anthropic-parser";
const messagesPath = "v1/messages";
const countTokensPath = "v1/messages/count_tokens";

const members = new BodyMembers("messages", "system", "tools", "max_tokens", "metadata");

export const anthropicParser: RequestParser = {
  type,
  paths: [messagesPath, countTokensPath],
  appProtocols: jsonProtocols,
  parse(path, _headers, bytes) {
    const body = readJsonBody(bytes, members);
    if (isRejection(body)) return body;
    const messages = body.arrayRange("messages");
    if (messages === undefined || !hasElements(bytes, messages.start)) {
      return badField(
        "invalid messages request: must have at least one message",
        "messages",
        body.range("messages") !== undefined,
      );
    }
    const counts = path === countTokensPath;
    return body.parsed({
      api: counts ? "anthropic-count-tokens" : "anthropic-messages",
      parser: type,
      prompt: chainOf(body.arrayRange("tools"), body.range("system"), messages),
      maxOutputTokens: body.count("max_tokens"),
      user: memberString(bytes, body.range("metadata"), "user_id"),
      readsResponse: !counts,
    });
  },
};
