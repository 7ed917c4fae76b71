/** The routes of Dynamo's select service, and /metrics, which it has not. What is exchanged here is text; sockets are the caller's. */
import { encodeExactJson } from "../../dynamo/record-json.ts";
import { BadRequest, parseBody } from "./body.ts";
import { dumpText } from "./dump.ts";
import { Refused } from "./refusals.ts";
import { readOutputBlock, readPartitionRequest, readPeer, readReservation, readSelection } from "./requests.ts";
import type { SelectionService } from "./selection-service.ts";
import { readFacts, readWorker, shownWorker } from "./worker-record.ts";

export interface RouteRequest {
  readonly method: string;
  /** As sent, with its query. */
  readonly target: string;
  readonly contentType: string | undefined;
  readonly policyClass: string | undefined;
  readonly body: string;
  /** Aborted when the client goes. */
  readonly signal: AbortSignal;
}

export interface RouteAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string | AsyncIterable<string>;
  /** The route's pattern, for counting. */
  readonly route: string;
}

/** Other selectors that tell each other of bookings. */
export interface Peers {
  list(): readonly string[];
  /** False: it was there. Throws BadRequest. */
  register(endpoint: string): boolean;
  /** False: it was not there. */
  deregister(endpoint: string): boolean;
}

export interface RoutesOptions {
  readonly service: SelectionService;
  /** Undefined: replica sync is off. */
  readonly peers: Peers | undefined;
  readonly metrics: () => Promise<string>;
}

interface Call {
  readonly request: RouteRequest;
  /** Decoded parts of the path that the pattern leaves open. */
  readonly parts: readonly string[];
  readonly query: URLSearchParams;
}

type Reply =
  | { readonly status: number; readonly json: unknown }
  | { readonly status: number; readonly stream: AsyncIterable<string> }
  | { readonly status: number; readonly text: string };
type Handler = (call: Call) => Promise<Reply> | Reply;

export type Routes = (request: RouteRequest) => Promise<RouteAnswer>;

const ok = { status: "ok" };

export function createRoutes({ service, peers, metrics }: RoutesOptions): Routes {
  const disabled = (): never => {
    throw new BadRequest(409, "replica sync is disabled");
  };
  const table = new Map<string, Readonly<Record<string, Handler>>>([
    [
      "/select",
      {
        POST: async ({ request }) =>
          json(
            await service.select(
              readSelection(bodyOf(request), "struct SelectRequest"),
              request.policyClass,
              request.signal,
            ),
          ),
      },
    ],
    [
      "/select_and_reserve",
      {
        POST: async ({ request }) => {
          const selection = readSelection(bodyOf(request), "struct SelectAndReserveRequest");
          return json(await service.selectAndReserve(selection, request.policyClass, request.signal));
        },
      },
    ],
    ["/reservations", { POST: ({ request }) => json(service.reserve(readReservation(bodyOf(request))), 201) }],
    [
      "/reservations/*/prefill_complete",
      {
        POST: ({ parts: [id = ""] }) => {
          service.prefillComplete(id);
          return json(ok);
        },
      },
    ],
    [
      "/reservations/*/output_block",
      {
        POST: ({ request, parts: [id = ""] }) => {
          service.outputBlock(id, readOutputBlock(bodyOf(request)));
          return json(ok);
        },
      },
    ],
    [
      "/reservations/*",
      {
        DELETE: ({ parts: [id = ""] }) => {
          service.free(id);
          return json(ok);
        },
      },
    ],
    [
      "/workers",
      {
        POST: async ({ request }) =>
          json(shownWorker(await service.catalogue.upsert(readWorker(bodyOf(request)))), 201),
        GET: ({ query }) => {
          const { modelName, routingGroup } = filterOf(query);
          return json(service.catalogue.list(modelName, routingGroup).map(shownWorker));
        },
      },
    ],
    [
      "/workers/*",
      {
        PATCH: async ({ request, parts: [id = ""] }) => {
          const workerId = workerIdOf(id);
          return json(shownWorker(await service.catalogue.patch(workerId, readFacts(bodyOf(request)))));
        },
        DELETE: async ({ parts: [id = ""] }) => json(shownWorker(await service.catalogue.delete(workerIdOf(id)))),
      },
    ],
    ["/health", { GET: () => json(ok) }],
    [
      "/ready",
      {
        GET: () => {
          const { isReady, answer } = service.ready();
          return json(answer, isReady ? 200 : 503);
        },
      },
    ],
    [
      "/loads",
      {
        GET: ({ query }) => {
          const { modelName, routingGroup } = filterOf(query);
          return json(service.loads(modelName, routingGroup));
        },
      },
    ],
    [
      "/potential_loads",
      {
        POST: ({ request }) =>
          json(service.potentialLoads(readPartitionRequest(bodyOf(request), "struct PotentialLoadsRequest"))),
      },
    ],
    [
      "/overlap_scores",
      {
        POST: ({ request }) =>
          json(service.overlapScores(readPartitionRequest(bodyOf(request), "struct OverlapScoresRequest"))),
      },
    ],
    ["/dump", { GET: () => ({ status: 200, stream: dumpText(service.catalogue.partitions()) }) }],
    [
      "/replica_sync/register_peer",
      {
        POST: ({ request }) => {
          const endpoint = readPeer(bodyOf(request));
          return json(ok, (peers ?? disabled()).register(endpoint) ? 201 : 200);
        },
      },
    ],
    [
      "/replica_sync/deregister_peer",
      {
        POST: ({ request }) => {
          const endpoint = readPeer(bodyOf(request));
          if ((peers ?? disabled()).deregister(endpoint)) return json(ok);
          throw new BadRequest(404, "peer not found");
        },
      },
    ],
    ["/replica_sync/peers", { GET: () => json(peers?.list() ?? []) }],
    ["/metrics", { GET: async () => ({ status: 200, text: await metrics() }) }],
  ]);
  return (request) => answer(table, request);
}

async function answer(
  table: ReadonlyMap<string, Readonly<Record<string, Handler>>>,
  request: RouteRequest,
): Promise<RouteAnswer> {
  const mark = request.target.indexOf("?");
  const path = mark < 0 ? request.target : request.target.slice(0, mark);
  const { pattern, parts } = patternOf(path);
  const methods = table.get(pattern);
  const route = methods === undefined ? "none" : pattern;
  try {
    if (methods === undefined) throw new BadRequest(404, "route not found");
    const method = request.method === "HEAD" ? "GET" : request.method;
    const handler = Object.hasOwn(methods, method) ? methods[method] : undefined;
    if (handler === undefined) throw new BadRequest(405, "method not allowed");
    const query = new URLSearchParams(mark < 0 ? "" : request.target.slice(mark + 1));
    const reply = await handler({ request, parts, query });
    if ("text" in reply) return { status: reply.status, contentType: metricsType, body: reply.text, route };
    const body = "stream" in reply ? reply.stream : encodeExactJson(reply.json);
    return { status: reply.status, contentType: jsonType, body, route };
  } catch (error) {
    if (!(error instanceof BadRequest)) throw error;
    if (error instanceof PlainFault)
      return { status: error.status, contentType: plainType, body: error.message, route };
    const details = error instanceof Refused && error.details !== undefined ? { details: error.details } : {};
    const body = encodeExactJson({ error: error.message, ...details });
    return { status: error.status, contentType: jsonType, body, route };
  }
}

const jsonType = "application/json";
const plainType = "text/plain; charset=utf-8";
const metricsType = "text/plain; version=0.0.4; charset=utf-8";

/** What is wrong with the target itself is said without JSON. */
class PlainFault extends BadRequest {}

function patternOf(path: string): { readonly pattern: string; readonly parts: readonly string[] } {
  const segments = path.split("/");
  const open = segments[1] === "reservations" || segments[1] === "workers" ? segments[2] : undefined;
  if (open === undefined || open === "") return { pattern: path, parts: [] };
  segments[2] = "*";
  return { pattern: segments.join("/"), parts: [decoded(open)] };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function bodyOf({ contentType, body }: RouteRequest): unknown {
  const type = (contentType ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  if (type !== jsonType && !/^application\/[^/]+\+json$/.test(type)) {
    throw new BadRequest(415, "Expected request with `Content-Type: application/json`");
  }
  return parseBody(body);
}

function workerIdOf(text: string): bigint {
  if (/^\+?\d{1,20}$/.test(text) && BigInt(text) <= 0xffff_ffff_ffff_ffffn) return BigInt(text);
  throw new PlainFault(400, `Invalid URL: Cannot parse \`${text}\` to a \`u64\``);
}

function filterOf(query: URLSearchParams) {
  const one = (name: string): string | undefined => {
    const values = query.getAll(name);
    if (values.length > 1) {
      throw new PlainFault(400, `Failed to deserialize query string: duplicate field \`${name}\``);
    }
    return values[0];
  };
  return { modelName: one("model_name"), routingGroup: one("routing_group") };
}

function json(value: unknown, status = 200): Reply {
  return { status, json: value };
}
