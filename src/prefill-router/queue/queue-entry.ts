/** One waiting request and its place in the order: strict priority first, then the policy's score, then who came first. Total: no two tie. */
import type { QueuePolicy } from "../policy/policy-class.ts";

/** What a request weighs while it waits, taken once at arrival. */
export interface QueueWeight {
  readonly rawTokens: number;
  /** At most rawTokens. */
  readonly cachedTokens: number;
}

export class QueueEntry<T> {
  readonly payload: T;
  readonly classIndex: number;
  /** Of a pinned request: which of the class's lanes. Undefined: the shared one. */
  readonly lane: string | undefined;
  readonly strictPriority: number;
  readonly score: number;
  readonly sequence: number;
  readonly rawTokens: number;
  readonly cachedTokens: number;
  /** Place in its lane's heap; -1 once it waits no more. */
  position = -1;

  constructor(
    payload: T,
    classIndex: number,
    lane: string | undefined,
    strictPriority: number,
    score: number,
    sequence: number,
    weight: QueueWeight,
  ) {
    this.payload = payload;
    this.classIndex = classIndex;
    this.lane = lane;
    this.strictPriority = strictPriority;
    this.score = score;
    this.sequence = sequence;
    this.rawTokens = weight.rawTokens;
    this.cachedTokens = weight.cachedTokens;
  }

  /** Tokens to compute, at least 1, so that a request that is cached whole still takes part in the shares. */
  get cost(): number {
    return Math.max(1, this.rawTokens - this.cachedTokens);
  }
}

/** Whether `left` goes first. */
export function precedes<T>(left: QueueEntry<T>, right: QueueEntry<T>): boolean {
  if (left.strictPriority !== right.strictPriority) return left.strictPriority > right.strictPriority;
  if (left.score !== right.score) return left.score > right.score;
  return left.sequence < right.sequence;
}

/**
 * Higher goes first. `priorityJump` is seconds of head start (fcfs, lcfs) or extra weight (wspt: Smith's rule, the shortest processing time
 * by weight first).
 */
export function policyScore(
  policy: QueuePolicy,
  weight: QueueWeight,
  arrivalSeconds: number,
  priorityJump: number,
): number {
  const jump = Math.max(0, priorityJump);
  switch (policy) {
    case "fcfs":
      return jump - Math.max(0, arrivalSeconds);
    case "lcfs":
      return jump + Math.max(0, arrivalSeconds);
    case "wspt":
      return (1 + jump) / Math.max(1, weight.rawTokens - weight.cachedTokens);
    default:
      return policy satisfies never;
  }
}
