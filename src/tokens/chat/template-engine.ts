/**
 * Runs one chat template. A run on the loop has a budget of steps and of time, looked at in the interpreter, so that no template, however it
 * loops, holds the loop; beyond it the tokenizer thread runs it, which can be ended.
 */
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";

/** The template refused the conversation (raise_exception): the client's fault. */
export class TemplateRefusal extends Error {
  readonly code = "template_refusal";
}

/** The budget is used up. */
export class TemplateBudget extends Error {
  readonly code = "template_budget";
}

/** Of `range`: more is a runaway template. */
const maxRange = 10_000;

/** What is used of the package, whose declarations do not resolve under this module resolution. */
interface Scope {
  set(name: string, value: unknown): unknown;
}
interface Statement {
  readonly type: string;
}
interface Result {
  readonly value: unknown;
}
declare class TreeInterpreter {
  constructor(environment: Scope);
  run(program: unknown): Result;
  evaluate(statement: Statement | undefined, scope: unknown): Result;
}
const WalkingInterpreter = Interpreter as unknown as typeof TreeInterpreter;
const TemplateScope = Environment as unknown as new () => Scope;

export interface TemplateBounds {
  readonly steps: number;
  /** Of the processor's clock; looked at every 64 steps and before each loop, so one loop over what there is may exceed it. */
  readonly milliseconds: number;
}

class BoundedInterpreter extends WalkingInterpreter {
  #left: number;
  readonly #deadline: number;

  constructor(environment: Scope, bounds: TemplateBounds) {
    super(environment);
    this.#left = bounds.steps;
    this.#deadline = performance.now() + bounds.milliseconds;
  }

  override evaluate(statement: Statement | undefined, scope: unknown): Result {
    const left = --this.#left;
    if (left < 0 || (((left & 63) === 0 || statement?.type === "For") && performance.now() > this.#deadline)) {
      throw new TemplateBudget("the chat template takes longer than it may");
    }
    return super.evaluate(statement, scope);
  }
}

export class TemplateProgram {
  readonly #program: unknown;

  /** Throws when the source is no template. */
  constructor(source: string) {
    this.#program = parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  }

  /** Throws TemplateRefusal, TemplateBudget, or whatever the interpreter finds wrong. */
  render(variables: Readonly<Record<string, unknown>>, bounds: TemplateBounds, now: Date): string {
    const environment = new TemplateScope();
    for (const [name, value] of Object.entries(globals(now))) environment.set(name, value);
    for (const [name, value] of Object.entries(variables)) environment.set(name, value);
    const result = new BoundedInterpreter(environment, bounds).run(this.#program);
    if (typeof result.value !== "string") throw new TypeError("the chat template gave no text");
    return result.value;
  }
}

function globals(now: Date): Readonly<Record<string, unknown>> {
  return {
    false: false,
    true: true,
    none: null,
    False: false,
    True: true,
    None: null,
    raise_exception: (message: unknown) => {
      throw new TemplateRefusal(typeof message === "string" ? message : "the chat template refused the request");
    },
    range: boundedRange,
    strftime_now: (format: unknown) => formatTime(String(format), now),
  };
}

function boundedRange(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  if (step === 0) throw new TypeError("range() of step zero");
  const count = Math.ceil((stop - start) / step);
  if (count > maxRange) throw new TemplateBudget("a range of more items than a template may have");
  const items: number[] = [];
  for (let index = 0; index < count; index++) items.push(start + index * step);
  return items;
}

/** The directives of chrono's `format` that templates use; others stay as they are. */
export function formatTime(format: string, now: Date): string {
  const padded = (value: number, width = 2): string => String(value).padStart(width, "0");
  const month = (style: "long" | "short"): string => now.toLocaleString("en-US", { month: style });
  const weekday = (style: "long" | "short"): string => now.toLocaleString("en-US", { weekday: style });
  return format.replaceAll(/%([-]?)([a-zA-Z%])/g, (directive, dash: string, letter: string) => {
    const number = (value: number, width = 2): string => (dash === "-" ? String(value) : padded(value, width));
    switch (letter) {
      case "Y":
        return number(now.getFullYear(), 4);
      case "y":
        return number(now.getFullYear() % 100);
      case "m":
        return number(now.getMonth() + 1);
      case "d":
        return number(now.getDate());
      case "e":
        return dash === "-" ? String(now.getDate()) : String(now.getDate()).padStart(2, " ");
      case "H":
        return number(now.getHours());
      case "I":
        return number(now.getHours() % 12 || 12);
      case "M":
        return number(now.getMinutes());
      case "S":
        return number(now.getSeconds());
      case "p":
        return now.getHours() < 12 ? "AM" : "PM";
      case "B":
        return month("long");
      case "b":
      case "h":
        return month("short");
      case "A":
        return weekday("long");
      case "a":
        return weekday("short");
      case "F":
        return `${padded(now.getFullYear(), 4)}-${padded(now.getMonth() + 1)}-${padded(now.getDate())}`;
      case "T":
        return `${padded(now.getHours())}:${padded(now.getMinutes())}:${padded(now.getSeconds())}`;
      case "j":
        return number(dayOfYear(now), 3);
      case "%":
        return "%";
      default:
        return directive;
    }
  });
}

function dayOfYear(now: Date): number {
  const midnight = (year: number, month: number, day: number): number => Date.UTC(year, month, day);
  return (midnight(now.getFullYear(), now.getMonth(), now.getDate()) - midnight(now.getFullYear(), 0, 0)) / 86_400_000;
}
