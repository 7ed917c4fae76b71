/**
 * RequestMetrics on accumulators: the series of a label set are looked up once per distinct (model, target, fairness, priority) and kept,
 * so a request costs one map lookup and plain number writes.
 */
import { LabelLimit } from "./cardinality.ts";
import type { Families } from "./catalogue.ts";
import type { Series } from "./families.ts";
import type { ExtensionPoint, RequestLabels, RequestMetrics, RequestRecord } from "./request-metrics.ts";

/** Distinct model names and fairness ids per process, as in the reference. */
const cardinalityLimit = 1000;
/** Series of scheduler attempts that are kept whatever became of their endpoints. */
const keptAttempts = 2000;
/**
 * Label sets of requests, 6 KiB and a few hundred lines of the page each. A thousand models times a thousand fairness ids would be a
 * million; past this many, what clients named is folded together.
 */
const maxLabelSets = 2000;

type LabelValues = readonly [model: string, targetModel: string, fairnessId: string, priority: string];

function keyOf(model: string, target: string, fairness: string, priority: string | number): string {
  return `${model}\u0000${target}\u0000${fairness}\u0000${priority}`;
}

type RecordEnd = Parameters<RequestRecord["ended"]>[0];

/** Every series of one label set, made when first written. */
class LabelledSeries {
  readonly #families: Families;
  readonly #values: readonly string[];
  readonly total: Series;
  readonly running: Series;
  readonly size: Series;
  readonly duration: Series;
  readonly responseSize: Series;
  #input: Series | undefined;
  #cached: Series | undefined;
  #output: Series | undefined;
  #perToken: Series | undefined;
  #firstStreaming: Series | undefined;
  #firstUnary: Series | undefined;
  #streamingPerToken: Series | undefined;
  #interToken: Series | undefined;

  constructor(families: Families, values: readonly string[]) {
    this.#families = families;
    this.#values = values;
    this.total = families.requestTotal.series(...values);
    this.running = families.running.series(...values);
    this.size = families.requestSize.series(...values);
    this.duration = families.requestDuration.series(...values);
    this.responseSize = families.responseSize.series(...values);
  }

  get input(): Series {
    this.#input ??= this.#families.inputTokens.series(...this.#values);
    return this.#input;
  }
  get cached(): Series {
    this.#cached ??= this.#families.cachedTokens.series(...this.#values);
    return this.#cached;
  }
  get output(): Series {
    this.#output ??= this.#families.outputTokens.series(...this.#values);
    return this.#output;
  }
  get perToken(): Series {
    this.#perToken ??= this.#families.perToken.series(...this.#values);
    return this.#perToken;
  }
  get streamingPerToken(): Series {
    this.#streamingPerToken ??= this.#families.streamingPerToken.series(...this.#values);
    return this.#streamingPerToken;
  }
  get interToken(): Series {
    this.#interToken ??= this.#families.interToken.series(...this.#values);
    return this.#interToken;
  }
  firstToken(streaming: boolean): Series {
    if (streaming) {
      this.#firstStreaming ??= this.#families.firstToken.series(...this.#values, "true");
      return this.#firstStreaming;
    }
    this.#firstUnary ??= this.#families.firstToken.series(...this.#values, "false");
    return this.#firstUnary;
  }
  error(code: string): Series {
    return this.#families.requestErrors.series(...this.#values, code);
  }
}

class Recorded implements RequestRecord {
  readonly #series: LabelledSeries;
  readonly #families: RecorderSeries;
  #isEnded = false;

  constructor(series: LabelledSeries, families: RecorderSeries) {
    this.#series = series;
    this.#families = families;
  }

  decided(durationMs: number): void {
    this.#families.requestProcessing.observe(durationMs / 1000);
  }

  firstByte(sinceStartMs: number, streaming: boolean): void {
    this.#series.firstToken(streaming).observe(sinceStartMs / 1000);
  }

  interTokenLatency(ms: number): void {
    this.#series.interToken.observe(ms / 1000);
  }

  responseProcessed(durationMs: number): void {
    this.#families.responseProcessing.observe(durationMs / 1000);
  }

  ended(end: RecordEnd): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    const series = this.#series;
    series.running.add(-1);
    series.duration.observe(end.durationMs / 1000);
    if (end.responseBytes > 0) series.responseSize.observe(end.responseBytes);
    if (end.promptTokens !== undefined) series.input.observe(end.promptTokens);
    if (end.cachedTokens !== undefined) series.cached.observe(end.cachedTokens);
    const tokens = end.completionTokens;
    if (tokens === undefined) return;
    series.output.observe(tokens);
    if (tokens > 0) series.perToken.observe(end.durationMs / 1000 / tokens);
    if (end.streaming && tokens > 1 && end.firstByteMs !== undefined) {
      series.streamingPerToken.observe((end.durationMs - end.firstByteMs) / 1000 / (tokens - 1));
    }
  }

  failed(errorCode: string): void {
    this.#series.error(errorCode).add(1);
  }
}

interface RecorderSeries {
  readonly requestProcessing: Series;
  readonly responseProcessing: Series;
}

export class RequestRecorder implements RequestMetrics {
  readonly #families: Families;
  readonly #shared: RecorderSeries;
  readonly #schedulerDuration: Series;
  readonly #byLabels = new Map<string, LabelledSeries>();
  /** Status and model → endpoint → series. */
  readonly #attempts = new Map<string, Map<string, Series>>();
  /** Extension point → plugin name → series. */
  readonly #plugins = new Map<ExtensionPoint, Map<string, Series>>();
  /** One limit for both model labels. */
  readonly models = new LabelLimit(cardinalityLimit);
  readonly fairness = new LabelLimit(cardinalityLimit);

  constructor(families: Families) {
    this.#families = families;
    this.#shared = {
      requestProcessing: families.requestProcessing.series(),
      responseProcessing: families.responseProcessing.series(),
    };
    this.#schedulerDuration = families.schedulerDuration.series();
  }

  started(labels: RequestLabels, sizeBytes: number): RequestRecord {
    const series = this.#labelled(labels);
    series.total.add(1);
    series.running.add(1);
    series.size.observe(sizeBytes);
    return new Recorded(series, this.#shared);
  }

  refused(errorCode: string, model: string, labels?: RequestLabels): void {
    if (labels !== undefined) {
      const isFull = this.#families.requestErrors.size >= maxLabelSets;
      const values = isFull ? this.#coarse(labels) : this.#folded(labels);
      this.#families.requestErrors.series(...values, errorCode).add(1);
      return;
    }
    const name = this.models.fold(model);
    this.#families.requestErrors.series(name, name, "", "0", errorCode).add(1);
  }

  scheduled(
    durationMs: number,
    status: "success" | "failure",
    targetModel: string,
    endpoint: { readonly name: string; readonly namespace: string; readonly port: number } | undefined,
  ): void {
    this.#schedulerDuration.observe(durationMs / 1000);
    const model = this.models.fold(targetModel);
    const group = status === "success" ? model : `\u0000${model}`;
    let byEndpoint = this.#attempts.get(group);
    if (byEndpoint === undefined) {
      byEndpoint = new Map();
      this.#attempts.set(group, byEndpoint);
    }
    const key = endpoint?.name ?? "";
    let series = byEndpoint.get(key);
    if (series === undefined) {
      const name = endpoint === undefined ? "" : endpoint.name.slice(endpoint.namespace.length + 1);
      const port = endpoint === undefined ? "" : String(endpoint.port);
      series = this.#families.schedulerAttempts.series(status, model, name, endpoint?.namespace ?? "", port);
      byEndpoint.set(key, series);
    }
    series.add(1);
  }

  /** Drops the attempts on endpoints that have left, once there are many: a pool that scales for months must not grow its page with it. */
  pruneAttempts(isPresent: (namespace: string, name: string) => boolean): void {
    const { schedulerAttempts } = this.#families;
    if (schedulerAttempts.size <= keptAttempts) return;
    schedulerAttempts.prune(([, , name = "", namespace = ""]) => name === "" || isPresent(namespace, name));
    this.#attempts.clear();
  }

  plugin(point: ExtensionPoint, type: string, name: string, durationMs: number): void {
    let byName = this.#plugins.get(point);
    if (byName === undefined) {
      byName = new Map();
      this.#plugins.set(point, byName);
    }
    let series = byName.get(name);
    // A reload may give a name to another type.
    if (series === undefined || series.labelValues[1] !== type) {
      series = this.#families.pluginDuration.series(point, type, name);
      byName.set(name, series);
    }
    series.observe(durationMs / 1000);
  }

  pluginFailed(point: ExtensionPoint, type: string, name: string): void {
    this.#families.pluginErrors.series(point, type, name).add(1);
  }

  modelRewritten(rewriteName: string, model: string, targetModel: string): void {
    this.#families.modelRewrites.series(rewriteName, this.models.fold(model), this.models.fold(targetModel)).add(1);
  }

  #labelled(labels: RequestLabels): LabelledSeries {
    const model = this.models.fold(labels.model);
    const target = labels.targetModel === labels.model ? model : this.models.fold(labels.targetModel);
    const fairness = this.fairness.fold(labels.fairnessId);
    const series = this.#byLabels.get(keyOf(model, target, fairness, labels.priority));
    if (series !== undefined) return series;
    const isFull = this.#byLabels.size >= maxLabelSets;
    return this.#seriesOf(isFull ? this.#coarse(labels) : [model, target, fairness, String(labels.priority)]);
  }

  #seriesOf(values: LabelValues): LabelledSeries {
    const key = keyOf(...values);
    let series = this.#byLabels.get(key);
    if (series === undefined) {
      series = new LabelledSeries(this.#families, values);
      this.#byLabels.set(key, series);
    }
    return series;
  }

  /** Only what an operator wrote keeps its name. */
  #coarse(labels: RequestLabels): LabelValues {
    const { models } = this;
    const named = (model: string): string => (model === "" || models.isPinned(model) ? model : "other");
    return [named(labels.model), named(labels.targetModel), "other", String(labels.priority)];
  }

  #folded(labels: RequestLabels): LabelValues {
    const { models } = this;
    return [
      models.fold(labels.model),
      models.fold(labels.targetModel),
      this.fairness.fold(labels.fairnessId),
      String(labels.priority),
    ];
  }
}
