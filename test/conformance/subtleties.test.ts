/** Every subtle behaviour of the reference's protocol (1 to 21) and scheduling (22 to 33) has a test that is named after it. */
import { globSync, readFileSync } from "node:fs";
import { expect, it } from "@jest/globals";
import { packageRoot } from "../../src/app/envoy.ts";

it.each([
  ["Protocol", 1, 21],
  ["Scheduling", 22, 33],
])("%s %i to %i each have a test of that name", (area, from, to) => {
  const sources = globSync("test/**/*.test.ts", { cwd: packageRoot }).map((file) =>
    readFileSync(`${packageRoot}/${file}`, "utf8"),
  );
  const named = new Set(
    sources.flatMap((text) =>
      [...text.matchAll(/["`](Protocol|Scheduling) (\d+):/g)].map(([, found, n]) => `${found} ${n}`),
    ),
  );
  const wanted = Array.from({ length: to - from + 1 }, (_, i) => `${area} ${from + i}`);
  expect(wanted.filter((name) => !named.has(name))).toEqual([]);
});
