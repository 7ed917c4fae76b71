/**
 * The metrics of one process: families, the request recorder, and the page that shows them with Node's own metrics, which prom-client collects.
 * A process of several pools has families for each of them, which its page shows under one name with the pool as a label.
 */
import { collectDefaultMetrics, Registry } from "prom-client";
import { createFamilies, type Families } from "./catalogue.ts";
import { createDynamoFamilies, type DynamoFamilies } from "./dynamo-catalogue.ts";
import { renderNamesakes, type ShownFamily } from "./exposition.ts";
import { RequestRecorder } from "./request-recorder.ts";

export interface Metrics {
  readonly families: Families;
  /** Shown once they hold something. */
  readonly dynamo: DynamoFamilies;
  readonly requests: RequestRecorder;
  /** Metrics of one of several pools: written alone, shown on this page. */
  ofPool(name: string): Metrics;
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
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const own = createSet(undefined);
  own.families.info.series(options.commit ?? "", options.version).set(1);
  const sets = [own];
  const refreshes: (() => void)[] = [];
  let underWay: Promise<string> | undefined;
  const page = async (): Promise<string> => {
    for (const refresh of refreshes) refresh();
    return (await renderNamesakes(shownOf(sets, options), () => performance.now())) + (await registry.metrics());
  };
  const metricsOf = ({ families, dynamo }: MetricSet): Metrics => ({
    families,
    dynamo,
    requests: new RequestRecorder(families),
    ofPool(name) {
      const set = createSet(name);
      sets.push(set);
      return metricsOf(set);
    },
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
  });
  return metricsOf(own);
}

interface MetricSet {
  /** Undefined: of the process, or of its only pool. */
  readonly pool: string | undefined;
  readonly families: Families;
  readonly dynamo: DynamoFamilies;
}

function createSet(pool: string | undefined): MetricSet {
  return { pool, families: createFamilies(), dynamo: createDynamoFamilies() };
}

/** Every family that is to be seen, those of one name together. */
function shownOf(sets: readonly MetricSet[], options: MetricsOptions): readonly (readonly ShownFamily[])[] {
  const first = sets[0];
  if (first === undefined) return [];
  const optional: ReadonlySet<keyof Families> = new Set(["streams", "streamDuration", "streamsInflight"]);
  const groups: ShownFamily[][] = [];
  for (const name of Object.keys(first.families) as (keyof Families)[]) {
    if (optional.has(name) && !options.streamMetrics) continue;
    groups.push(sets.map(({ families, pool }) => ({ family: families[name], pool })));
  }
  for (const name of Object.keys(first.dynamo) as (keyof DynamoFamilies)[]) {
    const used = sets.filter(({ dynamo }) => dynamo[name].size > 0);
    groups.push(used.map(({ dynamo, pool }) => ({ family: dynamo[name], pool })));
  }
  return groups;
}
