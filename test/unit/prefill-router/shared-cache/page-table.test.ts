/** The table of pages against a plain model. */
import { describe, expect, it } from "@jest/globals";
import { PageTable } from "../../../../src/prefill-router/shared-cache/page-table.ts";
import fc from "../../../properties.ts";

describe("the table of pages", () => {
  it.each([1, 2, 32, 33, 100])("does as sets of parts do, with %d parts a page", (parts) => {
    const change = fc.record({
      page: fc.integer({ min: 0, max: 5 }),
      part: fc.integer({ min: 0, max: parts - 1 }),
      does: fc.constantFrom("add", "fill", "remove", "clear"),
    });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
        const table = new PageTable(parts, 4);
        const model = new Map<number, Set<number>>();
        const add = (page: number, part: number): void => {
          const known = model.get(page) ?? new Set();
          const hasRoom = known.size > 0 || model.size < 4;
          expect(table.add(String(page), part)).toBe(hasRoom);
          if (hasRoom) model.set(page, known.add(part));
        };
        for (const { page, part, does } of changes) {
          if (does === "add") add(page, part);
          if (does === "fill") for (let each = 0; each < parts; each++) add(page, each);
          if (does === "remove") {
            table.remove(String(page), part);
            model.get(page)?.delete(part);
            if (model.get(page)?.size === 0) model.delete(page);
          }
          if (does === "clear") {
            table.clear();
            model.clear();
          }
          expect(table.size).toBe(model.size);
          for (let each = 0; each <= 5; each++) expect(table.has(String(each))).toBe(model.get(each)?.size === parts);
        }
      }),
    );
  });

  it("grows", () => {
    const table = new PageTable(2, 100_000);
    for (let page = 0; page < 10_000; page++) table.add(String(page), page % 2);
    for (let page = 0; page < 10_000; page += 3) table.add(String(page), 1 - (page % 2));
    for (let page = 0; page < 10_000; page++) expect(table.has(String(page))).toBe(page % 3 === 0);
  });
});
