/** A discovery tells the endpoint store which model servers there are, and keeps it told until it is closed. */
import type { EndpointWriter } from "../endpoint-store.ts";
import type { Closable } from "../plugin.ts";

export interface Discovery extends Closable {
  /** Resolves when the first complete list is in the store; rejects with DiscoveryError when there is none to be had. Called once. */
  start(store: EndpointWriter): Promise<void>;
  /** Stops telling; what is in the store stays. */
  close(): Promise<void>;
}

export class DiscoveryError extends Error {
  readonly code = "DISCOVERY_FAILED";
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "DiscoveryError";
  }
}
