/** The parsers a configuration names, and which of them reads a request: the one with the longest path suffix, else the fallback. */
import type { AppProtocol } from "./app-protocol.ts";
import type { HeaderLookup } from "./inference-request.ts";
import type { ParsedBody } from "./parsed-body.ts";
import { anthropicParser } from "./parsers/anthropic.ts";
import { openAiParser } from "./parsers/openai.ts";
import { passthroughParser } from "./parsers/passthrough.ts";
import type { RequestParser } from "./parsers/request-parser.ts";
import { sglangHttpParser } from "./parsers/sglang-http.ts";
import { vllmHttpParser } from "./parsers/vllm-http.ts";
import { type Rejection, reject } from "./rejection.ts";

const known: ReadonlyMap<string, RequestParser> = new Map(
  [openAiParser, anthropicParser, vllmHttpParser, sglangHttpParser, passthroughParser].map((parser) => [
    parser.type,
    parser,
  ]),
);

/** Plugin types of all parsers. */
export const parserTypes: readonly string[] = [...known.keys()];

/** The reference's set where the configuration has no requestHandler.parsers. */
export const defaultParserTypes: readonly string[] = [
  "openai-parser",
  "anthropic-parser",
  "vllmhttp-parser",
  "passthrough-parser",
];

/** Whether one of these parsers reads what comes over the protocol, as the reference asks before it is ready. */
export function readsProtocol(
  types: readonly string[],
  protocol: AppProtocol,
  parsers: ReadonlyMap<string, Pick<RequestParser, "appProtocols">> = known,
): boolean {
  return types.some((type) => {
    const protocols = parsers.get(type)?.appProtocols ?? [];
    return protocols.length === 0 || protocols.includes(protocol);
  });
}

export interface ParserSet {
  /** Types that were named but play no part: repeated, or behind the fallback, which ends registration. For a warning. */
  readonly skipped: readonly string[];
  /** `path` may carry a query. The result's ranges index `body`. */
  parse(method: string, path: string, headers: HeaderLookup, body: Buffer): ParsedBody | Rejection;
}

interface Route {
  /** With its leading slash. */
  readonly suffix: string;
  readonly path: string;
  readonly parser: RequestParser;
}

/** Throws a RangeError for a type that is not in parserTypes: the configuration has been validated against it. */
export function createParserSet(types: readonly string[]): ParserSet {
  const routes: Route[] = [];
  const taken = new Set<string>();
  const skipped: string[] = [];
  let fallback: RequestParser | undefined;
  for (const type of types) {
    const parser = known.get(type);
    if (parser === undefined) throw new RangeError(`unknown parser type ${type}`);
    if (fallback !== undefined || taken.has(type)) {
      skipped.push(type);
      continue;
    }
    taken.add(type);
    if (parser.paths.length === 0) fallback = parser;
    for (const path of parser.paths) routes.push({ suffix: `/${path}`, path, parser });
  }
  routes.sort((left, right) => right.suffix.length - left.suffix.length);
  const whole = new Map(routes.map((route) => [route.suffix, route]));

  return {
    skipped,
    parse(_method, path, headers, body) {
      const route = whole.get(path) ?? routeOf(routes, path);
      if (route !== undefined) return route.parser.parse(route.path, headers, body);
      if (fallback !== undefined) return fallback.parse("", headers, body);
      return reject("BadRequest", `no parser registered matching path suffix for: ${path}`, {
        errorCode: "unknown_url",
      });
    },
  };
}

function routeOf(routes: readonly Route[], path: string): Route | undefined {
  const trimmed = trim(path);
  return routes.find((route) => trimmed.endsWith(route.suffix));
}

/** One leading slash, none at the end, no query. */
function trim(path: string): string {
  const query = path.search(/[?#]/);
  let end = query < 0 ? path.length : query;
  while (end > 0 && path[end - 1] === "/") end--;
  let start = 0;
  while (start < end && path[start] === "/") start++;
  return `/${path.slice(start, end)}`;
}
