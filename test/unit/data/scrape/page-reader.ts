/** A plain reader of Prometheus text pages, line by line with regular expressions: the model that the byte reader is held against. */

export interface ModelSample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const line =
  /^([a-zA-Z_:][\w:]*)(?=[{ \t])[ \t]*(?:\{((?:[^"}]|"(?:\\.|[^"\\])*")*)\})?[ \t]*([^ \t\r]+)[ \t]*([^ \t\r#]+)?[ \t]*(?:\r.*|#.*)?$/;
const label = /\s*([^=\s]+)\s*=\s*"((?:\\.|[^"\\])*)"\s*,?/y;

export function modelSamples(page: string): readonly ModelSample[] {
  return page.split("\n").flatMap((text) => {
    const parts = line.exec(text);
    const value = numberOf(parts?.[3] ?? "");
    if (parts?.[1] === undefined || Number.isNaN(value)) return [];
    if (parts[4] !== undefined && Number.isNaN(numberOf(parts[4]))) return [];
    return [{ name: parts[1], labels: labelsOf(parts[2] ?? ""), value }];
  });
}

export function numberOf(text: string): number {
  if (/^[+-]?inf(inity)?$/i.test(text))
    return text.startsWith("-") ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : Number.NaN;
}

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  label.lastIndex = 0;
  for (let match = label.exec(text); match !== null; match = label.exec(text)) {
    const [, name = "", raw = ""] = match;
    labels[name] ??= raw.replace(/\\(.)/g, (whole, escaped: string) => {
      if (escaped === "n") return "\n";
      return escaped === "\\" || escaped === '"' ? escaped : whole;
    });
  }
  return labels;
}
