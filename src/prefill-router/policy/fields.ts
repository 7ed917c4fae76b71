/** Reads members of a configuration mapping and collects every fault with its path and what was expected, instead of stopping at the first. */

export type Mapping = Readonly<Record<string, unknown>>;

export function isMapping(value: unknown): value is Mapping {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export class Fields {
  readonly #mapping: Mapping;
  readonly #path: string;
  readonly #faults: string[];

  /** `known` are the keys this mapping may have. */
  constructor(mapping: Mapping, path: string, known: readonly string[], faults: string[]) {
    this.#mapping = mapping;
    this.#path = path;
    this.#faults = faults;
    for (const key of Object.keys(mapping)) {
      if (!known.includes(key)) this.fault(key, `unknown key; expected one of ${known.join(", ")}`);
    }
  }

  pathOf(key: string): string {
    return this.#path === "" ? key : `${this.#path}.${key}`;
  }

  fault(key: string, message: string): undefined {
    this.#faults.push(`${this.pathOf(key)}: ${message}`);
    return undefined;
  }

  /** Null counts as absent, as everywhere in a policy file. */
  value(key: string): unknown {
    const value = Object.hasOwn(this.#mapping, key) ? this.#mapping[key] : undefined;
    return value === null ? undefined : value;
  }

  /** A name of letters, digits, `_`, `.` and `-`. */
  name(key: string): string | undefined {
    const value = this.value(key);
    if (value === undefined) return undefined;
    if (typeof value === "string" && /^[A-Za-z0-9_.-]+$/.test(value)) return value;
    return this.fault(key, `expected a name of letters, digits, "_", "." and "-", got ${shown(value)}`);
  }

  requiredName(key: string): string | undefined {
    return this.value(key) === undefined ? this.fault(key, "missing; expected a name") : this.name(key);
  }

  integer(key: string, minimum: number): number | undefined {
    const value = this.value(key);
    if (value === undefined) return undefined;
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= minimum) return value;
    return this.fault(key, `expected an integer of at least ${minimum}, got ${shown(value)}`);
  }

  requiredInteger(key: string, minimum: number): number | undefined {
    if (this.value(key) === undefined) return this.fault(key, `missing; expected an integer of at least ${minimum}`);
    return this.integer(key, minimum);
  }

  /** Finite and not negative. */
  amount(key: string): number | undefined {
    const value = this.value(key);
    if (value === undefined) return undefined;
    if (typeof value === "number" && Number.isFinite(value) && value >= 0) return value;
    return this.fault(key, `expected a finite number of at least 0, got ${shown(value)}`);
  }

  oneOf<T extends string>(key: string, choices: readonly T[]): T | undefined {
    const value = this.value(key);
    if (value === undefined) return undefined;
    const choice = choices.find((each) => each === value);
    return choice ?? this.fault(key, `expected one of ${choices.join(", ")}, got ${shown(value)}`);
  }

  /** The mappings of a list, each with its path. */
  mappings(key: string): readonly { readonly mapping: Mapping; readonly path: string }[] {
    const value = this.value(key);
    if (value === undefined) return [];
    if (!Array.isArray(value)) {
      this.fault(key, `expected a list, got ${shown(value)}`);
      return [];
    }
    const found: { mapping: Mapping; path: string }[] = [];
    for (const [index, item] of value.entries()) {
      if (isMapping(item)) found.push({ mapping: item, path: this.pathOf(`${key}[${index}]`) });
      else this.fault(`${key}[${index}]`, `expected a mapping, got ${shown(item)}`);
    }
    return found;
  }

  mapping(key: string): Mapping | undefined {
    const value = this.value(key);
    if (value === undefined || isMapping(value)) return value;
    return this.fault(key, `expected a mapping, got ${shown(value)}`);
  }
}

export function shown(value: unknown): string {
  const text = typeof value === "number" ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
