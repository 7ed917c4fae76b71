/** What the load client is told, and what it reports. */
import type { Shape } from "./script.ts";

export interface LoadOptions {
  readonly port: number;
  /** The picker's process, charged for all its threads. */
  readonly pid: number;
  readonly shape: Shape;
  readonly connections: number;
  /** Streams open at once (closed loop), or streams held. */
  readonly concurrency: number;
  /** Streams started per second (open loop); 0 is the closed loop. */
  readonly ratePerSecond: number;
  readonly warmupMs: number;
  readonly measureMs: number;
}

export interface LoadResult {
  readonly streams: number;
  readonly failures: number;
  readonly firstFailure: string;
  readonly seconds: number;
  readonly streamsPerSecond: number;
  readonly pickerMicrosPerStream: number;
  /** Share of the measured time that the picker ran, all threads together. */
  readonly pickerShare: number;
  readonly clientMicrosPerStream: number;
  readonly decisionP50Ms: number;
  readonly decisionP99Ms: number;
  readonly streamP50Ms: number;
  readonly streamP99Ms: number;
  readonly pickerResidentBytes: number;
}
