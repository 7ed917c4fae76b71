/** Samples, numbers and labels read from bytes, and finding them in pages that move. */
import { describe, expect, it } from "@jest/globals";
import { labelValue, parseNumber, readSample, Sample } from "../../../../src/data/scrape/exposition.ts";
import { type SampleSink, SeriesFinder } from "../../../../src/data/scrape/series-finder.ts";
import fc from "../../../properties.ts";
import { type ModelSample, modelSamples, numberOf } from "./page-reader.ts";
import { vllmPage } from "./vllm-page.ts";

function number(text: string): number {
  const bytes = Buffer.from(`x${text} `);
  return parseNumber(bytes, 1, bytes.length - 1);
}

describe("a number", () => {
  it.each([
    ["0", 0],
    ["-0.0", -0],
    ["12.0", 12],
    ["+7", 7],
    [".5", 0.5],
    ["5.", 5],
    ["0.1", 0.1],
    ["1.7e+09", 1.7e9],
    ["2E-3", 0.002],
    ["1763726400.1234567", 1763726400.1234567],
    ["0.30000000000000004", 0.30000000000000004],
    ["9007199254740993", 9007199254740992],
    ["+Inf", Number.POSITIVE_INFINITY],
    ["-inf", Number.NEGATIVE_INFINITY],
    ["Infinity", Number.POSITIVE_INFINITY],
  ])("%s is read as %p", (text, value) => {
    expect(number(text)).toBe(value);
  });

  it.each(["", "-", ".", "NaN", "nan", "1.2.3", "0x10", "1e", "e5", "1_000", "12a", "--1", "⑤"])(
    "%p is none",
    (text) => {
      expect(number(text)).toBeNaN();
    },
  );

  it("is what JavaScript reads, whatever its digits", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.double({ noNaN: true, noDefaultInfinity: true }),
          fc.integer().map((value) => value / 1000),
        ),
        (value) => {
          expect(number(String(value))).toBe(Number(String(value)));
        },
      ),
    );
    fc.assert(
      fc.property(fc.stringMatching(/^[-+]?[0-9]{0,20}\.?[0-9]{0,20}(e[-+]?[0-9]{1,3})?$/), (text) => {
        expect(number(text)).toBe(numberOf(text));
      }),
    );
  });
});

describe("a sample line", () => {
  it.each([
    [" 5", 5],
    ["\t5\t", 5],
    ["{} 5", 5],
    ['{a="b"} 5', 5],
    ['{a="b",} 5', 5],
    ['{a="}{ \\" \\\\"}5', 5],
    [' { a = "b" }  5  1763726400000', 5],
    [" 5 -1", 5],
    [' 5 # {trace="x"} 1', 5],
    [" 5\r", 5],
    [" NaN", undefined],
    [" five", undefined],
    [" ", undefined],
    ['{a="b" 5', undefined],
    ['{a="b} 5', undefined],
    [" 5 soon", undefined],
    [" 5 1 2", undefined],
  ])("that goes on with %p counts %p, and the next line is found", (rest, value) => {
    const page = Buffer.from(`name${rest}\nnext 1\n`);
    const sample = new Sample();
    expect(readSample(page, 4, sample) ? sample.value : undefined).toBe(value);
    expect(page.toString("latin1", sample.next)).toBe("next 1\n");
    const last = Buffer.from(`name${rest}`);
    expect(readSample(last, 4, sample) ? sample.value : undefined).toBe(value);
    expect(sample.next).toBe(last.length);
  });
});

describe("a label", () => {
  it.each([
    ['a="b"', "a", "b"],
    ['x="1",a="b"', "a", "b"],
    [' x = "1" , a = "b" ,', "a", "b"],
    ['a=""', "a", ""],
    ['a="\\"\\\\\\n\\t"', "a", '"\\\n\\t'],
    ['x="a=\\"no\\"",a="yes"', "a", "yes"],
    ['aa="1",a="2"', "a", "2"],
    ['a="1",a="2"', "a", "1"],
    ['a="Größe 模型"', "a", "Größe 模型"],
    ['a="b"', "b", undefined],
    ["", "a", undefined],
    ["a", "a", undefined],
    ["a=b", "a", undefined],
    ['a="b', "a", undefined],
    ['x="1"a="2"', "a", undefined],
  ])("in %p: %s is %p", (text, name, value) => {
    const page = Buffer.from(`{${text}}`);
    expect(labelValue(page, 1, page.length - 1, name)).toBe(value);
  });
});

class Collector implements SampleSink {
  readonly #names: readonly string[];
  readonly #labels: readonly string[];
  samples: ModelSample[] = [];

  constructor(names: readonly string[], labels: readonly string[]) {
    this.#names = names;
    this.#labels = labels;
  }

  begin(): void {
    this.samples = [];
  }

  sample(name: number, page: Buffer, sample: Sample): void {
    const labels: Record<string, string> = {};
    for (const label of this.#labels) {
      const value = labelValue(page, sample.labelsStart, sample.labelsEnd, label);
      if (value !== undefined) labels[label] = value;
    }
    this.samples.push({ name: this.#names[name] ?? "", labels, value: sample.value });
  }
}

function inOrder(samples: readonly ModelSample[]): readonly string[] {
  return samples
    .map((sample) => `${sample.name} ${JSON.stringify(sample.labels)} ${sample.value}`)
    .toSorted((a, b) => (a < b ? -1 : 1));
}

function wanted(page: string, names: readonly string[]): readonly string[] {
  return inOrder(modelSamples(page).filter((sample) => names.includes(sample.name)));
}

function finderOf(names: readonly string[], labels: readonly string[]): { finder: SeriesFinder; collector: Collector } {
  return {
    finder: new SeriesFinder(names.map((name) => ({ name, isConstant: false }))),
    collector: new Collector(names, labels),
  };
}

describe("the series finder", () => {
  const names = ["vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"];

  it("finds in any page of sane and broken lines what a plain parser finds", () => {
    const name = fc.constantFrom("m", "m_total", "metric", "me", "other", "# HELP m", "# TYPE m", " m", "");
    const labels = fc.constantFrom("", "{}", '{a="b"}', '{a="x y",b="}"}', '{a="\\"\\\\n",}', '{a="b', "{", '{b="Ö"}');
    const value = fc.constantFrom(
      " 1",
      " 2.5",
      " 1e3",
      " NaN",
      " +Inf",
      "",
      " x",
      " 1 1700000000000",
      " 1 2 3",
      "\t4\t",
      " 7\r",
      " 8 # {} 1",
    );
    const line = fc.tuple(name, labels, value).map((parts) => parts.join(""));
    const page = fc
      .tuple(fc.array(line, { maxLength: 30 }), fc.constantFrom("", "\n"))
      .map(([lines, end]) => lines.join("\n") + end);
    fc.assert(
      fc.property(page, (text) => {
        const { finder, collector } = finderOf(["m", "metric"], ["a", "b"]);
        finder.read(Buffer.from(text), 0, collector);
        expect(inOrder(collector.samples)).toEqual(wanted(text, ["m", "metric"]));
      }),
      { numRuns: 1000 },
    );
  });

  it("follows pages whose numbers grow and shrink and whose runs gain and lose lines", () => {
    const run = fc.array(
      fc.tuple(fc.constantFrom("x", "yy", "zzz"), fc.double({ noNaN: true, noDefaultInfinity: true })),
      { minLength: 1, maxLength: 5 },
    );
    const noise = fc.nat({ max: 900 });
    const page = fc.tuple(noise, run, noise, run, noise);
    const lines = (name: string, samples: readonly (readonly [string, number])[]): string =>
      samples.map(([label, value]) => `${name}{a="${label}"} ${value}\n`).join("");
    fc.assert(
      fc.property(fc.array(page, { minLength: 2, maxLength: 20 }), (pages) => {
        const { finder, collector } = finderOf(["wanted_one", "wanted_two"], ["a"]);
        for (const [index, [before, one, between, two, after]] of pages.entries()) {
          const text = `# ${"-".repeat(before)}\n${lines("wanted_one", one)}# ${"-".repeat(between)}\nwanted_two_total 5\n${lines("wanted_two", two)}# ${"-".repeat(after)}\n`;
          finder.read(Buffer.from(text), index * 300, collector);
          expect(inOrder(collector.samples)).toEqual(wanted(text, ["wanted_one", "wanted_two"]));
        }
      }),
      { numRuns: 300 },
    );
  });

  it("never counts a line twice, however pages change their shape", () => {
    const line = fc.constantFrom("wanted 1", "wanted 22", "other 1", "also_wanted 3", "# comment", "wanted_total 5");
    fc.assert(
      fc.property(fc.array(fc.array(line, { maxLength: 12 }), { minLength: 2, maxLength: 10 }), (pages) => {
        const { finder, collector } = finderOf(["wanted", "also_wanted"], []);
        for (const [round, lines] of pages.entries()) {
          const text = `${lines.join("\n")}\n`;
          const searched = finder.read(Buffer.from(text), round * 700, collector);
          const left = [...wanted(text, ["wanted", "also_wanted"])];
          for (const sample of inOrder(collector.samples)) {
            const index = left.indexOf(sample);
            expect(index).toBeGreaterThanOrEqual(0);
            left.splice(index, 1);
          }
          if (searched) expect(left).toEqual([]);
        }
      }),
      { numRuns: 1000 },
    );
  });

  it("reads an engine's page by known places and searches the whole page only now and then", () => {
    const { finder, collector } = finderOf(names, ["engine"]);
    let searches = 0;
    for (let round = 0; round < 64; round++) {
      const text = vllmPage(
        { waiting: round % 7, running: round % 13, kvUsage: round / 64, requests: 5 + round ** 3 },
        2,
      );
      if (finder.read(Buffer.from(text), round * 50, collector)) searches++;
      expect(inOrder(collector.samples)).toEqual(
        wanted(text, names).map((line) => line.replace(/,"model_name":"[^"]*"/, "")),
      );
    }
    // At 0 s and at 2 s.
    expect(searches).toBe(2);
  });

  it("starts over when a run has gone", () => {
    const { finder, collector } = finderOf(["a_metric", "b_metric"], []);
    finder.read(Buffer.from("a_metric 1\nb_metric 2\n"), 0, collector);
    expect(finder.read(Buffer.from("a_metric 3\n"), 0, collector)).toBe(true);
    expect(inOrder(collector.samples)).toEqual(["a_metric {} 3"]);
  });

  it.each([50, 700, 5_000])(
    "sees a name that appears anew within two seconds or a page (a page every %i ms)",
    (everyMs) => {
      const { finder, collector } = finderOf(["a_metric", "b_metric"], []);
      finder.read(Buffer.from("a_metric 1\n"), 0, collector);
      let nowMs = 0;
      do {
        nowMs += everyMs;
        finder.read(Buffer.from("a_metric 1\nb_metric 2\n"), nowMs, collector);
      } while (collector.samples.length < 2 && nowMs < 10_000);
      expect(nowMs).toBe(Math.ceil(2_000 / everyMs) * everyMs);
    },
  );

  it("reads no more than ten thousand lines of a page, in one run or in many", () => {
    for (const page of ["a_metric 1\n".repeat(50_000), "a_metric 1\nb_metric 2\n".repeat(25_000)]) {
      const { finder, collector } = finderOf(["a_metric", "b_metric"], []);
      finder.read(Buffer.from(page), 0, collector);
      expect(collector.samples).toHaveLength(10_000);
      finder.read(Buffer.from(page), 0, collector);
      expect(collector.samples).toHaveLength(10_000);
    }
  });

  it("reads constant names only when it searches", () => {
    const finder = new SeriesFinder([
      { name: "moving", isConstant: false },
      { name: "constant", isConstant: true },
    ]);
    const collector = new Collector(["moving", "constant"], []);
    const page = Buffer.from("moving 1\nconstant 2\n");
    finder.read(page, 0, collector);
    expect(collector.samples).toHaveLength(2);
    finder.read(page, 0, collector);
    expect(collector.samples).toHaveLength(1);
  });
});
