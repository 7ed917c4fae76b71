/** What a simulated worker can be told, with the defaults in one place. Names follow vLLM's flags where it has them. */
import { type Logger, silentLogger } from "../../telemetry/log.ts";

/** Faults on purpose, for tests; they may be changed while the worker runs. */
export interface WorkerFaults {
  /** The connection is destroyed after this many tokens of an answer; 0 is never. */
  failAfterTokens: number;
  /** Share of inference requests answered 500, 0 to 1, drawn from the seed. */
  errorRate: number;
  /** The metrics page repeats a HELP line, which strict parsers refuse as a whole. */
  metricsMalformed: boolean;
  /** Inference requests are read and never answered. */
  hang: boolean;
}

export interface WorkerOptions {
  /** Value of x-signalbox-worker. */
  readonly name: string;
  readonly host: string;
  /** 0 picks a free port. */
  readonly port: number;
  /** The first is the model's id, the others are aliases. */
  readonly servedModelNames: readonly string[];
  readonly loraModules: readonly string[];
  readonly maxLoras: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly maxModelLen: number;
  readonly blockSize: number;
  readonly numGpuBlocks: number;
  readonly prefixCaching: boolean;
  readonly seed: number;
  readonly prefillTokensPerSecond: number;
  readonly decodeStepMs: number;
  readonly attentionTokens: number;
  readonly loraLoadMs: number;
  readonly jitter: number;
  /** Simulated seconds a real second. */
  readonly timeScale: number;
  /** Length of an answer whose request sets no limit, in tokens. */
  readonly answerTokens: number;
  readonly embeddingDimensions: number;
  /** Larger bodies are answered 413. */
  readonly maxBodyBytes: number;
  /** Nothing listens before this much time, in ms. */
  readonly startDelayMs: number;
  readonly faults: Readonly<WorkerFaults>;
  /** ZeroMQ PUB endpoint for KV events, e.g. tcp://*:5557; undefined publishes none. */
  readonly kvEventsEndpoint: string | undefined;
  /** ZeroMQ ROUTER endpoint that replays past batches. */
  readonly kvReplayEndpoint: string | undefined;
  /** Undefined is kv@<host>:<port>@<model>. */
  readonly kvEventsTopic: string | undefined;
  /** Batches kept for replay. */
  readonly kvReplayBatches: number;
  readonly logger: Logger;
}

/** Speeds are those of a mid-size model on one datacentre GPU: 0.1 ms a prompt token, 25 ms an iteration. */
export const defaultWorkerOptions: WorkerOptions = {
  name: "worker-0",
  host: "0.0.0.0",
  port: 8000,
  servedModelNames: ["signalbox-sim"],
  loraModules: [],
  maxLoras: 1,
  maxNumSeqs: 256,
  maxNumBatchedTokens: 8192,
  maxModelLen: 131_072,
  blockSize: 16,
  numGpuBlocks: 8192,
  prefixCaching: true,
  seed: 0,
  prefillTokensPerSecond: 10_000,
  decodeStepMs: 25,
  attentionTokens: 50_000,
  loraLoadMs: 100,
  jitter: 0,
  timeScale: 1,
  answerTokens: 128,
  embeddingDimensions: 32,
  maxBodyBytes: 256 * 1024 * 1024,
  startDelayMs: 0,
  faults: { failAfterTokens: 0, errorRate: 0, metricsMalformed: false, hang: false },
  kvEventsEndpoint: undefined,
  kvReplayEndpoint: undefined,
  kvEventsTopic: undefined,
  kvReplayBatches: 10_000,
  logger: silentLogger,
};
