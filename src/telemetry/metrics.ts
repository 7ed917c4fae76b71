/** The metrics of one process: families, the request recorder, and a prom-client registry that renders them with Node's own metrics. */
import { collectDefaultMetrics, type Metric, Registry } from "prom-client";
import { createFamilies, type Families } from "./catalogue.ts";
import { type Family, RenderedFamily } from "./families.ts";
import { RequestRecorder } from "./request-recorder.ts";

export interface Metrics {
  readonly families: Families;
  readonly requests: RequestRecorder;
  /** Runs before every rendering: refreshes gauges that are read rather than counted. */
  onCollect(refresh: () => void): void;
  /** The Prometheus text page. */
  render(): Promise<string>;
  readonly contentType: string;
}

export interface MetricsOptions {
  /** extproc_streams_* are off unless asked for, as in the reference. */
  readonly streamMetrics: boolean;
  readonly version: string;
}

export function createMetrics(options: MetricsOptions): Metrics {
  const families = createFamilies();
  const registry = new Registry();
  const optional: ReadonlySet<Family> = new Set([families.streams, families.streamDuration, families.streamsInflight]);
  for (const family of Object.values(families)) {
    if (!options.streamMetrics && optional.has(family)) continue;
    for (const exposure of family.spec.exposures) {
      registry.registerMetric(new RenderedFamily(family, exposure) as unknown as Metric);
    }
  }
  collectDefaultMetrics({ register: registry });
  families.info.series("", options.version).set(1);
  const refreshes: (() => void)[] = [];
  return {
    families,
    requests: new RequestRecorder(families),
    onCollect(refresh) {
      refreshes.push(refresh);
    },
    async render() {
      for (const refresh of refreshes) refresh();
      return await registry.metrics();
    },
    contentType: registry.contentType,
  };
}
