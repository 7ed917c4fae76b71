/** Failure of a discovery backend that its caller must answer: unreachable at start, or a registration that could not be written. */
export class DiscoveryBackendError extends Error {
  readonly code = "DYNAMO_DISCOVERY_FAILED";
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "DiscoveryBackendError";
  }
}
