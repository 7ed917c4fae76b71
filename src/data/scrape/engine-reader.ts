/**
 * Reads the metrics page of one endpoint into EngineMetrics. What the page lacks keeps its last value; a page without any of the signals
 * that have to be there changes nothing and is a failure. Values a sane engine cannot have are clamped: a lying page may mislead scoring,
 * never break it.
 */
import type { Endpoint, EngineMetrics } from "../endpoint.ts";
import type { ScrapeSink } from "../endpoint-store.ts";
import { column, type EngineMap, type Signal } from "./engine-map.ts";
import { labelValue, type Sample } from "./exposition.ts";
import { LoraInfo } from "./lora-info.ts";
import { type SampleSink, SeriesFinder } from "./series-finder.ts";
import { type ReadOutcome, readWhole } from "./source.ts";

export class EngineReader implements SampleSink {
  readonly #map: EngineMap;
  readonly #finder: SeriesFinder;
  /** By column: sum of the finite values, their number, and the first of them. */
  readonly #sums: Float64Array;
  readonly #counts: Int32Array;
  readonly #firsts: Float64Array;
  readonly #lora = new LoraInfo();

  constructor(map: EngineMap) {
    this.#map = map;
    this.#finder = new SeriesFinder(map.names);
    this.#sums = new Float64Array(map.signalCount);
    this.#counts = new Int32Array(map.signalCount);
    this.#firsts = new Float64Array(map.signalCount);
  }

  read(endpoint: Endpoint, page: Buffer, nowMs: number, sink: ScrapeSink): ReadOutcome {
    const wasSearched = this.#finder.read(page, nowMs, this);
    const missing = this.#missing();
    const { required } = this.#map;
    if (required.length > 0 && missing.length === required.length) {
      return { kind: "failed", reason: `the page has none of ${missing.join(", ")}` };
    }
    sink.setMetrics(endpoint.name, this.#metrics(endpoint.metrics, wasSearched, nowMs));
    for (const { column: at, attribute } of this.#map.custom) {
      if (this.#count(at) > 0) sink.setAttribute(endpoint.name, attribute, this.#firsts[at]);
    }
    return missing.length === 0 ? readWhole : { kind: "partial", missing };
  }

  begin(): void {
    this.#sums.fill(0);
    this.#counts.fill(0);
    this.#lora.begin();
  }

  sample(name: number, page: Buffer, sample: Sample): void {
    const signals = this.#map.signals[name];
    if (signals === undefined || !Number.isFinite(sample.value)) return;
    for (const signal of signals) {
      if (hasLabels(page, sample, signal)) this.#take(signal, page, sample);
    }
  }

  #take(signal: Signal, page: Buffer, sample: Sample): void {
    switch (signal.kind) {
      case "lora":
        this.#lora.add(page, sample);
        this.#add(column.lora, 1);
        return;
      case "cache-info":
        this.#addLabel(column.blockSize, page, sample, this.#map.blockSizeLabel);
        this.#addLabel(column.blockCount, page, sample, this.#map.blockCountLabel);
        return;
      case "queued":
      case "running":
      case "kv-usage":
      case "kv-usage-fallback":
      case "block-size":
      case "block-count":
      case "custom":
        this.#add(signal.column, sample.value);
        return;
    }
  }

  #addLabel(at: number, page: Buffer, sample: Sample, label: string): void {
    const text = labelValue(page, sample.labelsStart, sample.labelsEnd, label);
    const value = text === undefined || text === "" ? Number.NaN : Number(text);
    if (Number.isFinite(value)) this.#add(at, value);
  }

  #add(at: number, value: number): void {
    if (this.#count(at) === 0) this.#firsts[at] = value;
    this.#sums[at] = this.#sum(at) + value;
    this.#counts[at] = this.#count(at) + 1;
  }

  #sum(at: number): number {
    return this.#sums[at] ?? 0;
  }

  #count(at: number): number {
    return this.#counts[at] ?? 0;
  }

  #missing(): readonly string[] {
    let missing: string[] | undefined;
    for (const { column: at, spec } of this.#map.required) {
      if (this.#count(at) > 0) continue;
      if (at === column.kvUsage && this.#count(column.kvUsageFallback) > 0) continue;
      missing ??= [];
      missing.push(spec);
    }
    return missing ?? nothingMissing;
  }

  #metrics(last: EngineMetrics, wasSearched: boolean, nowMs: number): EngineMetrics {
    const usage = this.#count(column.kvUsage) > 0 ? column.kvUsage : column.kvUsageFallback;
    // An engine without the series has no adapters (any more); only a search of the whole page can tell.
    const hasLora = wasSearched || this.#count(column.lora) > 0;
    if (hasLora) this.#lora.finish();
    return {
      waitingRequests: this.#count(column.queued) > 0 ? atLeastZero(this.#sum(column.queued)) : last.waitingRequests,
      runningRequests: this.#count(column.running) > 0 ? atLeastZero(this.#sum(column.running)) : last.runningRequests,
      kvCacheUsage:
        this.#count(usage) > 0 ? Math.min(atLeastZero(this.#sum(usage) / this.#count(usage)), 1) : last.kvCacheUsage,
      activeAdapters: hasLora ? this.#lora.active : last.activeAdapters,
      waitingAdapters: hasLora ? this.#lora.waiting : last.waitingAdapters,
      maxAdapters: hasLora ? this.#lora.slots : last.maxAdapters,
      blockSizeTokens:
        this.#count(column.blockSize) > 0 ? atLeastZero(this.#firsts[column.blockSize] ?? 0) : last.blockSizeTokens,
      totalBlocks: this.#count(column.blockCount) > 0 ? atLeastZero(this.#sum(column.blockCount)) : last.totalBlocks,
      updatedAtMs: nowMs,
    };
  }
}

const nothingMissing: readonly string[] = [];

function atLeastZero(value: number): number {
  return Math.max(value, 0);
}

function hasLabels(page: Buffer, sample: Sample, signal: Signal): boolean {
  for (const [name, value] of signal.labels) {
    if (labelValue(page, sample.labelsStart, sample.labelsEnd, name) !== value) return false;
  }
  return true;
}
