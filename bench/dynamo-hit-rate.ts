/** Token hit rate and time to first token of a multi-turn trace through Dynamo's own KV router and through the picker: needs Envoy and the wheels. */
import { compareHitRates, hitRateTrace, type Layout } from "../test/dynamo/hit-rate.ts";
import { interpreterWithWheels } from "./dynamo-wheels.ts";
import type { Context, FigureSpec, Measurement, Run } from "./measurement.ts";
import { repeat } from "./measurement.ts";

const layouts: readonly Layout[] = ["aggregated", "disaggregated"];
/** A run is five minutes. */
const mostRuns = 2;

async function once(): Promise<Run> {
  const trace = hitRateTrace();
  const run: Record<string, number> = {};
  for (const layout of layouts) {
    const { dynamo, ours } = await compareHitRates(trace, layout);
    for (const [name, result] of [
      ["ours", ours],
      ["dynamo", dynamo],
    ] as const) {
      if (result.errors > 0)
        throw new Error(`${layout}, ${name}: ${result.errors} of ${result.requests} requests failed`);
      run[`hit-rate-${layout}-${name}`] = 100 * result.hitRate;
      run[`hit-ttft-p50-${layout}-${name}`] = result.ttftMs.p50;
      run[`hit-ttft-p99-${layout}-${name}`] = result.ttftMs.p99;
      run[`hit-spread-${layout}-${name}`] = result.spread;
    }
  }
  return run;
}

function figuresOf(layout: Layout): FigureSpec[] {
  const figure = (name: string, title: string, unit: string, digits: number): FigureSpec => ({
    name: `${name}-${layout}-ours`,
    title,
    unit,
    digits,
    dynamo: `${name}-${layout}-dynamo`,
  });
  return [
    { ...figure("hit-rate", `Multi-turn trace, ${layout}: prompt tokens found cached`, "%", 2), isRate: true },
    figure("hit-ttft-p50", "… time to first token, p50", "ms", 1),
    figure("hit-ttft-p99", "… time to first token, p99", "ms", 1),
    figure("hit-spread", "… requests of the busiest worker over the mean", "", 2),
  ];
}

export const dynamoHitRate: Measurement = {
  name: "dynamo-hit-rate",
  what: "A multi-turn trace through Dynamo's own router and through the picker",
  isLatency: true,
  figures: layouts.flatMap(figuresOf),
  measure(context: Context) {
    if (interpreterWithWheels() === undefined) return Promise.resolve([]);
    return repeat({ ...context, runs: Math.min(mostRuns, context.runs) }, once);
  },
};
