import { describe, expect, it } from "@jest/globals";
import { ParkedTokenizers } from "../../../../src/prefill-router/fleet/parked-tokenizers.ts";
import type { PromptTokenizer } from "../../../../src/tokens/prompt-tokenizer.ts";
import { until } from "../../dynamo/until.ts";

function tokenizer(closed: string[], name: string, close = async (): Promise<void> => undefined): PromptTokenizer {
  return {
    tokenize: () => ({ cancel: () => undefined }),
    decode: () => "",
    vocabularySize: 0,
    close() {
      closed.push(name);
      return close();
    },
  };
}

const closeFailed = (error: unknown): never => {
  throw error;
};

describe("tokenizers of sets that have gone", () => {
  it("are handed back once, open, to whoever comes for what they were made of", async () => {
    const closed: string[] = [];
    const parked = new ParkedTokenizers({ closeFailed });
    const one = tokenizer(closed, "one");
    parked.park("a", one);
    expect(parked.take("b")).toBeUndefined();
    expect(parked.take("a")).toBe(one);
    expect(parked.take("a")).toBeUndefined();
    await parked.close();
    expect(closed).toEqual([]);
  });

  it("are closed when nobody came, when there are too many, when another takes their place, and at the end", async () => {
    const closed: string[] = [];
    const brief = new ParkedTokenizers({ closeFailed, keepMs: 1 });
    brief.park("a", tokenizer(closed, "late"));
    await until(() => closed.length === 1);
    expect(brief.take("a")).toBeUndefined();
    const parked = new ParkedTokenizers({ closeFailed, capacity: 2 });
    for (const name of ["first", "second", "third"]) parked.park(name, tokenizer(closed, name));
    parked.park("third", tokenizer(closed, "another third"));
    expect(closed).toEqual(["late", "first", "third"]);
    await parked.close();
    expect(closed).toEqual(["late", "first", "third", "second", "another third"]);
  });

  it("that fail to close are told of, and hold up nothing", async () => {
    const failures: unknown[] = [];
    const parked = new ParkedTokenizers({ closeFailed: (error) => failures.push(error) });
    parked.park(
      "a",
      tokenizer([], "a", () => Promise.reject(new Error("stuck"))),
    );
    await parked.close();
    expect(failures).toEqual([expect.objectContaining({ message: "stuck" })]);
  });
});
