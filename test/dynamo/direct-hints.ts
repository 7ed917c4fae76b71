/** Requests to the real frontend in direct mode, and what comes of each in every layout: the table of what hints mean. */
import { type Answer, send } from "./client.ts";
import type { DynamoStack } from "./stack.ts";

/** Who serves: `first` and `last` are the aggregated or decode workers, as the layout has them. */
export type Served = "prefill" | "first" | "last";

export interface Outcome {
  readonly status: number;
  /** Exact text, or a part of it. */
  readonly message?: string | RegExp;
  /** Who got the request, in any order; an entry for each time. */
  readonly served: readonly Served[];
  /** Legs run at once and the failure of one ends the other: any part of `served` may have been reached. */
  readonly isRace?: boolean;
}

export interface Ids {
  readonly first: bigint;
  readonly last: bigint;
  /** In an aggregated layout an id that nobody has. */
  readonly prefill: bigint;
}

export interface Row {
  readonly name: string;
  readonly path?: string;
  readonly headers: (ids: Ids) => Readonly<Record<string, string>>;
  /** Members of the body besides model, prompt and limit; text is the whole body. */
  readonly body?: (ids: Ids) => Readonly<Record<string, unknown>> | string;
  readonly method?: string;
  readonly aggregated: Outcome;
  readonly disaggregated: Outcome;
  /** Where handing over through a bootstrap port differs. */
  readonly bootstrap?: Outcome;
  readonly promptTokens?: number;
}

export const chat = "/v1/chat/completions";
export const completions = "/v1/completions";
export const worker = "x-dynamo-worker-instance-id";
export const prefill = "x-dynamo-prefill-instance-id";

const invalid = (...served: Served[]): Outcome => ({ status: 400, message: "Invalid request", served });
const unsent = (status: number, message?: string | RegExp): Pick<Row, "aggregated" | "disaggregated"> => {
  const outcome = { status, ...(message === undefined ? {} : { message }), served: [] };
  return { aggregated: outcome, disaggregated: outcome };
};
const failed: Outcome = { status: 500, message: "Failed to generate completions", served: [] };
const broken: Omit<Outcome, "served"> = {
  status: 500,
  message: /^(Internal server error|Failed to generate completions)$/,
};
/** Prompts of a batch that meet at a bootstrap port get in each other's way. */
const brokenBatch: Outcome = { ...broken, served: ["prefill", "prefill", "first", "first"], isRace: true };
const serves = (which: "first" | "last", times = 1): Pick<Row, "aggregated" | "disaggregated"> => ({
  aggregated: { status: 200, served: Array<Served>(times).fill(which) },
  disaggregated: {
    status: 200,
    served: [...Array<Served>(times).fill("prefill"), ...Array<Served>(times).fill(which)],
  },
});
/** The worker id is wrong: with prefill workers that leg has run by then. */
const wasted: Pick<Row, "aggregated" | "disaggregated"> = { aggregated: invalid(), disaggregated: invalid("prefill") };

/** All that a picker sends for the first worker. */
export const full = (ids: Ids): Record<string, string> => ({
  [worker]: String(ids.first),
  "x-dynamo-dp-rank": "0",
  [prefill]: String(ids.prefill),
  "x-dynamo-prefill-dp-rank": "0",
});
export const fullBut = (changes: (ids: Ids) => Record<string, string>) => (ids: Ids) => ({
  ...full(ids),
  ...changes(ids),
});
export const none = () => ({});
export const nvext = (members: (ids: Ids) => Record<string, unknown>) => (ids: Ids) => ({ nvext: members(ids) });
const fortyTokens = Array.from({ length: 40 }, (_, index) => 100 + index);

const missing: readonly Row[] = [
  { name: "chat without a hint", headers: none, aggregated: invalid(), disaggregated: failed },
  {
    name: "completions without a hint",
    path: completions,
    headers: none,
    aggregated: invalid(),
    disaggregated: failed,
  },
  {
    name: "a stream without a hint",
    headers: none,
    body: () => ({ stream: true }),
    aggregated: invalid(),
    disaggregated: failed,
  },
  {
    name: "a worker id alone",
    headers: ({ last }) => ({ [worker]: String(last) }),
    aggregated: { status: 200, served: ["last"] },
    disaggregated: failed,
  },
  { name: "a prefill id alone", headers: (ids) => ({ [prefill]: String(ids.prefill) }), ...wasted },
];

const complete: readonly Row[] = [
  { name: "chat with every header", headers: full, ...serves("first") },
  { name: "another worker", headers: fullBut(({ last }) => ({ [worker]: String(last) })), ...serves("last") },
  { name: "completions", path: completions, headers: full, ...serves("first") },
  {
    name: "a stream",
    headers: full,
    body: () => ({ stream: true, stream_options: { include_usage: true } }),
    ...serves("first"),
  },
  {
    name: "both ids without ranks",
    headers: (ids) => ({ [worker]: String(ids.first), [prefill]: String(ids.prefill) }),
    ...serves("first"),
  },
  {
    name: "a routing mode nobody knows",
    headers: fullBut(() => ({ "x-dynamo-routing-mode": "nonsense" })),
    ...serves("first"),
  },
  {
    name: "a prefill rank of u32::MAX",
    headers: fullBut(() => ({ "x-dynamo-prefill-dp-rank": "4294967295" })),
    ...serves("first"),
  },
  { name: "a rank that is not a number", headers: fullBut(() => ({ "x-dynamo-dp-rank": "abc" })), ...serves("first") },
];

/** Without a rank of its own the prefill leg takes the other's, so that the prefill worker is the one to refuse. */
const prefillRefusesRank = (
  which: "first" | "last",
): Pick<Row, "aggregated" | "disaggregated"> & { readonly bootstrap: Outcome } => {
  const refused = { status: 400, message: "dp_rank 7 is out of bounds for dp_size 1" };
  return {
    aggregated: { ...refused, served: [which] },
    disaggregated: { ...refused, served: ["prefill"] },
    bootstrap: { ...refused, served: ["prefill", which], isRace: true },
  };
};

const aliases: readonly Row[] = [
  {
    name: "x-worker-instance-id and x-prefill-instance-id",
    headers: (ids) => ({ "x-worker-instance-id": String(ids.last), "x-prefill-instance-id": String(ids.prefill) }),
    ...serves("last"),
  },
  {
    name: "x-dp-rank and x-prefill-dp-rank",
    headers: (ids) => ({
      "x-worker-instance-id": String(ids.last),
      "x-dp-rank": "0",
      "x-prefill-instance-id": String(ids.prefill),
      "x-prefill-dp-rank": "0",
    }),
    ...serves("last"),
  },
  {
    name: "x-dp-rank out of range, which is read",
    headers: (ids) => ({
      "x-worker-instance-id": String(ids.last),
      "x-dp-rank": "7",
      "x-prefill-instance-id": String(ids.prefill),
    }),
    ...prefillRefusesRank("last"),
  },
  {
    name: "x-data-parallel-rank out of range, which is read",
    headers: (ids) => ({
      "x-worker-instance-id": String(ids.last),
      "x-data-parallel-rank": "7",
      "x-prefill-instance-id": String(ids.prefill),
    }),
    ...prefillRefusesRank("last"),
  },
];

const precedence: readonly Row[] = [
  {
    name: "a canonical header before its alias",
    headers: fullBut(({ last }) => ({ "x-worker-instance-id": String(last) })),
    ...serves("first"),
  },
  {
    name: "no alias for a malformed canonical header",
    headers: fullBut(({ last }) => ({ [worker]: "abc", "x-worker-instance-id": String(last) })),
    ...wasted,
  },
  {
    name: "a header before nvext",
    headers: full,
    body: nvext(({ last }) => ({ decode_worker_id: last, backend_instance_id: last })),
    ...serves("first"),
  },
  {
    name: "nvext for a malformed header",
    headers: fullBut(() => ({ [worker]: "abc" })),
    body: nvext(({ last }) => ({ decode_worker_id: last })),
    ...serves("last"),
  },
  {
    name: "nvext.decode_worker_id before nvext.backend_instance_id",
    headers: none,
    body: nvext((ids) => ({
      prefill_worker_id: ids.prefill,
      decode_worker_id: ids.last,
      backend_instance_id: ids.first,
    })),
    ...serves("last"),
  },
];

const bodyHints: readonly Row[] = [
  {
    name: "backend_instance_id",
    headers: none,
    body: nvext((ids) => ({ prefill_worker_id: ids.prefill, backend_instance_id: ids.last })),
    ...serves("last"),
  },
  {
    name: "decode_worker_id",
    headers: none,
    body: nvext((ids) => ({ prefill_worker_id: ids.prefill, decode_worker_id: ids.last })),
    ...serves("last"),
  },
  {
    name: "decode_worker_id with dp_rank",
    headers: none,
    body: nvext((ids) => ({ prefill_worker_id: ids.prefill, decode_worker_id: ids.last, dp_rank: 0 })),
    ...serves("last"),
  },
  {
    name: "an id as a string",
    headers: none,
    body: nvext(({ last }) => ({ decode_worker_id: String(last) })),
    ...unsent(
      400,
      /^Failed to deserialize the JSON body into the target type: invalid type: string .* expected u64 at line 1/,
    ),
  },
  {
    name: "a key it does not know",
    headers: full,
    body: nvext(() => ({ no_such_key: 1 })),
    ...unsent(
      400,
      /unknown field `no_such_key`, expected one of `greed_sampling`, `use_raw_prompt`, `annotations`, `backend_instance_id`, `token_data`, .*`router`/,
    ),
  },
  {
    name: "do_not_queue, which it does not know",
    headers: full,
    body: nvext(() => ({ do_not_queue: true })),
    ...unsent(400, /unknown field `do_not_queue`/),
  },
  { name: "an array", headers: full, body: () => ({ nvext: [1] }), ...unsent(400, /invalid type: integer `1`/) },
  { name: "null", headers: full, body: () => ({ nvext: null }), ...serves("first") },
];

const badIds: readonly Row[] = [
  { name: "of nobody", headers: fullBut(() => ({ [worker]: "12345" })), ...wasted },
  {
    name: "of nobody, for a stream",
    headers: fullBut(() => ({ [worker]: "12345" })),
    body: () => ({ stream: true }),
    ...wasted,
  },
  { name: "that is not a number", headers: fullBut(() => ({ [worker]: "abc" })), ...wasted },
  {
    name: "in hexadecimal",
    headers: fullBut(({ first }) => ({ [worker]: `f${first.toString(16)}`.slice(0, 16) })),
    ...wasted,
  },
  { name: "with 0x", headers: fullBut(({ first }) => ({ [worker]: `0x${first.toString(16)}` })), ...wasted },
  { name: "that is empty", headers: fullBut(() => ({ [worker]: "" })), ...wasted },
  { name: "above u64", headers: fullBut(() => ({ [worker]: "18446744073709551616" })), ...wasted },
  { name: "that is negative", headers: fullBut(({ first }) => ({ [worker]: `-${first}` })), ...wasted },
  {
    name: "in spaces, which are no part of a header",
    headers: fullBut(({ first }) => ({ [worker]: `  ${first} ` })),
    ...serves("first"),
  },
  { name: "with a plus sign", headers: fullBut(({ first }) => ({ [worker]: `+${first}` })), ...serves("first") },
  { name: "of a prefill worker", headers: fullBut((ids) => ({ [worker]: String(ids.prefill) })), ...wasted },
];

const badPrefillIds: readonly Row[] = [
  {
    name: "of nobody",
    headers: fullBut(() => ({ [prefill]: "987654321" })),
    aggregated: { status: 200, served: ["first"] },
    disaggregated: invalid(),
  },
  {
    name: "of a worker that is not for prefill",
    headers: fullBut(({ last }) => ({ [prefill]: String(last) })),
    aggregated: { status: 200, served: ["first"] },
    disaggregated: invalid(),
  },
  {
    name: "that is not a number",
    headers: fullBut(() => ({ [prefill]: "abc" })),
    aggregated: { status: 200, served: ["first"] },
    disaggregated: failed,
  },
];

const ranks: readonly Row[] = [
  ...["7", "4294967295"].map((rank): Row => {
    const refused = { status: 400, message: `dp_rank ${rank} is out of bounds for dp_size 1` };
    return {
      name: `x-dynamo-dp-rank ${rank}`,
      headers: fullBut(() => ({ "x-dynamo-dp-rank": rank })),
      aggregated: { ...refused, served: ["first"] },
      disaggregated: { ...refused, served: ["prefill", "first"] },
      bootstrap: { ...refused, served: ["prefill", "first"], isRace: true },
    };
  }),
  {
    name: "x-dynamo-dp-rank 7 without a rank for prefill",
    headers: (ids) => ({ [worker]: String(ids.first), [prefill]: String(ids.prefill), "x-dynamo-dp-rank": "7" }),
    ...prefillRefusesRank("first"),
  },
  {
    name: "x-dynamo-prefill-dp-rank 7",
    headers: fullBut(() => ({ "x-dynamo-prefill-dp-rank": "7" })),
    ...prefillRefusesRank("first"),
    aggregated: { status: 200, served: ["first"] },
  },
];

const tokens: readonly Row[] = [
  {
    name: "token_data of a chat",
    headers: full,
    body: nvext(() => ({ token_data: fortyTokens })),
    ...serves("first"),
    promptTokens: 40,
  },
  {
    name: "token_data of a completion",
    path: completions,
    headers: full,
    body: nvext(() => ({ token_data: fortyTokens })),
    ...serves("first"),
    promptTokens: 40,
  },
  {
    name: "empty token_data, an empty prompt",
    headers: full,
    body: nvext(() => ({ token_data: [] })),
    ...serves("first"),
    promptTokens: 0,
  },
  {
    name: "token_data outside the vocabulary",
    headers: full,
    body: nvext(() => ({ token_data: [1, 2, 3_000_000_000] })),
    ...unsent(400, "Invalid request"),
  },
  {
    name: "token_data with a negative id",
    headers: full,
    body: nvext(() => ({ token_data: [1, -2] })),
    ...unsent(400, /invalid value: integer `-2`, expected u32/),
  },
  {
    name: "a prompt of tokens",
    path: completions,
    headers: full,
    body: () => ({ prompt: [5, 6, 7, 8] }),
    ...serves("first"),
    promptTokens: 4,
  },
  {
    name: "a batch of texts",
    path: completions,
    headers: full,
    body: () => ({ prompt: ["a b", "c d e"] }),
    ...serves("first", 2),
    bootstrap: brokenBatch,
  },
  {
    name: "a batch of token arrays",
    path: completions,
    headers: full,
    body: () => ({
      prompt: [
        [5, 6],
        [7, 8, 9],
      ],
    }),
    ...serves("first", 2),
    bootstrap: brokenBatch,
    promptTokens: 5,
  },
  {
    name: "a batch with token_data, which replaces each prompt",
    path: completions,
    headers: full,
    body: () => ({ prompt: ["a b", "c d e"], nvext: { token_data: [5, 6, 7] } }),
    ...serves("first", 2),
    bootstrap: brokenBatch,
    promptTokens: 6,
  },
];

const requests: readonly Row[] = [
  { name: "another model", headers: full, body: () => ({ model: "nope" }), ...unsent(404, "Model not found") },
  {
    name: "max_tokens 0",
    headers: full,
    body: () => ({ max_tokens: 0 }),
    ...unsent(400, "Validation: Max tokens must be greater than 0, got 0"),
  },
  {
    name: "half a body",
    headers: full,
    body: () => '{"model": "tiny", ',
    ...unsent(
      400,
      /^Failed to deserialize the JSON body into the target type: EOF while parsing a value at line 1 column 18$/,
    ),
  },
  { name: "no messages", headers: full, body: () => '{"model":"tiny"}', ...unsent(400, /missing field `messages`/) },
  { name: "no model", headers: full, body: () => '{"messages":[]}', ...unsent(400, /missing field `model`/) },
  {
    name: "no prompt",
    path: completions,
    headers: full,
    body: () => '{"model":"tiny"}',
    ...unsent(400, /missing field `prompt`/),
  },
  {
    name: "empty messages",
    headers: full,
    body: () => ({ messages: [] }),
    ...unsent(400, "Validation: The 'messages' field cannot be empty. At least one message is required."),
  },
  {
    name: "a temperature of 9",
    headers: full,
    body: () => ({ temperature: 9 }),
    ...unsent(400, "Validation: Temperature must be between 0 and 2, got 9"),
  },
  {
    name: "n of 0",
    headers: full,
    body: () => ({ n: 0 }),
    ...unsent(400, "Validation: n must be between 1 and 128, got 0"),
  },
  {
    name: "a member it does not know",
    headers: full,
    body: () => ({ no_such_field: 1 }),
    ...unsent(400, "Validation: Unsupported parameter(s): `no_such_field`"),
  },
  {
    name: "another content type",
    headers: fullBut(() => ({ "content-type": "text/plain" })),
    ...unsent(415, "Expected request with Content-Type application/json"),
  },
  { name: "GET", headers: full, method: "GET", ...unsent(405) },
  { name: "an unknown path", path: "/v1/nope", headers: full, ...unsent(404, "Route not found: POST /v1/nope") },
];

export const tables: readonly (readonly [what: string, rows: readonly Row[]])[] = [
  ["a missing hint", missing],
  ["a complete hint", complete],
  ["an alias of a header", aliases],
  ["precedence", precedence],
  ["a hint in nvext", bodyHints],
  ["a worker id", badIds],
  ["a prefill id", badPrefillIds],
  ["a rank out of range", ranks],
  ["tokens", tokens],
  ["a request at fault", requests],
];

/** Asks as a row says. */
export function ask(stack: DynamoStack, ids: Ids, row: Omit<Row, "aggregated" | "disaggregated">): Promise<Answer> {
  const path = row.path ?? chat;
  const extra = row.body?.(ids) ?? {};
  const prompt =
    path === completions
      ? { prompt: "hello direct world" }
      : { messages: [{ role: "user", content: "hello direct world" }] };
  return send(`${stack.frontend.url}${path}`, {
    headers: row.headers(ids),
    ...(row.method === "GET"
      ? { method: "GET" }
      : { body: typeof extra === "string" ? extra : { model: stack.model, max_tokens: 4, ...prompt, ...extra } }),
  });
}

/** The message of a refusal; undefined when the body is no JSON. */
export function messageOf({ text }: Answer): unknown {
  return text.startsWith("{") ? (JSON.parse(text) as { message?: unknown }).message : undefined;
}

export function idsOf(stack: DynamoStack): Ids {
  const serving = stack.workers.filter(({ role }) => role !== "prefill");
  return {
    first: serving[0]?.instanceId ?? 0n,
    last: serving.at(-1)?.instanceId ?? 0n,
    prefill: stack.workersOf("prefill")[0]?.instanceId ?? 1_234_567n,
  };
}
