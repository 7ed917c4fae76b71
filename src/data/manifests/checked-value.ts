/**
 * A value of a manifest with the path it stands at. Reading it checks its shape and notes every fault with its path, so that one pass finds
 * all of them; what is read after a fault is a harmless stand-in, and the caller looks at the faults before it uses anything.
 */

function described(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "a mapping";
  if (typeof value === "string") return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  return typeof value === "number" || typeof value === "boolean" ? String(value) : typeof value;
}

function isMapping(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Of a text that somebody wrote they are mistakes; of a server that checks its objects they are what a newer version knows. */
export type UnknownFields = "faulty" | "ignored";

export class CheckedValue {
  readonly path: string;
  readonly #value: unknown;
  readonly #faults: string[];
  readonly #unknownFields: UnknownFields;

  constructor(value: unknown, path: string, faults: string[], unknownFields: UnknownFields = "faulty") {
    this.#value = value;
    this.path = path;
    this.#faults = faults;
    this.#unknownFields = unknownFields;
  }

  /** True for a value that is there; null is as good as absent, as in the Kubernetes API. */
  get isPresent(): boolean {
    return this.#value !== undefined && this.#value !== null;
  }

  fault(text: string): void {
    this.#faults.push(this.path === "" ? text : `${this.path}: ${text}`);
  }

  /** A member of a mapping; the value itself must be one, or that is the fault. */
  member(key: string): CheckedValue {
    const path = this.path === "" ? key : `${this.path}.${key}`;
    return this.#at(isMapping(this.#value) ? this.#value[key] : undefined, path);
  }

  /** Notes every key that is not allowed, and that the value is no mapping. */
  closed(...allowed: readonly string[]): boolean {
    if (!isMapping(this.#value)) {
      this.#expected("a mapping");
      return false;
    }
    if (this.#unknownFields === "ignored") return true;
    for (const key of Object.keys(this.#value)) {
      if (!allowed.includes(key)) this.member(key).fault(`unknown field; known are ${allowed.join(", ")}`);
    }
    return true;
  }

  mapping(): boolean {
    if (isMapping(this.#value)) return true;
    this.#expected("a mapping");
    return false;
  }

  list(): readonly CheckedValue[] {
    if (!Array.isArray(this.#value)) {
      this.#expected("a list");
      return [];
    }
    return this.#value.map((item: unknown, i) => this.#at(item, `${this.path}[${i}]`));
  }

  /** A string that is not empty. */
  text(maxLength = Number.POSITIVE_INFINITY): string {
    if (typeof this.#value !== "string") {
      this.#expected("a string");
      return "";
    }
    if (this.#value === "") this.fault("must not be empty");
    if (this.#value.length > maxLength) this.fault(`must not be longer than ${maxLength} characters`);
    return this.#value;
  }

  integer(minimum: number, maximum: number): number {
    const value = this.#value;
    if (typeof value === "number" && Number.isInteger(value) && value >= minimum && value <= maximum) return value;
    this.#expected(`an integer from ${minimum} to ${maximum}`);
    return minimum;
  }

  /** Milliseconds of the epoch; YAML hands a timestamp over as text. */
  timestampMs(): number {
    const ms = typeof this.#value === "string" ? Date.parse(this.#value) : Number.NaN;
    if (Number.isNaN(ms)) this.#expected("a timestamp such as 2026-01-31T12:00:00Z");
    return ms;
  }

  #at(value: unknown, path: string): CheckedValue {
    return new CheckedValue(value, path, this.#faults, this.#unknownFields);
  }

  #expected(what: string): void {
    this.fault(this.isPresent ? `expected ${what}, found ${described(this.#value)}` : `is required: ${what}`);
  }
}
