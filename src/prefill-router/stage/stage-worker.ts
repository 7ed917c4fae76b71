/** A worker as a stage keeps it: what it said of itself, and the slots of its ranks. */
import type { RouterWorker } from "../contracts.ts";

export interface StageWorker {
  worker: RouterWorker;
  /** Its own taints and those of where it lies. */
  taints: ReadonlySet<string>;
  /** One a rank, from dataParallelStartRank on. */
  slots: Int32Array;
  /** Out of the choice, but not of the books. */
  isSuspect: boolean;
}

/** The slot of a rank; −1 for one the worker does not have. */
export function slotOf(worker: StageWorker, dpRank: number): number {
  return worker.slots[dpRank - worker.worker.dataParallelStartRank] ?? -1;
}
