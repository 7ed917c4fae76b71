import { describe, expect, it } from "@jest/globals";
import { MemberNames, maxDepth, type Scan, type ScanFault, scanJson } from "../../../src/request/json-scanner.ts";
import fc from "../../properties.ts";

const windowBytes = 65_536;
const names = new MemberNames(["model", "stream", "messages", "a", "é", '"', ""]);

function scan(text: string | Buffer): Scan | ScanFault {
  return scanJson(Buffer.from(text), names);
}

function parse(body: Buffer): { readonly value: unknown } | undefined {
  try {
    return { value: JSON.parse(body.toString()) as unknown };
  } catch {
    return undefined;
  }
}

/** The members JSON.parse finds among those looked for, and those the scan found, each parsed from its own range. */
function expectAgreement(body: Buffer): void {
  const parsed = parse(body);
  const found = scanJson(body, names);
  if (parsed === undefined || "fault" in found) {
    expect({ accepted: !("fault" in found), text: body.toString() }).toEqual({
      accepted: parsed !== undefined,
      text: body.toString(),
    });
    return;
  }
  const isObject = typeof parsed.value === "object" && parsed.value !== null && !Array.isArray(parsed.value);
  expect(found.root).toBe(isObject ? "object" : "other");
  const members = isObject ? (parsed.value as Record<string, unknown>) : {};
  names.names.forEach((name, index) => {
    const start = found.ranges[2 * index] ?? -1;
    const end = found.ranges[2 * index + 1] ?? -1;
    expect(start >= 0).toBe(Object.hasOwn(members, name));
    if (start >= 0) expect(JSON.parse(body.toString("utf8", start, end))).toEqual(members[name]);
  });
}

const key = fc.constantFrom("model", "stream", "messages", "a", "é", '"', "", "other", "__proto__", "mod");
const space = fc.constantFrom("", " ", "\n", "\t\r\n ");
const literal = fc.constantFrom(
  "true",
  "false",
  "null",
  "0",
  "-0",
  "12345678901234567890123",
  "-1.5e+300",
  "1E5",
  "0.10",
  '"\\ud800"',
  '"\\u00e9\\n\\"\\\\"',
  '"日本 \\/ é"',
);

/** A string as one of its spellings: characters may be escaped. */
const spelling = (text: string) =>
  fc.array(fc.boolean(), { minLength: text.length, maxLength: text.length }).map(
    (escaped) =>
      `"${Array.from(text)
        .map((char, i) =>
          escaped[i] === true || char === '"' ? `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}` : char,
        )
        .join("")}"`,
  );

const { value: json } = fc.letrec<{ value: string; array: string; object: string }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    literal,
    tie("array"),
    tie("object"),
    fc.string().map((text) => JSON.stringify(text)),
  ),
  array: fc
    .array(
      fc.tuple(space, tie("value"), space).map((parts) => parts.join("")),
      { maxLength: 4 },
    )
    .map((elements) => `[${elements.join(",")}]`),
  object: fc
    .array(
      fc
        .tuple(space, key.chain(spelling), space, tie("value"), space)
        .map(([before, name, between, value, after]) => `${before}${name}${between}:${value}${after}`),
      { maxLength: 6 },
    )
    .map((members) => `{${members.join(",")}}`),
}));

describe("scanJson", () => {
  it("finds the members that JSON.parse finds, whatever the white space, escapes, repeats and nesting", () => {
    fc.assert(
      fc.property(space, json, space, (before, text, after) => expectAgreement(Buffer.from(before + text + after))),
      { numRuns: 500 },
    );
  });

  it("accepts and rejects as JSON.parse does when a valid text is damaged", () => {
    const damage = fc.tuple(
      fc.nat(),
      fc.nat({ max: 2 }),
      fc.constantFrom(...Array.from('{}[]",:\\u0eE+-. \n\u0000t'), "é", "\u007f"),
    );
    fc.assert(
      fc.property(json, fc.array(damage, { minLength: 1, maxLength: 2 }), (text, damages) => {
        let damaged = text;
        for (const [position, removed, inserted] of damages) {
          const at = position % (damaged.length + 1);
          damaged = damaged.slice(0, at) + inserted + damaged.slice(at + removed);
        }
        expectAgreement(Buffer.from(damaged));
      }),
      { numRuns: 1500 },
    );
  });

  it("accepts and rejects as JSON.parse does on strings of JSON's own characters", () => {
    const char = fc.constantFrom(...Array.from('{{}}[]"",,::\\u01eE+-.truefalsn \n'));
    fc.assert(
      fc.property(fc.string({ unit: char, maxLength: 12 }), (text) => expectAgreement(Buffer.from(text))),
      { numRuns: 2000 },
    );
  });

  it("ends strings where JSON.parse does, whatever the runs of backslashes", () => {
    const unit = fc.oneof(
      { weight: 4, arbitrary: fc.constantFrom("\\\\", '\\"', "\\n", "\\u00e9", "\\", "x", "é") },
      { weight: 1, arbitrary: fc.constantFrom('"', "\\u00g9", "\\x", "\n", "x".repeat(15)) },
    );
    fc.assert(
      fc.property(fc.array(unit, { maxLength: 40 }), fc.nat({ max: 16 }), (units, pad) => {
        expectAgreement(Buffer.from(`{"a":"${"y".repeat(pad)}${units.join("")}"}`));
        expectAgreement(Buffer.from(`{"${units.join("")}":1,"a":2}`));
      }),
      { numRuns: 1500 },
    );
    fc.assert(
      fc.property(fc.array(fc.constantFrom("\\\\", '\\"', "\\/", "x"), { minLength: 12, maxLength: 60 }), (units) => {
        expectAgreement(Buffer.from(`{"a":"${units.join("")}"}`));
      }),
      { numRuns: 1000 },
    );
  });

  it("takes invalid UTF-8 inside strings as JSON.parse takes its decoded form, and nowhere else", () => {
    const bytes = fc.array(fc.oneof(fc.integer({ min: 0x80, max: 0xff }), fc.constantFrom(0x22, 0x20, 0x61, 0x5c)), {
      maxLength: 8,
    });
    fc.assert(
      fc.property(bytes, bytes, (inside, outside) => {
        expectAgreement(
          Buffer.concat([Buffer.from('{"a":"'), Buffer.from(inside), Buffer.from('"}'), Buffer.from(outside)]),
        );
      }),
      { numRuns: 500 },
    );
  });

  const straddling = '"model" : "\\u00e9\\"\\\\x\\n" , "stream":true,"a":[-0.5e+12,{"b":[]}],"messages" :\t"日本"}';
  it.each([...Buffer.from(straddling).keys()])(
    "reads the same when the text runs past the window after byte %i",
    (cut) => {
      const head = '{"pad":"';
      const pad = "x".repeat(windowBytes - head.length - 2 - cut);
      const body = Buffer.from(`${head}${pad}",${straddling}`);
      expectAgreement(body);
      expectAgreement(body.subarray(0, windowBytes));
      expectAgreement(Buffer.concat([body, Buffer.from("x")]));
    },
  );

  it("reads a body of many windows and many members", () => {
    const members = Array.from({ length: 30_000 }, (_, i) => `"k${i}":${i}`);
    expectAgreement(Buffer.from(`{${members.join(",")},"model":"m","a":[${"1,".repeat(100_000)}2]}`));
    expectAgreement(Buffer.from(`{${'"":0,'.repeat(50_000)}"model":"m"}`));
  });

  it.each([
    ["", "truncated", 0],
    ["  ", "truncated", 2],
    ['{"a":1', "truncated", 6],
    ['{"a":"x', "truncated", 7],
    ["-", "truncated", 1],
    ["1.", "truncated", 2],
    ["tru", "truncated", 3],
    ["\ufeff{}", "syntax", 0],
    ["nobody", "syntax", 1],
    ['{"a":01}', "syntax", 6],
    ['{"a":"\u0001"}', "syntax", 6],
    ['{"a":1}}', "trailing", 7],
    ['{"a":1} {"a":2}', "trailing", 8],
    ["[1]x", "trailing", 3],
    ["1 2", "trailing", 2],
  ])("says what is wrong with %j and where", (text, fault, offset) => {
    expect(scan(text)).toEqual({ fault, offset });
  });

  it("accepts nesting up to maxDepth and refuses one level more", () => {
    const nested = (depth: number) => `{"a":${"[".repeat(depth - 1)}${"]".repeat(depth - 1)}}`;
    expect(scan(nested(maxDepth))).toMatchObject({ root: "object" });
    expect(scan(nested(maxDepth + 1))).toEqual({ fault: "depth", offset: 5 + maxDepth - 1 });
    // a refused text leaves nothing behind for the next one
    expectAgreement(Buffer.from('{"a":1}'));
  });

  it("reports the values that a repeated key replaced, in order", () => {
    const text = '{"model":1,"stream":2,"mod\\u0065l":33,"model":4}';
    const found = scan(text);
    if ("fault" in found) throw new Error("rejected");
    expect([found.ranges[0], found.ranges[1]]).toEqual([text.indexOf("4"), text.indexOf("4") + 1]);
    expect(found.repeated).toEqual([0, 9, 10, 0, text.indexOf("33"), text.indexOf("33") + 2]);
  });

  it("remembers a bounded number of repeats of a key repeated without end", () => {
    const found = scan(`{${'"model":1,'.repeat(10_000)}"model":2}`);
    if ("fault" in found) throw new Error("rejected");
    expect(found.repeated?.length).toBe(3 * 64);
  });
});
