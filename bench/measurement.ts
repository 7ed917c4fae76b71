/** What every measured thing is: a name, the figures it yields, and a function that makes one run of them. */
import type { PickerStart } from "./rig.ts";

export interface FigureSpec {
  /** Key of bars.ts. */
  readonly name: string;
  readonly title: string;
  readonly unit: string;
  readonly digits: number;
  /** The figure of the same run that Dynamo's own code had for the same work. */
  readonly dynamo?: string;
  /** More is better. */
  readonly isRate?: true;
}

/** One run: a value for each figure by name; a figure that this picker cannot give is absent. */
export type Run = Readonly<Record<string, number>>;

export interface Context {
  readonly start: PickerStart;
  /** The picker is ours: it takes our flags and Node options. */
  readonly isOurs: boolean;
  readonly runs: number;
  readonly measureMs: number;
  readonly warmupMs: number;
  readonly progress: (text: string) => void;
}

/** Parts of the page: the picker as a process, what it does before Dynamo workers, and what it does in a cluster. */
export type Part = "picker" | "dynamo" | "kubernetes";

export interface Measurement {
  readonly name: string;
  readonly what: string;
  readonly figures: readonly FigureSpec[];
  /** Its figures are times that pass, so they need processors that are free when they are wanted. */
  readonly isLatency: boolean;
  /** Every run's values. */
  measure(context: Context): Promise<readonly Run[]>;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** Runs one after another, each announced. */
export async function repeat(context: Context, once: (index: number) => Promise<Run>): Promise<Run[]> {
  const runs: Run[] = [];
  for (let i = 0; i < context.runs; i++) {
    const run = await once(i);
    context.progress(
      Object.entries(run)
        .map(([name, value]) => `${name} ${value.toPrecision(3)}`)
        .join(", "),
    );
    runs.push(run);
  }
  return runs;
}
