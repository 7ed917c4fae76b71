/** Instances by the endpoint that they answer at, for who asks an endpoint without being a worker's client: any of them will do. */
import { scopePath } from "../record-keys.ts";
import type { EventScope, InstanceRecord } from "../records.ts";

const none: readonly InstanceRecord[] = [];

export class InstanceIndex {
  /** By key: the record, and the endpoint under which it is found. */
  readonly #byKey = new Map<string, InstanceRecord>();
  readonly #byEndpoint = new Map<string, readonly InstanceRecord[]>();

  put(key: string, instance: InstanceRecord): void {
    this.remove(key);
    this.#byKey.set(key, instance);
    const endpoint = scopePath(instance);
    this.#byEndpoint.set(endpoint, [...(this.#byEndpoint.get(endpoint) ?? none), instance]);
  }

  remove(key: string): void {
    const instance = this.#byKey.get(key);
    if (instance === undefined) return;
    this.#byKey.delete(key);
    const endpoint = scopePath(instance);
    const left = (this.#byEndpoint.get(endpoint) ?? none).filter((other) => other !== instance);
    if (left.length === 0) this.#byEndpoint.delete(endpoint);
    else this.#byEndpoint.set(endpoint, left);
  }

  /** The same array until one comes or goes. */
  of(endpoint: EventScope): readonly InstanceRecord[] {
    return this.#byEndpoint.get(scopePath(endpoint)) ?? none;
  }
}
