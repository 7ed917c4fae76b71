/** One sequence of requests for a select service: what its routes answer to good, odd and wrong ones. `engine` is a KV event endpoint to name. */

export interface Step {
  readonly method: string;
  readonly path: string;
  /** An object is sent as JSON; a string as it is. */
  readonly body?: object | string;
  readonly contentType?: string;
}

export interface Answer {
  readonly status: number;
  readonly contentType: string | null;
  readonly body: unknown;
}

const tokens = Array.from({ length: 16 }, (_, index) => index + 1);

function post(path: string, body?: object | string, contentType?: string): Step {
  return {
    method: "POST",
    path,
    ...(body === undefined ? {} : { body }),
    ...(contentType === undefined ? {} : { contentType }),
  };
}

const get = (path: string): Step => ({ method: "GET", path });
const drop = (path: string): Step => ({ method: "DELETE", path });
const patch = (path: string, body: object): Step => ({ method: "PATCH", path, body });
const reserve = (body: object): Step => post("/reservations", body);

function worker(engine: string, members: object = {}): object {
  return { worker_id: 1, endpoint: "http://b", block_size: 4, kv_events_endpoint: engine, ...members };
}

/** Bodies that are wrong, and workers that cannot be chosen. */
export function wrongSteps(engine: string): readonly Step[] {
  const select = (members: object): Step => post("/select", { token_ids: tokens, ...members });
  return [
    get("/ready"),
    post("/workers", "{"),
    post("/workers", '{"worker_id":1,}'),
    post("/workers", ""),
    post("/workers", "{}", "text/plain"),
    post("/workers", {}),
    post("/workers", { worker_id: "1" }),
    post("/workers", { worker_id: -1 }),
    post("/workers", { worker_id: 1.5 }),
    post("/workers", { worker_id: true }),
    post("/workers", '{"worker_id":18446744073709551616}'),
    post("/workers", { worker_id: 1, taints: "x" }),
    post("/workers", { worker_id: 1, block_size: 4294967296 }),
    post("/workers", { worker_id: 1, kv_events_endpoints: { a: "x" } }),
    post("/workers", { worker_id: 1, kv_transfer_enforcement: "x" }),
    post("/workers", { worker_id: 1, unknown: 2 }),
    post("/workers", { worker_id: 2, endpoint: "http://a", block_size: 0 }),
    post("/workers", worker("tcp://x:1", { data_parallel_size: 2, replay_endpoint: "tcp://127.0.0.1:1" })),
    ...["127.0.0.1:1", "tcp://127.0.0.1", "tcp://:1", "tcp://a:b", "tcp://a:99999", "udp://a:1", "tcp://"].map(
      (endpoint) => post("/workers", worker(endpoint, { worker_id: 2 })),
    ),
    post("/workers", worker(engine, { data_parallel_size: 100000 })),
    post("/workers", worker(engine, { data_parallel_size: 0 })),
    get("/workers"),
    get("/ready"),
    select({}),
    patch("/workers/2", { kv_events_endpoint: engine, data_parallel_size: 1, replay_endpoint: null }),
    patch("/workers/3", {}),
    patch("/workers/x", {}),
    drop("/workers/x"),
    drop("/workers/77"),
    post("/workers", worker(engine, { block_size: 8 })),
    post("/workers", worker(engine, { is_eagle: true })),
    get("/workers?model_name=default"),
    get("/workers?routing_group=zz"),
    get("/workers?model_name=a&model_name=b"),
    get("/nope"),
    { method: "PUT", path: "/workers" },
    get("/select"),
    post("/health"),
    get("/health"),
    post("/select", { token_ids: ["a"] }),
    post("/select", { token_ids: [4294967296] }),
    post("/select", { token_ids: [-1] }),
    post("/select", { token_ids: 5 }),
    post("/select", {}),
    post("/select", { block_hashes: [1] }),
    post("/select", { block_hashes: [1], sequence_hashes: [1, 2] }),
    post("/select", { block_hashes: [1], sequence_hashes: [1, 2], isl_tokens: 5 }),
    post("/select", { block_hashes: [1], sequence_hashes: [1], isl_tokens: 0 }),
    post("/select", '{"block_hashes":[14643705804678351452],"sequence_hashes":[1],"isl_tokens":4}'),
    post("/select", { mm_routing_info: { routing_token_ids: [] } }),
    select({ priority_jump: "x" }),
    select({ strict_priority: -1 }),
    select({ model_name: 5 }),
    select({ pinned_worker: { worker_id: 9 } }),
    select({ pinned_worker: { worker_id: 9, dp_rank: 0 } }),
    select({ pinned_worker: { worker_id: 2, dp_rank: 7 } }),
    select({ pinned_worker: { worker_id: 2, dp_rank: 0 }, allowed_worker_ids: [3] }),
    select({ allowed_worker_ids: [] }),
    select({ allowed_worker_ids: [55] }),
    select({ routing_constraints: { required_taints: ["nope"] } }),
    select({ router_config_override: { router_temperature: "a" } }),
    select({ router_config_override: { overlap_score_credit: -1 } }),
    select({ router_config_override: 5 }),
    select({ session_context: {} }),
    select({ session_context: { session_id: "a", input_trigger: "q" } }),
    select({ model_name: "zz" }),
    post("/potential_loads", {}),
    post("/overlap_scores", { block_hashes: [1] }),
    post("/overlap_scores", { model_name: "q", token_ids: tokens }),
    get("/replica_sync/peers"),
    post("/replica_sync/register_peer", { endpoint: "tcp://127.0.0.1:1" }),
    post("/replica_sync/deregister_peer", { endpoint: "x" }),
    post("/replica_sync/register_peer", {}),
    drop("/workers/2"),
    drop("/workers/1"),
  ];
}

/** One worker through selections, bookings by id and by worker, and the ends of all of them. */
export function bookingSteps(engine: string): readonly Step[] {
  const select = (members: object = {}): Step => post("/select", { token_ids: tokens, ...members });
  const explicit = (members: object): Step => reserve({ worker_id: 1, token_ids: tokens, ...members });
  return [
    post("/workers", worker(engine, { total_kv_blocks: 10, max_num_batched_tokens: 100 })),
    get("/ready"),
    get("/dump"),
    select({ advisory: true }),
    select({ selection_id: "s" }),
    reserve({ selection_id: "zz" }),
    reserve({}),
    reserve({ selection_id: "s", model_name: "other" }),
    reserve({ selection_id: "s" }),
    reserve({ selection_id: "s" }),
    select({ selection_id: "s" }),
    reserve({ selection_id: "s" }),
    get("/loads"),
    reserve({ selection_id: "x1", worker_id: 1 }),
    reserve({ selection_id: "x1", worker_id: 1, sequence_hashes: [1] }),
    reserve({ selection_id: "x1", worker_id: 1, sequence_hashes: [1, -2], isl_tokens: 9 }),
    get("/loads"),
    explicit({ selection_id: "x2" }),
    get("/loads"),
    explicit({ selection_id: "x3", effective_prefill_tokens: 17 }),
    explicit({ selection_id: "x3", effective_prefill_tokens: 5 }),
    get("/loads"),
    explicit({ selection_id: "x4", effective_prefill_tokens: 5, track_prefill_tokens: false }),
    explicit({ selection_id: "x5", dp_rank: 4 }),
    explicit({ selection_id: "x5", worker_id: 9 }),
    post("/reservations/x3/output_block", { decay_fraction: 2 }),
    post("/reservations/x3/output_block", {}),
    post("/reservations/x3/output_block", ""),
    post("/reservations/nope/output_block", {}),
    post("/reservations/nope/output_block", { decay_fraction: 3 }),
    get("/loads"),
    post("/reservations/x3/prefill_complete"),
    post("/reservations/x3/prefill_complete"),
    post("/reservations/nope/prefill_complete"),
    drop("/reservations/nope"),
    get("/reservations/x3"),
    drop("/reservations/a%2Fb"),
    get("/loads"),
    get("/loads?model_name=q"),
    post("/potential_loads", { token_ids: tokens }),
    post("/overlap_scores", { token_ids: tokens }),
    post("/select_and_reserve", { token_ids: tokens, selection_id: "r1" }),
    post("/select_and_reserve", { token_ids: tokens, selection_id: "r1" }),
    post("/select_and_reserve", { token_ids: tokens.slice(0, 6), expected_output_tokens: 7 }),
    post("/select_and_reserve", { token_ids: [], selection_id: "empty" }),
    post("/select_and_reserve", { token_ids: tokens, lora_name: "l", cache_salt: "c", selection_id: "salted" }),
    post("/select_and_reserve", { token_ids: tokens, is_eagle: true, selection_id: "eagle" }),
    post("/select_and_reserve", {
      mm_routing_info: {
        routing_token_ids: tokens,
        block_mm_infos: [null, { mm_objects: [{ mm_hash: 42, offsets: [[0, 1]] }] }],
      },
      selection_id: "mm",
    }),
    select({ advisory: true }),
    drop("/reservations/r1"),
    drop("/reservations/r1"),
    get("/loads"),
    // Another model: what ran in the first partition ends.
    post("/workers", worker(engine, { model_name: "m2" })),
    get("/loads"),
    drop("/reservations/x2"),
    select(),
    get("/dump"),
    drop("/workers/1"),
    get("/workers"),
    get("/ready"),
    // An id that no double holds, two ranks and everything a worker may say.
    post(
      "/workers",
      `{"worker_id":18446744073709551557,"endpoint":"http://b","block_size":4,"data_parallel_start_rank":2,"data_parallel_size":2,"kv_events_endpoints":{"2":"${engine}","3":"${engine}"},"taints":["z","a"],"topology_domains":{"zone":"a"},"total_kv_blocks":10,"kv_transfer_domain":"zone","kv_transfer_enforcement":"preferred","kv_transfer_preferred_weight":0.5,"stable_routing_id":"s","router_hint_worker_type":"decode","router_hint_source_control_endpoints":{"2":"tcp://x:1"},"kv_event_source_mode":"m"}`,
    ),
    post("/select", `{"token_ids":[1,2,3,4,5],"pinned_worker":{"worker_id":18446744073709551557,"dp_rank":3}}`),
    post("/select", `{"token_ids":[1,2,3,4,5],"affinity_target":{"worker_id":18446744073709551557,"dp_rank":2}}`),
    post(
      "/select",
      `{"token_ids":[1,2,3,4,5],"affinity_target":{"worker_id":7,"dp_rank":2},"pinned_worker":{"worker_id":18446744073709551557,"dp_rank":2}}`,
    ),
    patch("/workers/18446744073709551557", { taints: ["b"], data_parallel_size: 1 }),
    drop("/workers/18446744073709551557"),
    select(),
  ];
}

export async function ask(url: string, step: Step): Promise<Answer> {
  const body = typeof step.body === "object" ? JSON.stringify(step.body) : step.body;
  const headers = body === undefined ? {} : { "content-type": step.contentType ?? "application/json" };
  const response = await fetch(`${url}${step.path}`, {
    method: step.method,
    headers,
    ...(body === undefined ? {} : { body }),
  });
  const text = await response.text();
  const contentType = response.headers.get("content-type");
  return { status: response.status, contentType, body: contentType === "application/json" ? comparable(text) : text };
}

/** Integers as their text; lists without an order, ordered; minted ids, places in the text and what only a parser says, left out. */
function comparable(text: string): unknown {
  const exact = JSON.parse(text.replace(/([[:,])(-?\d{16,})(?=[,}\]])/g, '$1"$2"')) as unknown;
  return JSON.parse(
    JSON.stringify(exact, (key, value: unknown) => {
      if (key === "taints" && Array.isArray(value)) return value.map(String).sort((a, b) => a.localeCompare(b));
      if (key === "selection_id" && typeof value === "string" && value.length === 36) return "minted";
      if (key !== "error" || typeof value !== "string") return value;
      return value
        .replace(/ at line \d+ column \d+$/, "")
        .replace(/^(Failed to parse the request body as JSON): (?!kv_events_endpoints).*$/, "$1");
    }),
  );
}
