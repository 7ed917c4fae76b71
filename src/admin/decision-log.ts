/**
 * The last N decisions, kept as what the pipeline handed over (immutable arrays by reference, scores copied) and turned into JSON only when
 * somebody asks. Holds no prompt text, and of what a client may name itself no more than a few hundred characters.
 */
import type { Endpoint, Endpoints } from "../data/endpoint.ts";
import type { DecisionRecording, DecisionSink } from "../pipeline/decision-sink.ts";

type BeginArgument = Parameters<DecisionSink["begin"]>[0];
type Scheduled = Parameters<DecisionRecording["scheduled"]>[0];
type Rejected = Parameters<DecisionRecording["rejected"]>[0];
type EndCause = Parameters<DecisionRecording["ended"]>[0];
type Usage = Parameters<DecisionRecording["ended"]>[1];

type Step =
  | {
      readonly kind: "screener" | "filter";
      readonly profile: string;
      readonly plugin: string;
      readonly before: Endpoints;
      readonly after: Endpoints;
    }
  | {
      readonly kind: "scorer";
      readonly profile: string;
      readonly plugin: string;
      readonly weight: number;
      readonly endpoints: Endpoints;
      readonly scores: readonly number[];
    }
  | {
      readonly kind: "picker";
      readonly profile: string;
      readonly plugin: string;
      readonly endpoints: Endpoints;
      readonly totals: readonly number[];
      readonly picked: Endpoints;
    };

const maxNameLength = 512;
/** About 3 MB of JSON. */
const maxRows = 20_000;

/** A header may be 64 KiB, and a ring of 100,000 decisions must not keep that many. */
function clipped(name: string): string {
  // Decoded anew: a slice would keep the whole text alive.
  return name.length <= maxNameLength ? name : `${Buffer.from(name.slice(0, maxNameLength)).toString()}…`;
}

/** One decision in the making or done. */
class Recording implements DecisionRecording {
  readonly id: string;
  /** When its headers came, which its durations count from; Unix milliseconds. */
  readonly #at: number;
  readonly #head: Readonly<Record<string, unknown>>;
  readonly #steps: Step[] = [];
  #candidates: Endpoints = [];
  #profile: string | undefined;
  #plan: { readonly planner: string; readonly explain: () => Readonly<Record<string, unknown>> } | undefined;
  #destinations: Endpoints = [];
  #rejection: Rejected | undefined;
  #decisionMs: number | undefined;
  #end: { readonly cause: EndCause; readonly usage: Usage; readonly durationMs: number } | undefined;

  constructor(request: BeginArgument, atMs: number) {
    this.id = clipped(request.id);
    this.#at = atMs;
    this.#head = {
      path: clipped(request.path),
      model: clipped(request.parsed.model),
      targetModel: clipped(request.targetModel),
      objective: clipped(request.objective),
      priority: request.priority,
      fairnessId: clipped(request.fairnessId),
      bodyBytes: request.body.length,
    };
  }

  candidates(endpoints: Endpoints): void {
    this.#candidates = endpoints;
  }

  screened(screener: string, before: Endpoints, after: Endpoints): void {
    this.#steps.push({ kind: "screener", profile: "", plugin: screener, before, after });
  }

  planned(planner: string, explain: () => Readonly<Record<string, unknown>>): void {
    this.#plan = { planner, explain };
  }

  filtered(profile: string, filter: string, before: Endpoints, after: Endpoints): void {
    this.#steps.push({ kind: "filter", profile, plugin: filter, before, after });
  }

  scored(profile: string, scorer: string, weight: number, endpoints: Endpoints, scores: Float64Array): void {
    this.#steps.push({
      kind: "scorer",
      profile,
      plugin: scorer,
      weight,
      endpoints,
      scores: copyOf(scores, endpoints.length),
    });
  }

  picked(profile: string, picker: string, endpoints: Endpoints, totals: Float64Array, picked: Endpoints): void {
    this.#steps.push({
      kind: "picker",
      profile,
      plugin: picker,
      endpoints,
      totals: copyOf(totals, endpoints.length),
      picked,
    });
  }

  rejected(rejection: Rejected, durationMs: number): void {
    this.#rejection = rejection;
    this.#decisionMs = durationMs;
  }

  scheduled(result: Scheduled, durationMs: number): void {
    this.#profile = result.primary;
    this.#destinations = result.destinations;
    this.#decisionMs = durationMs;
  }

  ended(cause: EndCause, usage: Usage, durationMs: number): void {
    this.#end = { cause, usage, durationMs };
  }

  /** Verdicts, scores and totals to be shown. */
  get rows(): number {
    let rows = 1;
    for (const step of this.#steps) rows += "before" in step ? step.before.length : step.endpoints.length;
    return rows;
  }

  /** JSON for /debug/decisions. */
  explain(): Readonly<Record<string, unknown>> {
    return {
      requestId: this.id,
      at: new Date(this.#at).toISOString(),
      ...this.#head,
      candidates: this.#candidates.map((endpoint) => endpoint.hostPort),
      ...(this.#plan === undefined ? {} : { plan: { planner: this.#plan.planner, ...this.#plan.explain() } }),
      profiles: this.#profiles(),
      outcome: this.#outcome(),
      decisionMs: rounded(this.#decisionMs),
      end:
        this.#end === undefined
          ? null
          : { ...this.#end.cause, usage: this.#end.usage ?? null, durationMs: rounded(this.#end.durationMs) },
    };
  }

  #outcome(): Readonly<Record<string, unknown>> {
    if (this.#rejection !== undefined) return { kind: "rejected", ...this.#rejection };
    if (this.#profile === undefined) return { kind: this.#end === undefined ? "undecided" : "cancelled" };
    return {
      kind: "routed",
      profile: this.#profile,
      destinations: this.#destinations.map((endpoint) => endpoint.hostPort),
    };
  }

  #profiles(): readonly Readonly<Record<string, unknown>>[] {
    const names = [...new Set(this.#steps.map((step) => step.profile))];
    return names.map((profile) => {
      const steps = this.#steps.filter((step) => step.profile === profile);
      return {
        profile: profile === "" ? null : profile,
        filters: steps.flatMap((step) => (step.kind === "filter" || step.kind === "screener" ? [verdictOf(step)] : [])),
        endpoints: scoresOf(steps),
        picker: steps.flatMap((step) => (step.kind === "picker" ? [step.plugin] : []))[0] ?? null,
        winner: steps.flatMap((step) =>
          step.kind === "picker" ? step.picked.map((endpoint) => endpoint.hostPort) : [],
        ),
      };
    });
  }
}

function rounded(ms: number | undefined): number | null {
  return ms === undefined ? null : Math.round(ms * 1000) / 1000;
}

function verdictOf(step: Extract<Step, { kind: "filter" | "screener" }>): Readonly<Record<string, unknown>> {
  const kept = new Set(step.after);
  return {
    [step.kind]: step.plugin,
    kept: step.after.map((endpoint) => endpoint.hostPort),
    removed: step.before.filter((endpoint) => !kept.has(endpoint)).map((endpoint) => endpoint.hostPort),
  };
}

/** A plain array: a typed one costs several times more memory for the few endpoints of a pool, and every decision is kept for a while. */
function copyOf(values: Float64Array, count: number): readonly number[] {
  const copy: number[] = [];
  for (let i = 0; i < count; i++) copy.push(values[i] ?? 0);
  return copy;
}

/** One row an endpoint: every scorer's score and weighted share, and the total the picker saw. */
function scoresOf(steps: readonly Step[]): readonly Readonly<Record<string, unknown>>[] {
  const rows = new Map<Endpoint, { scores: Record<string, unknown>; total: number | null }>();
  const rowOf = (endpoint: Endpoint) => {
    const row = rows.get(endpoint) ?? { scores: {}, total: null };
    rows.set(endpoint, row);
    return row;
  };
  for (const step of steps) {
    if (step.kind === "scorer") {
      for (const [index, endpoint] of step.endpoints.entries()) {
        const score = step.scores[index] ?? 0;
        rowOf(endpoint).scores[step.plugin] = { score, weight: step.weight, weighted: score * step.weight };
      }
    } else if (step.kind === "picker") {
      for (const [index, endpoint] of step.endpoints.entries()) rowOf(endpoint).total = step.totals[index] ?? 0;
    }
  }
  return [...rows]
    .map(([endpoint, row]) => ({ endpoint: endpoint.hostPort, name: endpoint.name, ...row }))
    .sort((a, b) => (b.total ?? 0) - (a.total ?? 0));
}

export class DecisionLog implements DecisionSink {
  readonly #ring: (Recording | undefined)[];
  readonly #unixMs: (monotonicMs: number) => number;
  #next = 0;

  /** `size` 0 keeps nothing and costs nothing. `unixMs`: of a time on the clock of the requests. */
  constructor(size: number, unixMs: (monotonicMs: number) => number) {
    this.#ring = Array.from({ length: size });
    this.#unixMs = unixMs;
  }

  begin(request: BeginArgument): DecisionRecording | undefined {
    if (this.#ring.length === 0) return undefined;
    const recording = new Recording(request, this.#unixMs(request.receivedAtMs));
    this.#ring[this.#next] = recording;
    this.#next = (this.#next + 1) % this.#ring.length;
    return recording;
  }

  /**
   * Newest first; with an id only that request's (clients may repeat one). Ends early once the answer has `maxRows` rows, for a page about a
   * thousand endpoints must not hold the process.
   */
  list(limit: number, requestId?: string): readonly Readonly<Record<string, unknown>>[] {
    const found: Readonly<Record<string, unknown>>[] = [];
    const wanted = requestId === undefined ? undefined : clipped(requestId);
    let rows = 0;
    for (let back = 1; back <= this.#ring.length && found.length < limit && rows < maxRows; back++) {
      const recording = this.#ring[(this.#next - back + this.#ring.length) % this.#ring.length];
      if (recording === undefined) break;
      if (wanted !== undefined && recording.id !== wanted) continue;
      found.push(recording.explain());
      rows += recording.rows;
    }
    return found;
  }
}
