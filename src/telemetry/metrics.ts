/** The metrics of one process: families, the request recorder, and the page that shows them with Node's own metrics, which prom-client collects. */
import { collectDefaultMetrics, Registry } from "prom-client";
import { createFamilies, type Families } from "./catalogue.ts";
import { createDynamoFamilies, type DynamoFamilies } from "./dynamo-catalogue.ts";
import { renderFamilies } from "./exposition.ts";
import type { Family } from "./families.ts";
import { RequestRecorder } from "./request-recorder.ts";

export interface Metrics {
  readonly families: Families;
  /** Shown once they hold something. */
  readonly dynamo: DynamoFamilies;
  readonly requests: RequestRecorder;
  /** Runs before every rendering: refreshes gauges that are read rather than counted. */
  onCollect(refresh: () => void): void;
  /** The Prometheus text page. Scrapes that come together share one. */
  render(): Promise<string>;
  readonly contentType: string;
}

export interface MetricsOptions {
  /** extproc_streams_* are off unless asked for, as in the reference. */
  readonly streamMetrics: boolean;
  readonly version: string;
  /** Of the build; "" when unknown. */
  readonly commit?: string;
}

export function createMetrics(options: MetricsOptions): Metrics {
  const families = createFamilies();
  const dynamo = createDynamoFamilies();
  const optional: ReadonlySet<Family> = new Set([families.streams, families.streamDuration, families.streamsInflight]);
  const shown = Object.values(families).filter((family) => options.streamMetrics || !optional.has(family));
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  families.info.series(options.commit ?? "", options.version).set(1);
  const refreshes: (() => void)[] = [];
  let underWay: Promise<string> | undefined;
  const page = async (): Promise<string> => {
    for (const refresh of refreshes) refresh();
    const used = Object.values(dynamo).filter((family) => family.size > 0);
    return (await renderFamilies([...shown, ...used], () => performance.now())) + (await registry.metrics());
  };
  return {
    families,
    dynamo,
    requests: new RequestRecorder(families),
    onCollect(refresh) {
      refreshes.push(refresh);
    },
    render() {
      underWay ??= page().finally(() => {
        underWay = undefined;
      });
      return underWay;
    },
    contentType: registry.contentType,
  };
}
