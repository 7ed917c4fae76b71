/** What became of questions to another process's index and of decisions written into it, for metrics and for the debug page. */
import type { CallFailure } from "../../dynamo/request-plane/contracts.ts";

export type RemoteFailure =
  | CallFailure
  /** Nobody serves an index on the component. */
  | "no-instance"
  /** Who serves there may not be asked: indices fed by events beside one fed by decisions, or several of those. */
  | "topology"
  /** Everybody who serves has failed a moment ago. */
  | "resting"
  | "too-slow"
  /** The other says that it cannot answer, e.g. that it does not serve the model. */
  | "error"
  | "malformed"
  /** More decisions under way than are kept. */
  | "overflow";

export interface RemoteCounters {
  answered: number;
  /** Requests that ended while they were asked for. */
  cancelled: number;
  recorded: number;
  /** By reason; requests planned without overlaps. */
  readonly failedQueries: Map<RemoteFailure, number>;
  /** By reason; decisions that are not in the other's index. */
  readonly failedRecords: Map<RemoteFailure, number>;
}

export function createRemoteCounters(): RemoteCounters {
  return { answered: 0, cancelled: 0, recorded: 0, failedQueries: new Map(), failedRecords: new Map() };
}

export function count(failures: Map<RemoteFailure, number>, reason: RemoteFailure): void {
  failures.set(reason, (failures.get(reason) ?? 0) + 1);
}
