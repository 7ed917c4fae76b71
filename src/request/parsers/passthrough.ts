/** The fallback parser: any body of any path, unread. Plugins see an opaque prompt and no model. */
import type { ParsedBody } from "../parsed-body.ts";
import { opaquePrompt } from "../prompt.ts";
import type { RequestParser } from "./request-parser.ts";

const type = "passthrough-parser";

const unread: ParsedBody = {
  api: "opaque",
  parser: type,
  model: "",
  modelRange: undefined,
  stream: false,
  maxOutputTokens: undefined,
  user: undefined,
  cacheSalt: undefined,
  nvextRange: undefined,
  prompt: opaquePrompt,
  readsResponse: true,
};

export const passthroughParser: RequestParser = { type, paths: [], parse: () => unread };
