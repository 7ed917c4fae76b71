import { describe, expect, it } from "@jest/globals";
import fc from "../../../properties.ts";
import { byteLevelModels, byteLevelTokenizer, nativeTokenizer } from "../models.ts";

const written = [
  "",
  " ",
  "Hello, world! It's what we'll say; they'RE here, I'D go, 'S 'ſ 'Ll.",
  "  leading and trailing   \n\n \t x \r\n\r\n  y\n ",
  "tabs\t\tand\u00a0no-break\u2003spaces\u0085next\ufeffbom\u200bzero",
  "1 12 123 1234 12345678901234567890 ½ Ⅻ ٣٤٥ १२३",
  "naïve cafe\u0301 e\u0301\u0323 A\u030a \u1100\u1161\u11a8 ﬁ Ω Å",
  "日本語のテキスト 中文文本 한국어 العربية עברית ไทย हिन्दी",
  "😀👍🏽👨‍👩‍👧‍👦 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \u{10ffff}",
  "lone \ud800 high, lone \udc00 low, \udc00\ud800 swapped",
  "nul \0 in the middle\0\0",
  "<|im_start|>user\n<|im_end|><|eot_id|>a<|begin_of_text|>b<mask>  c  <mask>d <tail>  e<tail>f",
  '<tool_call>{"a": 1}</tool_call><think>\n</think> <|im_start <|im_start|<|im_start|>|>',
  "<｜User｜>hi<｜Assistant｜><｜tool▁calls▁begin｜> x",
  '!!!???...---***   ###//\n///path/to/file.ts:12:3 @#$%^&*()_+{}|:"<>?~`',
  "snake_case camelCase PascalCase HTTPServer XMLHttpRequest iPhone McDonald's",
  "Ǆ ǅ ǆ ʰ ª º ᾼ ⅷ ⓐ 🄰 ʕ \u0378 \u{1fad7}",
  "\u088f \u{323b0}\u{16ea0} newer than the reference",
];

const fragments = fc.constantFrom(
  "<|im_start|>",
  "<|im_end|>",
  "<|eot_id|>",
  "<|begin_of_text|>",
  "<mask>",
  "<tail>",
  "<｜User｜>",
  "<think>",
  "<s>",
  "</s>",

  "'s",
  "'LL",
  " ",
  "  ",
  "\n",
  "\r\n",
  "\n\n",
  "\t",
  " the",
  "Signal",
  "123",
  "1234567",
  "é",
  "e\u0301",
  "日本",
  "ไทย",
  "😀",
  "\u200d",
);
const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 40 }),
  fc.string({ unit: "grapheme", maxLength: 40 }),
  fc.string({ unit: fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit)), maxLength: 30 }),
  fc
    .array(fc.oneof(fragments, fragments, fc.string({ maxLength: 8 })), { maxLength: 25 })
    .map((parts) => parts.join("")),
);

/** A text that our tokenizer leaves to the native one has no ids to compare. */
function idsOrUnsure(encode: () => Uint32Array): number[] | "unsure" {
  try {
    return [...encode()];
  } catch (error) {
    if ((error as { code?: unknown }).code === "unsure_text") return "unsure";
    throw error;
  }
}

describe.each(byteLevelModels)("byte-level BPE of %s", (model) => {
  const ours = byteLevelTokenizer(model);
  const caching = byteLevelTokenizer(model, 1 << 20);
  const native = nativeTokenizer(model);

  it.each(written)("gives the native tokenizer's ids for %j", async (text) => {
    const expected = await native.encode(text);
    const ids = idsOrUnsure(() => ours.encode(text));
    if (ids === "unsure") expect(text).toMatch(/[\u088f\u{10000}-\u{10ffff}]/u);
    else expect(ids).toEqual(expected);
  });

  it("gives the native tokenizer's ids for any text, with and without a cache of segments", async () => {
    await fc.assert(
      fc.asyncProperty(anyText, fc.boolean(), async (text, withSpecialTokens) => {
        const ids = idsOrUnsure(() => ours.encode(text, withSpecialTokens));
        if (ids === "unsure") return;
        expect(ids).toEqual(await native.encode(text, withSpecialTokens));
        // What follows itself can be unsure where it is not alone: its end and its beginning are one segment then.
        const repeated = text.repeat(3);
        const expected = idsOrUnsure(() => ours.encode(repeated, withSpecialTokens));
        for (let time = 0; time < 2; time++)
          expect(idsOrUnsure(() => caching.encode(repeated, withSpecialTokens))).toEqual(expected);
      }),
      { numRuns: 250 },
    );
  });

  it("gives the native tokenizer's ids for a word of many thousand letters", async () => {
    const letters = "thequickbrownfoxétränslation".repeat(400);
    expect([...ours.encode(letters)]).toEqual(await native.encode(letters));
    const same = "a".repeat(20_000);
    expect([...ours.encode(same)]).toEqual(await native.encode(same));
  });

  it("takes back its own ids", () => {
    const text = "Hello, wörld! 日本 <|im_start|> 123\n";
    expect(ours.decode(ours.encode(text)).trimStart()).toBe(text);
  });
});
