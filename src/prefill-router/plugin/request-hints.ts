/**
 * What a client says about how its request is to be routed: Dynamo's request headers and the `nvext` member of the body, with Dynamo's
 * precedence. A value that cannot be read counts as absent: the frontend behind answers for the body, not the picker.
 */
import type { InferenceRequest } from "../../request/inference-request.ts";
import type { RoutingConstraints } from "../contracts.ts";

export interface RequestHints {
  /** Mixed into block hashes, so that one tenant's blocks never look like another's; undefined = none. */
  readonly cacheSalt: string | undefined;
  readonly priorityJump: number;
  readonly strictPriority: number;
  readonly policyClass: string | undefined;
  readonly expectedOutputTokens: number | undefined;
  readonly doNotQueue: boolean;
  readonly constraints: RoutingConstraints | undefined;
  readonly sessionId: string | undefined;
  readonly isSessionFinal: boolean;
}

type Members = Readonly<Record<string, unknown>>;

/** Nothing sensible is longer; a longer one holds token ids, which are not read here. */
const maxNvextBytes = 4 * 1024 * 1024;
const maxTaints = 64;
const maxU32 = 0xffff_ffff;

export function requestHints(request: InferenceRequest): RequestHints {
  const { headers } = request;
  const nvext = nvextOf(request);
  const agent = membersOf(nvext?.["agent_hints"]);
  const priority = integer(headers.get("x-dynamo-request-priority")) ?? number(agent?.["priority"]);
  const strict = integer(headers.get("x-dynamo-request-strict-priority")) ?? number(agent?.["strict_priority"]);
  const osl = number(agent?.["osl"]);
  return {
    cacheSalt: header(request, "x-tenant-id") ?? filled(nvext?.["cache_salt"]) ?? filled(request.parsed.cacheSalt),
    priorityJump: Math.max(0, priority ?? number(agent?.["latency_sensitivity"]) ?? 0),
    strictPriority: strict !== undefined && strict >= 0 && strict <= maxU32 ? Math.floor(strict) : 0,
    policyClass: header(request, "x-dynamo-meta-policy-class"),
    expectedOutputTokens: osl !== undefined && osl > 0 && osl <= maxU32 ? Math.floor(osl) : undefined,
    doNotQueue: nvext?.["do_not_queue"] === true,
    constraints: constraintsOf(membersOf(nvext?.["routing_constraints"])),
    sessionId: sessionOf(request),
    isSessionFinal: truths.has((header(request, "x-dynamo-session-final") ?? "").toLowerCase()),
  };
}

const truths: ReadonlySet<string> = new Set(["1", "true", "yes", "on"]);

function nvextOf({ body, parsed }: InferenceRequest): Members | undefined {
  const range = parsed.nvextRange;
  if (range === undefined || range.end - range.start > maxNvextBytes) return undefined;
  try {
    return membersOf(JSON.parse(body.toString("utf8", range.start, range.end)));
  } catch {
    return undefined;
  }
}

/**
 * The session a request belongs to: Dynamo's own header, else those of coding agents (Claude Code, Codex, OpenCode), where a sub-agent is a
 * session of its own.
 */
function sessionOf(request: InferenceRequest): string | undefined {
  const own = header(request, "x-dynamo-session-id");
  if (own !== undefined) return own;
  const claude = header(request, "x-claude-code-session-id");
  if (claude !== undefined) return header(request, "x-claude-code-agent-id") ?? claude;
  return header(request, "thread-id") ?? header(request, "x-session-id");
}

function constraintsOf(members: Members | undefined): RoutingConstraints | undefined {
  if (members === undefined) return undefined;
  const required = members["required_taints"];
  const preferred = membersOf(members["preferred_taints"]);
  const requiredTaints = Array.isArray(required)
    ? required.filter((taint): taint is string => typeof taint === "string").slice(0, maxTaints)
    : [];
  const preferredTaints = new Map<string, number>();
  for (const [taint, weight] of Object.entries(preferred ?? {})) {
    if (preferredTaints.size === maxTaints) break;
    if (typeof weight === "number" && Number.isFinite(weight)) preferredTaints.set(taint, weight);
  }
  return requiredTaints.length === 0 && preferredTaints.size === 0 ? undefined : { requiredTaints, preferredTaints };
}

function header({ headers }: InferenceRequest, name: string): string | undefined {
  return filled(headers.get(name)?.trim());
}

function filled(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function number(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

/** Digits with an optional sign, as the frontend reads them. */
function integer(text: string | undefined): number | undefined {
  const trimmed = text?.trim();
  return trimmed !== undefined && /^[+-]?\d{1,10}$/.test(trimmed) ? Number(trimmed) : undefined;
}

function membersOf(value: unknown): Members | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Members) : undefined;
}
