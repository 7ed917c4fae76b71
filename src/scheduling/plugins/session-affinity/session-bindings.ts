/**
 * Affinity by memory: a session id → the endpoint that served it last, least recently used first. At most 65,536 sessions with ids of at
 * most 256 characters (some 25 MiB); beyond that the longest unused is forgotten. Time is the cycle's; expired sessions are never followed.
 */
import {
  type Assignment,
  AttributeKey,
  type Cycle,
  type Endpoint,
  type EndpointName,
  type Endpoints,
  type InferenceRequest,
  type RequestObserver,
} from "../../contracts.ts";
import { type SessionAffinityParameters, type SessionSource, sessionAttributes } from "./parameters.ts";
import { type SharedBinding, SharedSessions } from "./shared-sessions.ts";

const mostSessions = 65_536;
const longestId = 256;

interface Binding {
  readonly endpoint: EndpointName;
  /** Grows whenever the session moves: of two replicas' bindings the greater one is right. */
  readonly version: number;
  readonly seenMs: number;
}

/** What find learnt of a request, for the assignment that follows. */
interface Visit {
  readonly sessionId: string;
  readonly nowMs: number;
  /** The session is bound to an endpoint that was not among the candidates. */
  readonly boundElsewhere: boolean;
}

export class SessionBindings {
  readonly observer: RequestObserver;
  readonly shared: SharedSessions;
  readonly #sources: readonly SessionSource[];
  readonly #profileName: string;
  readonly #ttlMs: number;
  readonly #sweepMs: number;
  /** This instance's own: two instances pin the same request independently. */
  readonly #visitKey = new AttributeKey<Visit>("session-affinity/visit");
  /** Oldest first: every touch moves a session to the end. */
  readonly #bindings = new Map<string, Binding>();
  #sweptMs = Number.NEGATIVE_INFINITY;

  /** `name` is the plugin's, the same in every replica. */
  constructor(name: string, { sessionIdConfig, profileName }: SessionAffinityParameters) {
    this.#sources = sessionIdConfig.sources.map(({ header, ...source }) =>
      header === undefined ? source : { ...source, header: header.trim().toLowerCase() },
    );
    this.#profileName = profileName;
    this.#ttlMs = sessionIdConfig.evictionTtlSeconds * 1000;
    this.#sweepMs = sessionIdConfig.evictionSweepSeconds * 1000;
    this.observer = { assigned: (request, assignment) => this.#assigned(request, assignment) };
    this.shared = new SharedSessions(name, {
      take: (binding, nowMs) => this.#take(binding, nowMs),
      all: (nowMs) => this.#all(nowMs),
    });
  }

  get size(): number {
    return this.#bindings.size;
  }

  find({ request, nowMs }: Cycle, endpoints: Endpoints): Endpoint | undefined {
    const sessionId = this.#sessionIdOf(request);
    if (sessionId === undefined) return undefined;
    const bound = this.#boundTo(sessionId, nowMs);
    let target: Endpoint | undefined;
    if (bound !== undefined) {
      for (const endpoint of endpoints) if (endpoint.name === bound) target = endpoint;
    }
    request.setAttribute(this.#visitKey, {
      sessionId,
      nowMs,
      boundElsewhere: bound !== undefined && target === undefined,
    });
    return target;
  }

  #sessionIdOf(request: InferenceRequest): string | undefined {
    for (const { header, attribute } of this.#sources) {
      const key = attribute === undefined ? undefined : sessionAttributes.get(attribute);
      const found =
        header === undefined ? (key === undefined ? undefined : request.attribute(key)) : request.headers.get(header);
      if (found === undefined) continue;
      const id = found.trim();
      if (id === "") continue;
      // Before trimming: a trimmed string may keep the whole of a padded header alive.
      return found.length <= longestId ? id : undefined;
    }
    return undefined;
  }

  #boundTo(sessionId: string, nowMs: number): EndpointName | undefined {
    const binding = this.#bindings.get(sessionId);
    return binding === undefined || this.#isExpired(binding, nowMs) ? undefined : binding.endpoint;
  }

  /**
   * Binds a new session and keeps one that stayed. A session moves only when its endpoint was gone from the candidates: one that other
   * scorers outweighed, or that a concurrent first request bound, stays where it is.
   */
  #assigned(request: InferenceRequest, { destinations, byProfile }: Assignment): void {
    const visit = request.attribute(this.#visitKey);
    if (visit === undefined) return;
    const picked = this.#profileName === "" ? destinations[0] : byProfile.get(this.#profileName)?.[0];
    if (picked === undefined) return;
    const { sessionId, nowMs, boundElsewhere } = visit;
    const bound = this.#boundTo(sessionId, nowMs);
    if (bound === undefined || bound === picked.name || boundElsewhere) {
      const before = this.#bindings.get(sessionId);
      const version = before === undefined ? 1 : before.version + (before.endpoint === picked.name ? 0 : 1);
      this.#bind(sessionId, { endpoint: picked.name, version, seenMs: nowMs });
      this.shared.bound(sessionId, picked.name, version);
    }
    this.#sweep(nowMs);
  }

  /** A peer's binding, which stands unless this replica has a later one; of two of one version both take the same. */
  #take({ sessionId, endpoint, version, ageMs, isNew }: SharedBinding, nowMs: number): void {
    const own = this.#bindings.get(sessionId);
    if (own !== undefined && !this.#isExpired(own, nowMs)) {
      if (own.version > version || (own.version === version && own.endpoint > endpoint)) return;
      if (!isNew && own.version === version && own.endpoint === endpoint) return;
    } else if (!isNew && this.#bindings.size >= mostSessions) return;
    if (sessionId.length <= longestId) this.#bind(sessionId, { endpoint, version, seenMs: nowMs - ageMs });
    this.#sweep(nowMs);
  }

  *#all(nowMs: number): Iterable<SharedBinding> {
    for (const [sessionId, binding] of [...this.#bindings].reverse()) {
      if (this.#isExpired(binding, nowMs)) continue;
      const { endpoint, version, seenMs } = binding;
      yield { sessionId, endpoint, version, ageMs: nowMs - seenMs, isNew: false };
    }
  }

  #bind(sessionId: string, binding: Binding): void {
    this.#bindings.delete(sessionId);
    this.#bindings.set(sessionId, binding);
    if (this.#bindings.size <= mostSessions) return;
    for (const oldest of this.#bindings.keys()) {
      this.#bindings.delete(oldest);
      return;
    }
  }

  #sweep(nowMs: number): void {
    if (nowMs - this.#sweptMs < this.#sweepMs) return;
    this.#sweptMs = nowMs;
    for (const [sessionId, binding] of this.#bindings) {
      if (!this.#isExpired(binding, nowMs)) return;
      this.#bindings.delete(sessionId);
    }
  }

  #isExpired({ seenMs }: Binding, nowMs: number): boolean {
    return nowMs - seenMs > this.#ttlMs;
  }
}
