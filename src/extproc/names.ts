/** Header and metadata names of the endpoint picker protocol, spelt as the reference spells them. */

export const destinationHeader = "x-gateway-destination-endpoint";
export const destinationNamespace = "envoy.lb";
export const scoresKey = "x-gateway-destination-endpoint-scores";
export const servedKey = "x-gateway-destination-endpoint-served";
export const subsetNamespace = "envoy.lb.subset_hint";
export const subsetKey = "x-gateway-destination-endpoint-subset";
export const requestIdHeader = "x-request-id";
export const proofHeader = "x-went-into-resp-headers";
/** The casing that the reference writes. */
export const contentLengthHeader = "Content-Length";

/**
 * Headers that choose an engine, a rank, a prefill partner or a model behind the picker. A client's own are removed before the request
 * leaves: whoever could set them would steer another hop past every decision made here. What only describes a request (objective,
 * fairness id, latency targets, video hints, profile) steers nobody behind the picker and is left alone.
 */
const steeringHeaders: ReadonlySet<string> = new Set([
  "x-llm-d-request-dropped-reason",
  "x-llm-d-model-name-rewrite",
  "x-gateway-model-name-rewrite",
  "x-prefiller-host-port",
  "x-encoder-hosts-ports",
  "x-data-parallel-host-port",
  "x-kv-cache-source-host-port",
  "x-worker-instance-id",
  "x-prefill-instance-id",
  "x-dp-rank",
  "x-data-parallel-rank",
  "x-prefill-dp-rank",
]);

/**
 * What a client may tell a Dynamo frontend about its own request: session, queue class and other metadata, priority. Every other
 * `x-dynamo-` header is an order to the frontend or to a worker, known today or not, and is the picker's to give.
 */
const clientDynamoHeaders: ReadonlySet<string> = new Set([
  "x-dynamo-session-id",
  "x-dynamo-parent-session-id",
  "x-dynamo-session-final",
  "x-dynamo-request-priority",
  "x-dynamo-request-strict-priority",
]);
const dynamoPrefix = "x-dynamo-";
const dynamoMetadataPrefix = "x-dynamo-meta-";

function isDynamoOrder(name: string): boolean {
  return name.startsWith(dynamoPrefix) && !name.startsWith(dynamoMetadataPrefix) && !clientDynamoHeaders.has(name);
}

/** The destination itself is overwritten, never removed: gateways differ in whether they remove before or after they set. */
export function isSteeringHeader(name: string): boolean {
  return (
    steeringHeaders.has(name) ||
    isDynamoOrder(name) ||
    (name.startsWith(destinationHeader) && name.length > destinationHeader.length)
  );
}

/** Never echoed (pkg/common/envoy/headers.go): the picker's own control headers, and the length that may change. */
export function isSystemHeader(name: string): boolean {
  return systemHeaders.has(name) || isSteeringHeader(name);
}

const systemHeaders: ReadonlySet<string> = new Set([
  destinationHeader,
  "content-length",
  "x-llm-d-inference-objective",
  "x-gateway-inference-objective",
  "x-llm-d-inference-fairness-id",
  "x-gateway-inference-fairness-id",
  "x-llm-d-slo-ttft-ms",
  "x-slo-ttft-ms",
  "x-llm-d-slo-tpot-ms",
  "x-slo-tpot-ms",
  "x-llm-d-video-fps",
  "x-llm-d-video-duration-seconds",
  "x-llm-d-video-resolution",
]);
