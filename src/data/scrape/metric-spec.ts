/** The metric specification of engine configurations: `name` or `name{label=value,…}`, values bare or in double quotes. */

export interface MetricSpec {
  readonly name: string;
  /** Labels a series must have, by exact value. */
  readonly labels: readonly (readonly [name: string, value: string])[];
}

const shape = /^\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{([^}]*)\})?\s*$/;
const pair = /^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*(?:"([^"]*)"|([^",\s]+))\s*$/;

/** Undefined when the text is no specification; an empty text is none either. */
export function parseMetricSpec(text: string): MetricSpec | undefined {
  const parts = shape.exec(text);
  const name = parts?.[1];
  if (name === undefined) return undefined;
  const labels: [string, string][] = [];
  const block = parts?.[2]?.trim() ?? "";
  if (block !== "") {
    for (const part of block.split(",")) {
      const match = pair.exec(part);
      const label = match?.[1];
      if (label === undefined) return undefined;
      labels.push([label, match?.[2] ?? match?.[3] ?? ""]);
    }
  }
  return { name, labels };
}
