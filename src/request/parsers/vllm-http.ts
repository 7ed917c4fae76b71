/** vLLM's token-in, token-out API: POST /inference/v1/generate with token_ids and sampling_params. */
import { jsonProtocols } from "../app-protocol.ts";
import { BodyMembers, badField, readJsonBody } from "../json-body.ts";
import { memberCount } from "../json-member.ts";
import { hasElements, tokensIn } from "../json-value.ts";
import { isRejection } from "../rejection.ts";
import type { RequestParser } from "./request-parser.ts";

const type = "vllmhttp-parser";

const members = new BodyMembers("token_ids", "sampling_params");

export const vllmHttpParser: RequestParser = {
  type,
  paths: ["inference/v1/generate"],
  appProtocols: jsonProtocols,
  parse(_path, _headers, bytes) {
    const body = readJsonBody(bytes, members);
    if (isRejection(body)) return body;
    const range = body.arrayRange("token_ids");
    const tokens =
      range === undefined || !hasElements(bytes, range.start) ? undefined : tokensIn(bytes, range.start, range.end);
    if (tokens === undefined) {
      return badField(
        "invalid generate request: must have non-empty token_ids field",
        "token_ids",
        body.range("token_ids") !== undefined,
      );
    }
    return body.parsed({
      api: "vllm-generate",
      parser: type,
      prompt: { kind: "tokens", chains: [tokens] },
      // the engine then takes the model it serves
      modelOptional: true,
      maxOutputTokens: memberCount(bytes, body.range("sampling_params"), "max_tokens"),
    });
  },
};
