/**
 * How long prefills take, from a table: milliseconds by tokens to compute and tokens that are cached before them, with straight lines between its points.
 * Beyond its axes the last line goes on; before them the first point holds. A table that is not sound is never made.
 */
// biome-ignore-all lint/style/noNonNullAssertion: measured hot loops over typed arrays, whose bounds the loops keep

const format = "signalbox-prefill-load-table";
const maxAxisPoints = 4096;
const maxCells = 1_048_576;
/** Nothing is taken to run longer: about eleven days. */
const maxMs = 1e9;

export type TableRead =
  | { readonly kind: "table"; readonly table: PrefillLoadTable }
  | { readonly kind: "unsound"; readonly fault: string };

export class PrefillLoadTable {
  /** Who predicted it, in words. */
  readonly estimator: string;
  readonly #tokens: Float64Array;
  readonly #prefixTokens: Float64Array;
  /** A row for each of `tokens`. */
  readonly #milliseconds: Float64Array;

  /** The axes ascend; there is a cell for each pair. */
  constructor(estimator: string, tokens: Float64Array, prefixTokens: Float64Array, milliseconds: Float64Array) {
    this.estimator = estimator;
    this.#tokens = tokens;
    this.#prefixTokens = prefixTokens;
    this.#milliseconds = milliseconds;
  }

  /** Milliseconds to compute `tokens` after `prefixTokens` that are cached: finite, not negative. */
  predictMs(tokens: number, prefixTokens: number): number {
    const row = cellOf(this.#tokens, tokens);
    const column = cellOf(this.#prefixTokens, prefixTokens);
    const along = shareOf(this.#tokens, row, tokens);
    const across = shareOf(this.#prefixTokens, column, prefixTokens);
    const low = this.#between(row, column, across);
    const predicted = along === 0 ? low : low + (this.#between(row + 1, column, across) - low) * along;
    return Math.min(maxMs, Math.max(0, predicted));
  }

  /** For /debug. */
  state(): Readonly<Record<string, unknown>> {
    return {
      estimator: this.estimator,
      maxTokens: this.#tokens.at(-1),
      maxPrefixTokens: this.#prefixTokens.at(-1),
      points: this.#milliseconds.length,
    };
  }

  #between(row: number, column: number, across: number): number {
    const at = row * this.#prefixTokens.length + column;
    const first = this.#milliseconds[at]!;
    return across === 0 ? first : first + (this.#milliseconds[at + 1]! - first) * across;
  }
}

/** The last point at or before a value that has another one after it. */
function cellOf(axis: Float64Array, value: number): number {
  let low = 0;
  let high = axis.length - 2;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (axis[middle]! <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** How far a value lies into its cell: 0 before the axis and on one of a single point, more than 1 beyond it. */
function shareOf(axis: Float64Array, cell: number, value: number): number {
  if (axis.length === 1) return 0;
  const first = axis[cell]!;
  return Math.max(0, (value - first) / (axis[cell + 1]! - first));
}

/** Reads what bin/prefill-load-table.py writes, or a hand writes in its place. */
export function parsePrefillLoadTable(text: string): TableRead {
  let members: unknown;
  try {
    members = JSON.parse(text);
  } catch {
    return unsound("is not JSON");
  }
  if (typeof members !== "object" || members === null) return unsound("is not an object");
  const { format: name, version, estimator, tokens, prefixTokens, milliseconds } = members as Record<string, unknown>;
  if (name !== format || version !== 1) return unsound(`is not of format ${format}, version 1`);
  const rows = axisOf("tokens", tokens, 1);
  if (typeof rows === "string") return unsound(rows);
  const columns = axisOf("prefixTokens", prefixTokens, 0);
  if (typeof columns === "string") return unsound(columns);
  if (rows.length * columns.length > maxCells) return unsound(`has more than ${maxCells} cells`);
  const cells = cellsOf(milliseconds, rows.length, columns.length);
  if (typeof cells === "string") return unsound(cells);
  const from = typeof estimator === "string" ? estimator : "not said";
  return { kind: "table", table: new PrefillLoadTable(from, rows, columns, cells) };
}

function axisOf(name: string, points: unknown, least: number): Float64Array | string {
  if (!Array.isArray(points) || points.length === 0 || points.length > maxAxisPoints) {
    return `${name} must be 1 to ${maxAxisPoints} numbers`;
  }
  let last = least - 1;
  for (const [index, point] of points.entries()) {
    if (!Number.isSafeInteger(point) || point <= last) {
      return `${name}[${index}] must be a whole number above ${last}`;
    }
    last = point;
  }
  return Float64Array.from(points);
}

function cellsOf(milliseconds: unknown, rows: number, columns: number): Float64Array | string {
  if (!Array.isArray(milliseconds) || milliseconds.length !== rows) {
    return `milliseconds must have a row for each of the ${rows} tokens`;
  }
  const cells = new Float64Array(rows * columns);
  for (const [row, values] of milliseconds.entries()) {
    if (!Array.isArray(values) || values.length !== columns) {
      return `milliseconds[${row}] must have a number for each of the ${columns} prefixTokens`;
    }
    for (const [column, value] of values.entries()) {
      if (typeof value !== "number" || !(value >= 0 && value <= maxMs)) {
        return `milliseconds[${row}][${column}] must be between 0 and ${maxMs}`;
      }
      cells[row * columns + column] = value;
    }
  }
  return cells;
}

function unsound(fault: string): TableRead {
  return { kind: "unsound", fault };
}
