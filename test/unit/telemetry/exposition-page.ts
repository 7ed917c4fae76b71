/** Reads Prometheus text strictly: every sample belongs to the family announced before it, and no family is announced twice. */

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface PageFamily {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly samples: readonly Sample[];
}

const unescaped: Readonly<Record<string, string>> = { "\\\\": "\\", '\\"': '"', "\\n": "\n" };
const sampleLine = /^([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$/;

function numberOf(text: string): number {
  const special: Readonly<Record<string, number>> = { "+Inf": Infinity, "-Inf": -Infinity };
  // Go, and so Prometheus, reads NaN in any case; prom-client writes "Nan".
  if (/^nan$/i.test(text)) return Number.NaN;
  const value = special[text] ?? Number(text);
  if (text === "" || Number.isNaN(value)) throw new Error(`no number: ${text}`);
  return value;
}

function labelsOf(text: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const [, name = "", value = ""] of text.matchAll(/([a-zA-Z_]\w*)="((?:[^"\\\n]|\\[\\"n])*)"/g)) {
    if (name in labels) throw new Error(`label ${name} twice in ${text}`);
    labels[name] = value.replace(/\\[\\"n]/g, (pair) => unescaped[pair] ?? pair);
  }
  return labels;
}

/** Throws on anything a strict scraper would refuse. */
export function parsePage(page: string): ReadonlyMap<string, PageFamily> {
  const families = new Map<string, { name: string; type: string; help: string; samples: Sample[] }>();
  let current: { name: string; type: string; help: string; samples: Sample[] } | undefined;
  const seen = new Set<string>();
  for (const line of page.split("\n")) {
    if (line === "") continue;
    const help = /^# HELP (\S+) (.*)$/.exec(line);
    if (help !== null) {
      const name = help[1] ?? "";
      if (families.has(name)) throw new Error(`family ${name} twice`);
      current = { name, type: "", help: help[2] ?? "", samples: [] };
      families.set(name, current);
      continue;
    }
    const type = /^# TYPE (\S+) (counter|gauge|histogram|summary|untyped)$/.exec(line);
    if (type !== null) {
      if (current?.name !== type[1] || current?.type !== "") throw new Error(`stray type: ${line}`);
      current.type = type[2] ?? "";
      continue;
    }
    const sample = sampleLine.exec(line);
    if (sample === null) throw new Error(`not a sample: ${line}`);
    const name = sample[1] ?? "";
    const suffixes = current?.type === "histogram" ? ["_bucket", "_sum", "_count"] : [""];
    if (current === undefined || !suffixes.some((suffix) => name === `${current?.name}${suffix}`)) {
      throw new Error(`${name} under ${current?.name}`);
    }
    const identity = line.slice(0, line.lastIndexOf(" "));
    if (seen.has(identity)) throw new Error(`series twice: ${identity}`);
    seen.add(identity);
    current.samples.push({ name, labels: labelsOf(sample[2] ?? ""), value: numberOf(sample[3] ?? "") });
  }
  return families;
}
