/** The fallback parser: any body of any path, unread. Plugins see an opaque prompt and no model; the answer may hold usage all the same. */
import { opaqueBody, type ParsedBody } from "../parsed-body.ts";
import type { RequestParser } from "./request-parser.ts";

const unread: ParsedBody = { ...opaqueBody, readsResponse: true };

export const passthroughParser: RequestParser = {
  type: opaqueBody.parser,
  paths: [],
  appProtocols: [],
  parse: () => unread,
};
