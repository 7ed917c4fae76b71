/** Text that is no document: what is said of it, and that none of it costs the process anything. */
import { describe, expect, it } from "@jest/globals";
import { maxDocumentBytes, readDocument } from "../../../src/config/document.ts";

describe("a document", () => {
  it.each([
    ["YAML", "a: 1\nb: [x, y]\n"],
    ["YAML in flow style", "{a: 1, b: [x, y]}"],
    ["JSON", '{"a": 1, "b": ["x", "y"]}'],
    ["JSON indented with tabs", '{\n\t"a": 1,\n\t"b": [\n\t\t"x", "y"\n\t]\n}\n'],
    ["YAML with a byte order mark and CRLF", "\uFEFFa: 1\r\nb:\r\n- x\r\n- y\r\n"],
    ["YAML with a document marker and a comment", "# hello\n---\na: 1\nb: [x, y]\n..."],
    ["YAML with an alias", "a: 1\nb: [&x x, y]\n"],
    ["YAML with a null, which is as good as absent", "a: 1\nb: [x, y]\nc:\nd: null\ne: ~\n"],
  ])("can be %s", (_what, text) => {
    expect(readDocument(text)).toEqual({ value: { a: 1, b: ["x", "y"] }, faults: [], warnings: [] });
  });

  it("merges an anchor's keys as the reference's decoder does", () => {
    const { value } = readDocument("base: &base {type: x, weight: 1}\nmine: {<<: *base, weight: 2}");
    expect(value).toEqual({ base: { type: "x", weight: 1 }, mine: { type: "x", weight: 2 } });
  });

  it("may have a key called __proto__, which is only a key", () => {
    const { value } = readDocument('{"__proto__": {"polluted": true}}');
    expect(Object.keys(value as object)).toEqual(["__proto__"]);
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });

  it.each([
    ["a key twice", "a: 1\nb: 2\na: 3\n", 'line 3, column 1: the key "a" stands here a second time'],
    ["a list that is not closed", "a: [1, 2\nb: 3\n", /^line 2, column 1: Flow sequence in block collection must be/],
    ["a key twice in a flow map", "a: {b: 1, c: 2, b: 3}", 'line 1, column 17: the key "b" stands here a second time'],
    ["wrong indentation", "a:\n  b: 1\n c: 2\n", /^line 3, column \d+: /],
    ["a tab for indentation", "a:\n\tb: 1\n", /^line 2, column 1: Tabs are not allowed as indentation/],
    ["a quote that is not closed", 'a: "x\n', /^line \d, column \d+: Missing closing "quote/],
    ["an alias to nothing", "a: *nobody\n", /^Unresolved alias .*: nobody$/],
    ["a second document", "a: 1\n---\nb: 2\n", "line 2, column 1: a second document begins here; one is expected"],
  ])("is refused for %s, and says where", (_what, text, expected) => {
    const { faults, value } = readDocument(text);
    expect(value).toBeUndefined();
    expect(faults[0]).toEqual(typeof expected === "string" ? expected : expect.stringMatching(expected));
  });

  it("is refused when its aliases multiply", () => {
    const levels = Array.from({ length: 12 }, (_, level) =>
      level === 0
        ? "a0: &a0 [x]"
        : `a${level}: &a${level} [${Array.from({ length: 9 }, () => `*a${level - 1}`).join(",")}]`,
    );
    expect(readDocument(levels.join("\n")).faults).toEqual([expect.stringMatching(/^Excessive alias count/)]);
  });

  it.each([
    ["flow", "[".repeat(10_000)],
    ["endless flow", "[".repeat(1_000_000)],
    ["JSON", `${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}`],
    ["block", Array.from({ length: 2000 }, (_, depth) => `${" ".repeat(Math.min(depth, 400))}a:`).join("\n")],
  ])("is refused when it is nested without end in %s style, and the process lives", (_style, text) => {
    expect(readDocument(text).faults.length).toBeGreaterThan(0);
  });

  it("with very many keys costs no more than its length", () => {
    const text = Array.from({ length: 20_000 }, (_, index) => `key${index}: 1`).join("\n");
    const startedAt = performance.now();
    expect(readDocument(text).faults).toEqual([]);
    // Comparing each key with each would take a hundred times as long.
    expect(performance.now() - startedAt).toBeLessThan(4_000);
  });

  it("is refused when it is larger than a ConfigMap", () => {
    expect(readDocument(`a: ${"x".repeat(maxDocumentBytes)}`).faults).toEqual([
      `the document is larger than ${maxDocumentBytes} bytes`,
    ]);
  });

  it.each(["", " \n", "# nothing", "---", "null", "~"])("without content is %j, and has no value", (text) => {
    expect(readDocument(text)).toEqual({ value: undefined, faults: [], warnings: [] });
  });

  it("warns of a tag it does not know", () => {
    expect(readDocument("a: !secret x").warnings).toEqual([expect.stringMatching(/^line 1, column 4: Unresolved tag/)]);
  });
});
