/**
 * Writes a Prometheus text page the way Python's client does (label order, float spelling, `_created` series), because
 * that is the page a scraper of vLLM meets. Series render from prefixes built once.
 */

/** Python's spelling of a float in an exposition: `1.0`, `1.7e+09`. */
export function pythonFloat(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return "+Inf";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : "-Inf";
  const text = Number.isInteger(value) ? `${value}.0` : String(value);
  const dot = text.indexOf(".");
  if (value <= 0 || dot <= 6 || text.includes("e")) return text;
  const digits = `${text.slice(1, dot)}${text.slice(dot + 1)}`.replace(/0+$/, "");
  return `${text.charAt(0)}${digits === "" ? "" : "."}${digits}e+${String(dot - 1).padStart(2, "0")}`;
}

export function escapeLabel(value: string): string {
  return value.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll('"', '\\"');
}

/** `{a="1",b="2"}`, names sorted as Python's client sorts them; empty for no labels. */
export function labelText(labels: Readonly<Record<string, string>>): string {
  const names = Object.keys(labels).sort();
  return names.length === 0 ? "" : `{${names.map((name) => `${name}="${escapeLabel(labels[name] ?? "")}"`).join(",")}}`;
}

export function familyHead(name: string, type: "counter" | "gauge" | "histogram", help: string): string {
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
}

const createdSeconds = Date.now() / 1000;

export function createdFamily(name: string, help: string, labels: string): string {
  return `${familyHead(`${name}_created`, "gauge", help)}${name}_created${labels} ${pythonFloat(createdSeconds)}\n`;
}

/** A histogram of one series. */
export class Histogram {
  readonly #bounds: readonly number[];
  readonly #counts: Float64Array;
  readonly #prefixes: readonly string[];
  readonly #head: string;
  readonly #tail: readonly [count: string, sum: string, created: string];
  #sum = 0;
  #count = 0;

  constructor(name: string, help: string, bounds: readonly number[], labels: Readonly<Record<string, string>>) {
    this.#bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
    const own = labelText(labels);
    const open = own === "" ? "{" : `${own.slice(0, -1)},`;
    // prometheus_client keeps `le` in label order: after engine, before model_name.
    const withLe = (le: string): string => (own === "" ? `${open}le="${le}"}` : labelText({ ...labels, le }));
    this.#prefixes = [...bounds, Number.POSITIVE_INFINITY].map((le) => `${name}_bucket${withLe(pythonFloat(le))} `);
    this.#head = familyHead(name, "histogram", help);
    this.#tail = [`${name}_count${own} `, `${name}_sum${own} `, createdFamily(name, help, own)];
  }

  observe(value: number): void {
    let bucket = 0;
    while (bucket < this.#bounds.length && value > (this.#bounds[bucket] ?? 0)) bucket++;
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#sum += value;
    this.#count++;
  }

  render(): string {
    let page = this.#head;
    let total = 0;
    for (let bucket = 0; bucket < this.#prefixes.length; bucket++) {
      total += this.#counts[bucket] ?? 0;
      page += `${this.#prefixes[bucket]}${pythonFloat(total)}\n`;
    }
    return `${page}${this.#tail[0]}${pythonFloat(this.#count)}\n${this.#tail[1]}${pythonFloat(this.#sum)}\n${this.#tail[2]}`;
  }
}
