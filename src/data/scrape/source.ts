/**
 * The two halves of polling an endpoint: a data source says what to fetch, its extractors read what came. Both are plugins; the scraper owns
 * sockets, timing and failures.
 */
import type { GetTarget } from "../../net/http1/get-client.ts";
import type { Endpoint } from "../endpoint.ts";
import type { ScrapeSink } from "../endpoint-store.ts";

export interface DataSource {
  /** Plugin type; label of the poll error counters. */
  readonly sourceType: string;
  /** Least time between two polls of one endpoint; 0 polls as often as the scraper does. */
  readonly intervalMs: number;
  target(endpoint: Endpoint): GetTarget;
}

export interface Extractor {
  /** Plugin type; label of the extract error counters. */
  readonly extractorType: string;
  /** A reader for one endpoint's life: it may remember the shape of the last page. */
  open(): PageReader;
}

export interface PageReader {
  /**
   * Reads a page (valid until the call returns) and writes what it holds to the sink. `endpoint` is the current one, so it carries the
   * values of the last page.
   */
  read(endpoint: Endpoint, page: Buffer, nowMs: number, sink: ScrapeSink): ReadOutcome;
}

/**
 * `read`: everything wanted was there. `partial`: something was missing and kept its last value. `failed`: nothing could be used and nothing
 * was written; counts toward the failure threshold like a failed poll.
 */
export type ReadOutcome =
  | { readonly kind: "read" }
  | { readonly kind: "partial"; readonly missing: readonly string[] }
  | { readonly kind: "failed"; readonly reason: string };

export const readWhole: ReadOutcome = { kind: "read" };

export function isDataSource(value: unknown): value is DataSource {
  return typeof value === "object" && value !== null && "sourceType" in value && "target" in value;
}

export function isExtractor(value: unknown): value is Extractor {
  return typeof value === "object" && value !== null && "extractorType" in value && "open" in value;
}
