/** Reads and checks one value of a setting, as text (environment) or as it came from a document. */
import type { Setting, SettingValue } from "./setting.ts";

const decimal = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const special = /^[+-]?(inf|infinity|nan)$/i;
const whole = /^\+?\d+$/;

export type ReadValue =
  | { readonly kind: "value"; readonly value: SettingValue }
  | { readonly kind: "unreadable"; readonly expected: string };

/** Numbers as Rust reads them, without blanks around; truth as 1, true, yes, on and their opposites, in any case. */
export function parseSetting(setting: Setting, text: string): ReadValue {
  const { kind } = setting;
  switch (kind.kind) {
    case "number":
      if (decimal.test(text)) return read(Number(text));
      return special.test(text) ? read(specialNumber(text)) : unreadable("a number");
    case "integer":
      return whole.test(text) ? read(Number(text)) : unreadable("a whole number");
    case "boolean":
      return parseTruth(text);
    case "string":
      return read(text);
    case "choice": {
      const value = kind.aliases?.[text] ?? text;
      return kind.values.includes(value) ? read(value) : unreadable(kind.values.join(", "));
    }
    default: {
      const never: never = kind;
      return never;
    }
  }
}

export function parseTruth(text: string): ReadValue {
  const word = text.trim().toLowerCase();
  if (["1", "true", "yes", "on"].includes(word)) return read(true);
  if (["0", "false", "no", "off"].includes(word)) return read(false);
  return unreadable("true or false");
}

/** What is wrong with a value, to follow its name; undefined when nothing is. */
export function faultOf(setting: Setting, value: unknown): string | undefined {
  const { kind } = setting;
  switch (kind.kind) {
    case "number":
      if (typeof value !== "number") return "must be a number";
      if (kind.max !== undefined && !(value >= kind.min && value <= kind.max)) {
        return `must be between ${kind.min} and ${kind.max}, not ${value}`;
      }
      if (kind.isFinite === true && !Number.isFinite(value))
        return `must be finite and at least ${kind.min}, not ${value}`;
      return value >= kind.min ? undefined : `must be at least ${kind.min}, not ${value}`;
    case "integer":
      if (typeof value !== "number" || !Number.isSafeInteger(value)) return "must be a whole number";
      if (value < kind.min) return `must be at least ${kind.min}, not ${value}`;
      return kind.max === undefined || value <= kind.max ? undefined : `must be at most ${kind.max}, not ${value}`;
    case "boolean":
      return typeof value === "boolean" ? undefined : "must be true or false";
    case "string":
      return typeof value === "string" && value !== "" ? undefined : "must be a text that is not empty";
    case "choice":
      return typeof value === "string" && kind.values.includes(kind.aliases?.[value] ?? value)
        ? undefined
        : `must be one of ${kind.values.join(", ")}`;
    default: {
      const never: never = kind;
      return never;
    }
  }
}

/** The value that an alias stands for. */
export function canonical(setting: Setting, value: unknown): SettingValue {
  const { kind } = setting;
  if (kind.kind === "choice" && typeof value === "string") return kind.aliases?.[value] ?? value;
  return value as SettingValue;
}

function specialNumber(text: string): number {
  if (/nan/i.test(text)) return Number.NaN;
  return text.startsWith("-") ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
}

function read(value: SettingValue): ReadValue {
  return { kind: "value", value };
}

function unreadable(expected: string): ReadValue {
  return { kind: "unreadable", expected };
}
