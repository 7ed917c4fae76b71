/** What all sessions of one server share: collaborators, the byte budget, the queue of deadlines, and whether the process is draining. */
import { MemberList } from "../pipeline/member-list.ts";
import { ByteBudget } from "./byte-budget.ts";
import { type ConstantReplies, encodeConstantReplies } from "./replies.ts";
import type { ModeLack, SessionDeps } from "./session-deps.ts";

/** A session that still owes its request an answer. */
export interface Waiting {
  readonly deadlineMs: number;
  expire(): void;
  shutDown(): void;
}

export class SessionShared {
  readonly deps: SessionDeps;
  readonly constants: ConstantReplies;
  readonly budget: ByteBudget;
  /** In the order of their deadlines, since all have the same time from their opening: only the oldest need a look. */
  readonly waiting: MemberList<Waiting>;
  /** From here on, streams that hide the body are ended with OK as soon as their request has left. */
  releasing: boolean;
  readonly #warned: Set<ModeLack>;

  constructor(deps: SessionDeps) {
    this.deps = deps;
    this.constants = encodeConstantReplies(deps.codec);
    this.budget = new ByteBudget(deps.limits.maxBufferedBytes);
    this.waiting = new MemberList();
    this.releasing = false;
    this.#warned = new Set();
  }

  lacks(what: ModeLack): void {
    this.deps.onModeLacks(what);
    if (this.#warned.has(what)) return;
    this.#warned.add(what);
    this.deps.logger.warn({ lacks: what }, "the gateway's body mode hides what this configuration or request needs");
  }

  /** Expires every session whose deadline has passed. */
  sweep(): void {
    const nowMs = this.deps.clock.now();
    for (let oldest = this.waiting.oldest; oldest !== undefined; oldest = this.waiting.oldest) {
      const { member } = oldest;
      if (member.deadlineMs > nowMs) return;
      oldest.leave();
      this.isolate(() => member.expire());
    }
  }

  /** Runs something whose failure must not reach the stream, another session or the transport. */
  isolate(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.deps.logger.error({ error }, "a session's collaborator threw");
    }
  }
}
