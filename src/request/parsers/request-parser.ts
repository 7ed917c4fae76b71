/** The contract of a parser: what paths it reads and what it finds in a body. */
import type { AppProtocol } from "../app-protocol.ts";
import type { HeaderLookup } from "../inference-request.ts";
import type { ParsedBody } from "../parsed-body.ts";
import type { Rejection } from "../rejection.ts";

export interface RequestParser {
  /** Plugin type, e.g. "openai-parser". */
  readonly type: string;
  /** Path suffixes without leading and trailing slashes, matched at a slash; none makes the parser the fallback. */
  readonly paths: readonly string[];
  /** Over which its requests come; [] for any. A pool of another protocol is not for it. */
  readonly appProtocols: readonly AppProtocol[];
  /** `path` is the entry of `paths` that matched, "" for a fallback. Ranges of the result index `body`. */
  parse(path: string, headers: HeaderLookup, body: Buffer): ParsedBody | Rejection;
}
