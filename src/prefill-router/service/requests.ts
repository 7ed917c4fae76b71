/** The bodies of the routes that select, reserve and ask for loads, read once, at the door. */
import { parseOverride, type RouterConfigOverride } from "../config.ts";
import type { PinnedWorker, RoutingConstraints, WorkerRank } from "../contracts.ts";
import {
  type Members,
  membersOf,
  readBoolean,
  readChoice,
  readCount,
  readNumber,
  readString,
  readStrings,
  readU32,
  readU64,
  required,
  unfit,
} from "./body.ts";
import { type Prompt, readPrompt } from "./prompt.ts";
import { unnamed } from "./worker-record.ts";

export interface PartitionRequest {
  readonly modelName: string;
  readonly routingGroup: string;
  readonly prompt: Prompt;
  readonly override: RouterConfigOverride | undefined;
}

export interface SelectionRequest extends PartitionRequest {
  readonly selectionId: string | undefined;
  readonly expectedOutputTokens: number | undefined;
  readonly priorityJump: number;
  readonly strictPriority: number;
  readonly sessionId: string | undefined;
  readonly isSessionFinal: boolean;
  readonly affinityTarget: PinnedWorker | undefined;
  readonly pinned: WorkerRank | undefined;
  readonly allowed: ReadonlySet<bigint> | undefined;
  readonly constraints: RoutingConstraints | undefined;
  /** Chosen at once, past the queue, with the chosen worker's load in the answer. */
  readonly isAdvisory: boolean;
}

export interface ReservationRequest extends PartitionRequest {
  readonly selectionId: string;
  /** Undefined: the selection of this id is booked as it was made. */
  readonly workerId: bigint | undefined;
  readonly dpRank: number | undefined;
  readonly expectedOutputTokens: number | undefined;
  readonly effectivePrefillTokens: number | undefined;
  readonly tracksPrefillTokens: boolean | undefined;
}

export function readPartitionRequest(body: unknown, expected: string): PartitionRequest {
  return partitionOf(membersOf(body, "", expected));
}

export function readSelection(body: unknown, expected: string): SelectionRequest {
  const members = membersOf(body, "", expected);
  const session = readSession(members);
  return {
    ...partitionOf(members),
    selectionId: readString(members["selection_id"], "selection_id"),
    expectedOutputTokens: readU32(members["expected_output_tokens"], "expected_output_tokens"),
    priorityJump: readNumber(members["priority_jump"], "priority_jump") ?? 0,
    strictPriority: readU32(members["strict_priority"], "strict_priority") ?? 0,
    ...session,
    affinityTarget: readTarget(members["affinity_target"], "affinity_target"),
    pinned: readRank(members["pinned_worker"], "pinned_worker"),
    allowed: readIds(members["allowed_worker_ids"], "allowed_worker_ids"),
    constraints: readConstraints(members["routing_constraints"], "routing_constraints"),
    isAdvisory: readBoolean(members["advisory"], "advisory") ?? false,
  };
}

export function readReservation(body: unknown): ReservationRequest {
  const members = membersOf(body, "", "struct ReservationRequest");
  return {
    ...partitionOf(members),
    selectionId: required(readString(members["selection_id"], "selection_id"), "", "selection_id"),
    workerId: readU64(members["worker_id"], "worker_id"),
    dpRank: readU32(members["dp_rank"], "dp_rank"),
    expectedOutputTokens: readU32(members["expected_output_tokens"], "expected_output_tokens"),
    effectivePrefillTokens: readCount(members["effective_prefill_tokens"], "effective_prefill_tokens", "usize"),
    tracksPrefillTokens: readBoolean(members["track_prefill_tokens"], "track_prefill_tokens"),
  };
}

export function readOutputBlock(body: unknown): number | undefined {
  return readNumber(membersOf(body, "", "struct OutputBlockRequest")["decay_fraction"], "decay_fraction");
}

export function readPeer(body: unknown): string {
  return required(readString(membersOf(body, "", "struct PeerRequest")["endpoint"], "endpoint"), "", "endpoint");
}

function partitionOf(members: Members): PartitionRequest {
  return {
    modelName: readString(members["model_name"], "model_name") ?? unnamed,
    routingGroup: readString(members["routing_group"], "routing_group") ?? unnamed,
    prompt: readPrompt(members),
    override: readOverride(members["router_config_override"]),
  };
}

function readOverride(value: unknown): RouterConfigOverride | undefined {
  if (value === undefined || value === null) return undefined;
  const path = "router_config_override";
  const members = membersOf(value, path, "struct RouterConfigOverrideSerde");
  for (const member of ["overlap_score_credit", "overlap_score_weight", "prefill_load_scale", "router_temperature"]) {
    const number = readNumber(members[member], `${path}.${member}`);
    if (number !== undefined && !(number >= 0)) throw unfit(path, `${member} must be a finite, non-negative number`);
  }
  readNumber(members["shared_cache_multiplier"], `${path}.shared_cache_multiplier`);
  for (const member of ["assume_kv_reuse", "track_prefill_tokens"]) readBoolean(members[member], `${path}.${member}`);
  const read = parseOverride(members);
  if (read.kind === "invalid") throw unfit(path, read.message.slice(path.length + 1));
  return read.override;
}

/** The structured form goes before the plain id. */
function readSession(members: Members): Pick<SelectionRequest, "sessionId" | "isSessionFinal"> {
  const plain = readString(members["session_id"], "session_id");
  const value = members["session_context"];
  if (value === undefined || value === null) return { sessionId: plain, isSessionFinal: false };
  const path = "session_context";
  const context = membersOf(value, path, "struct SelectionSessionContext");
  const sessionId = required(readString(context["session_id"], `${path}.session_id`), path, "session_id");
  readString(context["parent_session_id"], `${path}.parent_session_id`);
  readChoice(context["input_trigger"], `${path}.input_trigger`, ["user_message", "tool_result", "other"]);
  return { sessionId, isSessionFinal: readBoolean(context["session_final"], `${path}.session_final`) ?? false };
}

function readTarget(value: unknown, path: string): PinnedWorker | undefined {
  if (value === undefined || value === null) return undefined;
  const members = membersOf(value, path, "struct WorkerAffinityTarget");
  return {
    workerId: required(readU64(members["worker_id"], `${path}.worker_id`), path, "worker_id"),
    dpRank: readU32(members["dp_rank"], `${path}.dp_rank`),
  };
}

function readRank(value: unknown, path: string): WorkerRank | undefined {
  const target = readTarget(value, path);
  return target === undefined
    ? undefined
    : { workerId: target.workerId, dpRank: required(target.dpRank, path, "dp_rank") };
}

function readIds(value: unknown, path: string): ReadonlySet<bigint> | undefined {
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value)) throw unfit(path, "invalid type: expected a sequence");
  return new Set(value.map((item, index) => required(readU64(item, `${path}[${index}]`), path, "item")));
}

function readConstraints(value: unknown, path: string): RoutingConstraints | undefined {
  if (value === undefined || value === null) return undefined;
  const members = membersOf(value, path, "struct RoutingConstraints");
  const preferred = members["preferred_taints"] ?? {};
  const weights = Object.entries(membersOf(preferred, `${path}.preferred_taints`, "a map"));
  return {
    requiredTaints: readStrings(members["required_taints"], `${path}.required_taints`) ?? [],
    preferredTaints: new Map(
      weights.map(([taint, weight]) => {
        const at = `${path}.preferred_taints.${taint}`;
        return [taint, required(readNumber(weight, at), at, taint)];
      }),
    ),
  };
}
