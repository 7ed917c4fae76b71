/** Endpoints of this process that others ask over the request plane, whichever way requests come. Answers go by TCP in either case. */
import type { PayloadCodec } from "../encoding/value-reader.ts";
import type { EndpointTransport, InstanceRecord } from "../records.ts";

/** Makes the answer of a request's body, a view valid until the call returns; both in the codec. */
export type Endpoint = (body: Buffer, codec: PayloadCodec) => Buffer;

export type EndpointInstance = Pick<InstanceRecord, "namespace" | "component" | "endpoint" | "instanceId">;

export interface ServedEndpoint {
  /** For its record: how others reach it. */
  readonly transport: EndpointTransport;
  readonly end: () => void;
}

export interface EndpointServerCounters {
  requests: number;
  /** Answers that were written out. */
  answered: number;
  /** Nobody took the answer. */
  undelivered: number;
  /** Unknown endpoints, too many at once, what is no request. */
  refused: number;
  connections: number;
}

export interface EndpointServer {
  readonly counters: Readonly<EndpointServerCounters>;
  /** Requests for this endpoint from now on. Throws where it is served already. */
  serve(instance: EndpointInstance, endpoint: Endpoint): ServedEndpoint;
  /** Answers under way are broken off. */
  close(): Promise<void>;
}
