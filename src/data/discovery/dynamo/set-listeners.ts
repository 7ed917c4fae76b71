/** Several listeners to worker sets as one; one that throws is logged and the others are told all the same. */
import type { WorkerSetListener } from "../../../dynamo/worker-sets/worker-set.ts";
import type { Logger } from "../../../telemetry/log.ts";

export class SetListeners implements WorkerSetListener {
  readonly #log: Logger;
  /** Replaced on change, so that a listener may come or go while a round is under way. */
  #listeners: readonly WorkerSetListener[] = [];

  constructor(log: Logger) {
    this.#log = log;
  }

  add(listener: WorkerSetListener): () => void {
    this.#listeners = [...this.#listeners, listener];
    return () => {
      this.#listeners = this.#listeners.filter((other) => other !== listener);
    };
  }

  readonly setAdded: WorkerSetListener["setAdded"] = (set) => this.#tell((listener) => listener.setAdded(set));
  readonly setRemoved: WorkerSetListener["setRemoved"] = (set) => this.#tell((listener) => listener.setRemoved(set));
  readonly setChanged: WorkerSetListener["setChanged"] = (set) => this.#tell((listener) => listener.setChanged(set));
  readonly workerAdded: WorkerSetListener["workerAdded"] = (set, worker) =>
    this.#tell((listener) => listener.workerAdded(set, worker));
  readonly workerChanged: WorkerSetListener["workerChanged"] = (set, worker) =>
    this.#tell((listener) => listener.workerChanged(set, worker));
  readonly workerRemoved: WorkerSetListener["workerRemoved"] = (set, worker) =>
    this.#tell((listener) => listener.workerRemoved(set, worker));
  readonly channelOpened: WorkerSetListener["channelOpened"] = (channel) =>
    this.#tell((listener) => listener.channelOpened(channel));
  readonly channelClosed: WorkerSetListener["channelClosed"] = (channel) =>
    this.#tell((listener) => listener.channelClosed(channel));

  #tell(call: (listener: WorkerSetListener) => void): void {
    for (const listener of this.#listeners) {
      try {
        call(listener);
      } catch (error) {
        this.#log.error({ err: error }, "a listener to worker sets failed");
      }
    }
  }
}
