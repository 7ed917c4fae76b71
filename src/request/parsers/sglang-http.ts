/** SGLang's native API: POST /generate with text or input_ids, one or a batch. */
import { jsonProtocols } from "../app-protocol.ts";
import { BodyMembers, type BodyOf, badField, readJsonBody } from "../json-body.ts";
import { memberCount } from "../json-member.ts";
import type { Prompt } from "../parsed-body.ts";
import { opaquePrompt, promptAt } from "../prompt.ts";
import { isRejection } from "../rejection.ts";
import type { RequestParser } from "./request-parser.ts";

const type = "sglanghttp-parser";

const members = new BodyMembers("text", "input_ids", "input_embeds", "sampling_params");

export const sglangHttpParser: RequestParser = {
  type,
  paths: ["generate"],
  appProtocols: jsonProtocols,
  parse(_path, _headers, bytes) {
    const body = readJsonBody(bytes, members);
    if (isRejection(body)) return body;
    const prompt = promptOf(body);
    if (prompt === undefined) {
      const isPresent = body.range("text") !== undefined || body.range("input_ids") !== undefined;
      return badField("invalid generate request: must have text or input_ids field", "text", isPresent);
    }
    return body.parsed({
      api: "sglang-generate",
      parser: type,
      prompt,
      // the API has no model of its own; a gateway's is taken where there is one
      modelOptional: true,
      // a batch may have a list of parameters: then no single bound holds
      maxOutputTokens: memberCount(bytes, body.range("sampling_params"), "max_new_tokens"),
    });
  },
};

function promptOf(body: BodyOf<typeof members>): Prompt | undefined {
  const text = body.range("text") ?? body.range("input_ids");
  if (text !== undefined) return promptAt(body.bytes, text.start, text.end);
  return body.range("input_embeds") === undefined ? undefined : opaquePrompt;
}
